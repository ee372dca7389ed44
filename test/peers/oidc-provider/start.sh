#!/bin/bash
# oidc-provider (npm, a certified OpenID provider) as an upstream identity provider.
#   start.sh DIR PORT     one listener, 127.0.0.1:PORT (plain HTTP, or TLS=1: a CA of its own in DIR/ca.pem)
# Users (password = name + "-pw"): see users/PROFILE.json; default alice, bob, unverified, nomail, many, zoe.
# Clients (secret broker-secret): broker (basic), broker-post, broker-public (none), broker-pkjwt (DIR/client-key.pem).
# Options (environment):
#   PROFILE=default|gitlab|google   REDIRECT_URIS=a,b (unset: every loopback URL)   POST_LOGOUT_URIS=a,b
#   BACKCHANNEL_LOGOUT_URI=URL   CONSENT=1 (a consent page)   PKCE=0 (not required)   REFRESH=0   TTL=seconds (3600)
#   CLIENT_KEY=FILE (the key of broker-pkjwt; unset: a new one)
#   ALG=RS256|PS256|ES256|EdDSA   CLAIMS=both|userinfo   HOSTILE=a,b (see hostile.js; POST /control?hostile=a,b)
# While it runs: POST /control/rotate[?keep=0]  a new signing key (keep=0: the old one leaves the JWKS).
set -eu
[ $# -eq 2 ] || { echo "usage: $0 DIR PORT" >&2; exit 2; }
HERE=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$1"; DIR=$(cd "$1" && pwd); PORT=$2
"$HERE/stop.sh" "$DIR" >/dev/null
if (exec 3<>"/dev/tcp/127.0.0.1/$PORT") 2>/dev/null; then echo "port $PORT is taken"; exit 1; fi

for TOOL in node npm curl openssl; do command -v $TOOL >/dev/null || NEED="${NEED:-} ${TOOL/node/nodejs}"; done
[ -z "${NEED:-}" ] || DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 install -y -qq \
  --no-install-recommends $NEED >"$DIR/install.log" 2>&1 || { tail -5 "$DIR/install.log"; exit 1; }

# The modules are installed once, by test/e2e/install.sh.
MODULES=$HERE/../../../.peers/oidc-provider/node_modules
[ -e "$MODULES/oidc-provider" ] || { echo "$MODULES is missing: install it with: test/e2e/install.sh core"; exit 1; }
mkdir -p "$DIR/app"
ln -sfn "$(cd "$MODULES" && pwd)" "$DIR/app/node_modules"
cp "$HERE/package.json" "$DIR/app/"
cp -r "$HERE"/*.js "$HERE/users" "$DIR/app/"

[ -z "${CLIENT_KEY:-}" ] || cp "$CLIENT_KEY" "$DIR/client-key.pem"
[ -s "$DIR/client-key.pem" ] || openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out "$DIR/client-key.pem" 2>/dev/null
SCHEME=http; CURL=(curl -fsS)
if [ "${TLS:-0}" = 1 ]; then
  SCHEME=https; CURL+=(--cacert "$DIR/ca.pem")
  [ -s "$DIR/tls.pem" ] || (cd "$DIR" && {
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 3650 -subj "/CN=peer CA" -keyout ca.key -out ca.pem
    openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=127.0.0.1 -keyout tls.key -out tls.csr
    printf 'subjectAltName=IP:127.0.0.1,DNS:localhost\nextendedKeyUsage=serverAuth\n' >tls.ext
    openssl x509 -req -in tls.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 3650 -extfile tls.ext -out tls.pem
  } 2>/dev/null)
fi

export PEER_DIR=$DIR PORT ISSUER=$SCHEME://127.0.0.1:$PORT TLS=${TLS:-0} PROFILE=${PROFILE:-default}
(cd "$DIR/app" && exec node server.js) </dev/null >"$DIR/server.log" 2>&1 &
echo $! >"$DIR/pid"

for _ in $(seq 120); do
  if "${CURL[@]}" "$ISSUER/.well-known/openid-configuration" -o "$DIR/discovery.json" 2>/dev/null; then
    cat >"$DIR/env" <<END
OIDC_ISSUER=$ISSUER
OIDC_CLIENT_ID=broker
OIDC_CLIENT_SECRET=broker-secret
OIDC_CLIENT_IDS="broker broker-post broker-public broker-pkjwt"
OIDC_CLIENT_KEY_FILE=$DIR/client-key.pem
OIDC_CLIENT_KEY_ID=client-1
OIDC_SCOPES="openid profile email groups offline_access"
OIDC_CA_FILE=$([ "$SCHEME" = https ] && echo "$DIR/ca.pem" || true)
OIDC_CONTROL_URL=$ISSUER/control
OIDC_PROFILE=$PROFILE
OIDC_USERS="$(node -p 'Object.keys(JSON.parse(require("fs").readFileSync(process.argv[1]))).map((u) => `${u}:${u}-pw`).join(" ")' "$HERE/users/$PROFILE.json")"
END
    echo "oidc-provider ($PROFILE) is ready: $ISSUER"; exit 0
  fi
  kill -0 "$(cat "$DIR/pid")" 2>/dev/null || break
  sleep 0.5
done
echo "oidc-provider did not start:"; tail -20 "$DIR/server.log"
"$HERE/stop.sh" "$DIR"; exit 1
