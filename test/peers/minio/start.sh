#!/bin/bash
# MinIO (S3, AGPL: a test peer, never linked), from .peers/minio/bin, where test/e2e/install.sh puts it.
#   start.sh DIR PORT     TLS=1: https, with a CA of its own in DIR/ca.pem
# Root account: peeradmin / peeradmin-secret. There are no buckets yet. `bin/mc` is not needed: the tests make what they use.
set -eu
HERE=$(dirname "$(readlink -f "$0")")
. "$HERE/../peerlib/lib.sh"
peer_init "${1:-}"; PORT=${2:?usage: start.sh DIR PORT}
BIN=$HERE/../../../.peers/minio/bin/minio
[ -x "$BIN" ] || die "$BIN is missing: install it with: test/e2e/install.sh core"
peer_fresh; port_free "$PORT"
mkdir -p "$DIR/data" "$DIR/certs"
SCHEME=http
if [ "${TLS:-0}" = 1 ]; then
  SCHEME=https
  cd "$DIR"
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 3650 -subj "/CN=peer CA" -keyout ca.key -out ca.pem 2>/dev/null
  openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=127.0.0.1 -keyout certs/private.key -out tls.csr 2>/dev/null
  printf 'subjectAltName=IP:127.0.0.1,DNS:localhost\nextendedKeyUsage=serverAuth\n' >tls.ext
  openssl x509 -req -in tls.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 3650 -extfile tls.ext -out certs/public.crt 2>/dev/null
fi
export MINIO_ROOT_USER=peeradmin MINIO_ROOT_PASSWORD=peeradmin-secret MINIO_UPDATE=off MINIO_BROWSER=off MINIO_CI_CD=1 HOME=$DIR
launch minio "$BIN" server --address "127.0.0.1:$PORT" --certs-dir "$DIR/certs" "$DIR/data"
wait_http "$SCHEME://127.0.0.1:$PORT/minio/health/ready" 90
cat >"$DIR/env" <<V
S3_ENDPOINT=127.0.0.1:$PORT
S3_SCHEME=$SCHEME
S3_ACCESS_KEY=peeradmin
S3_SECRET_KEY=peeradmin-secret
S3_CA_FILE=$([ "$SCHEME" = https ] && echo "$DIR/ca.pem" || true)
V
echo "minio ready: $SCHEME://127.0.0.1:$PORT"
