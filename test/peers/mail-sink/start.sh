#!/bin/bash
# A mail server that keeps what it takes: aiosmtpd (PyPI), with its own SMTP, STARTTLS and AUTH. Usage: start.sh DIR PORT
# Ports: PORT smtp (STARTTLS, and AUTH after it), PORT+1 smtps. Account peer / peer-mail. DIR/tls/ca.pem signs localhost and 127.0.0.1.
# Mail is a line of JSON each in DIR/mail.jsonl. busy@ is refused with 451, greylist@ once, nobody@ with 550, full@ with 552.
# Env: SMTP_REQUIRE_AUTH=1 (530 without), SMTP_REQUIRE_TLS=1
set -eu
HERE=$(dirname "$(readlink -f "$0")")
. "$HERE/../peerlib/lib.sh"
peer_init "${1:-}"; PORT=${2:?usage: start.sh DIR PORT}
PYTHON=$HERE/../../../.peers/mail-sink/venv/bin/python
[ -x "$PYTHON" ] || die "aiosmtpd is not installed: test/e2e/install.sh core"
if [ ! -s "$DIR/tls/cert.pem" ]; then
  mkdir -p "$DIR/tls"
  (
    cd "$DIR/tls"
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 -subj /CN=mail-sink-ca -keyout ca.key -out ca.pem
    openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=localhost -keyout key.pem -out csr.pem
    printf 'subjectAltName=DNS:localhost,IP:127.0.0.1\nextendedKeyUsage=serverAuth\n' >ext
    openssl x509 -req -in csr.pem -CA ca.pem -CAkey ca.key -CAcreateserial -days 30 -extfile ext -out cert.pem
  ) >"$DIR/tls.log" 2>&1 || die "openssl"
fi
peer_fresh; port_free "$PORT" $((PORT + 1))
launch smtp "$PYTHON" "$HERE/smtp_sink.py" "$DIR" "$PORT" $((PORT + 1))
wait_tcp "$PORT" 60; wait_tcp $((PORT + 1)) 60
cat >"$DIR/env" <<V
SMTP_HOST=127.0.0.1
SMTP_PORT=$PORT
SMTPS_PORT=$((PORT + 1))
SMTP_CA=$DIR/tls/ca.pem
SMTP_USER=peer
SMTP_PASSWORD=peer-mail
MAIL=$DIR/mail.jsonl
V
echo "mail-sink ready: smtp $PORT, smtps $((PORT + 1))"
