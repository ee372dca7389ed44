#!/bin/bash
# SimpleSAMLphp 1.19 (Debian package) as a SAML 2.0 identity provider, on PHP's built-in server.
#   start.sh DIR PORT     one listener, 127.0.0.1:PORT; it writes DIR/env, DIR/pid, DIR/log/*
# Users (password = the name followed by "-pw"): alice (groups staff, admins), bob (staff),
#   nomail (no mail attribute), many (40 groups), zoe (non-ASCII names, XML metacharacters).
# HOST=localhost|127.0.0.1 in its addresses: with localhost it is another site than a broker on 127.0.0.1.
# Options (environment), all may be combined; start again with others on the same DIR to change them:
#   SIGN=both|response|assertion|none   ENCRYPT=1 (always AES-128-CBC with RSA-OAEP)
#   NAMEID=persistent|transient|email|unspecified (forced; unset: what the SP asks for, else persistent)
#   SIGALG=rsa-sha256|rsa-sha512|rsa-sha1   LIFETIME=seconds of an assertion (300)
#   REQUIRE_SIGNED=1 (refuse unsigned AuthnRequests and logout messages)   SLO=0 (no logout endpoint)
set -eu
[ $# -eq 2 ] || { echo "usage: $0 DIR PORT" >&2; exit 2; }
HERE=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$1"; DIR=$(cd "$1" && pwd); PORT=$2
"$HERE/stop.sh" "$DIR" >/dev/null
if (exec 3<>"/dev/tcp/127.0.0.1/$PORT") 2>/dev/null; then echo "port $PORT is taken"; exit 1; fi

if [ ! -d /usr/share/simplesamlphp/www ] || ! php -m 2>/dev/null | grep -qx xml; then
  # Only the Apache module libraries come along, no service.
  DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 install -y -qq --no-install-recommends \
    simplesamlphp php-cli php-xml php-mbstring php-curl php-sqlite3 openssl curl >"$DIR/install.log" 2>&1 ||
    { echo "cannot install simplesamlphp:"; tail -5 "$DIR/install.log"; exit 1; }
fi

mkdir -p "$DIR"/{cert,config,metadata/sp.d,log,tmp,data,sessions,www}
ln -sfn /usr/share/simplesamlphp/www "$DIR/www/simplesaml"
[ -s "$DIR/cert/idp.pem" ] || openssl req -x509 -newkey rsa:2048 -nodes -days 3650 -subj /CN=simplesamlphp-idp \
  -keyout "$DIR/cert/idp.pem" -out "$DIR/cert/idp.crt" 2>/dev/null
[ -s "$DIR/salt" ] || openssl rand -hex 16 >"$DIR/salt"
cp "$HERE"/config/*.php "$DIR/config/"
cp "$HERE"/metadata/*.php "$DIR/metadata/"

export PEER_DIR=$DIR PEER_BASE=http://${HOST:-localhost}:$PORT/simplesaml/ SIMPLESAMLPHP_CONFIG_DIR=$DIR/config
export SIGN=${SIGN:-both} ENCRYPT=${ENCRYPT:-0} NAMEID=${NAMEID:-} \
  SIGALG=${SIGALG:-rsa-sha256} LIFETIME=${LIFETIME:-300} REQUIRE_SIGNED=${REQUIRE_SIGNED:-0} SLO=${SLO:-1}
# setsid: the server's workers form one process group, which stop.sh ends as a whole.
PHP_CLI_SERVER_WORKERS=3 setsid php -d opcache.enable=0 -d session.save_path="$DIR/sessions" -d error_reporting=0 -d display_errors=0 \
  -S "127.0.0.1:$PORT" -t "$DIR/www" </dev/null >"$DIR/log/server.log" 2>&1 &
echo $! >"$DIR/pid"

META=${PEER_BASE}saml2/idp/metadata.php
for _ in $(seq 120); do
  if curl -fsS "$META" -o "$DIR/idp-metadata.xml" 2>/dev/null; then
    cat >"$DIR/env" <<END
SAML_IDP_ENTITY_ID=$META
SAML_IDP_METADATA_URL=$META
SAML_IDP_METADATA_FILE=$DIR/idp-metadata.xml
SAML_IDP_SSO_URL=${PEER_BASE}saml2/idp/SSOService.php
SAML_IDP_SLO_URL=${PEER_BASE}saml2/idp/SingleLogoutService.php
SAML_IDP_INITIATED_URL=${PEER_BASE}saml2/idp/SSOService.php?spentityid=
SAML_IDP_CERT_FILE=$DIR/cert/idp.crt
SAML_USERS="alice:alice-pw bob:bob-pw nomail:nomail-pw many:many-pw zoe:zoe-pw"
END
    echo "simplesamlphp is ready: $META"; exit 0
  fi
  kill -0 "$(cat "$DIR/pid")" 2>/dev/null || break
  sleep 0.5
done
echo "simplesamlphp did not start:"; tail -20 "$DIR"/log/*.log
"$HERE/stop.sh" "$DIR"; exit 1
