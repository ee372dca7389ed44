#!/bin/bash
# Versity S3 Gateway over a folder (Apache-2.0): a second implementation of S3, from .peers/versitygw/bin, where
# test/e2e/install.sh puts it.
#   start.sh DIR PORT
# Root account: peeradmin / peeradmin-secret. There are no buckets yet.
set -eu
HERE=$(dirname "$(readlink -f "$0")")
. "$HERE/../peerlib/lib.sh"
peer_init "${1:-}"; PORT=${2:?usage: start.sh DIR PORT}
BIN=$HERE/../../../.peers/versitygw/bin/versitygw
[ -x "$BIN" ] || die "$BIN is missing: install it with: test/e2e/install.sh core"
peer_fresh; port_free "$PORT"
mkdir -p "$DIR/data" "$DIR/sidecar" "$DIR/versions"
export ROOT_ACCESS_KEY=peeradmin ROOT_SECRET_KEY=peeradmin-secret
launch versitygw "$BIN" --port "127.0.0.1:$PORT" --region us-east-1 --health /health posix --sidecar "$DIR/sidecar" --versioning-dir "$DIR/versions" "$DIR/data"
wait_http "http://127.0.0.1:$PORT/health" 60
cat >"$DIR/env" <<V
S3_ENDPOINT=127.0.0.1:$PORT
S3_SCHEME=http
S3_ACCESS_KEY=peeradmin
S3_SECRET_KEY=peeradmin-secret
S3_CA_FILE=
V
echo "versitygw ready: http://127.0.0.1:$PORT"
