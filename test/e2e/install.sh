#!/usr/bin/env bash
# install.sh core|full: what the end-to-end tests need, by package name; repeatable.
# A package that cannot be had is an error that names the command: no test is skipped for want of a peer.
set -euo pipefail
what=${1:-core}
cd "$(dirname "$0")/../.."

missing=()
need() { # COMMAND-OR-FILE PACKAGE...
  local probe=$1; shift
  if [[ $probe == /* ]]; then [ -e "$probe" ] && return 0; else PATH=$PATH:/usr/sbin command -v "$probe" >/dev/null 2>&1 && return 0; fi
  missing+=("$@")
}
need redis-server redis-server redis-tools
need slapd slapd ldap-utils
need ldapadd ldap-utils
need samba samba samba-dsdb-modules samba-vfs-modules winbind
need /usr/share/samba/setup/provision.ldif samba-ad-provision
need socat socat
need openssl openssl
need curl curl
need dash dash
need chromium chromium
need dbus-run-session dbus-daemon
need gnome-keyring-daemon gnome-keyring
need script bsdutils
need /usr/share/fonts/truetype/wqy/wqy-microhei.ttc fonts-wqy-microhei
need /usr/share/simplesamlphp/www simplesamlphp php-cli php-xml php-mbstring php-curl php-sqlite3
need /usr/lib/apache2/modules/mod_auth_openidc.so apache2-bin libapache2-mod-auth-openidc
need nginx nginx-light
need caddy caddy
need haproxy haproxy
need promtool prometheus
need g++ g++ # WeTTY compiles its terminal
need make make
need Xtigervnc tigervnc-standalone-server tigervnc-tools xkb-data x11-xkb-utils
need xterm xterm
need websockify websockify
need /usr/share/novnc/vnc.html novnc
python3 -c 'import ensurepip, venv' 2>/dev/null || missing+=(python3 python3-venv) # Jupyter, mail
if [ "$what" = full ]; then # Alertmanager, another machine's clock, Keycloak
  need prometheus-alertmanager prometheus-alertmanager
  need faketime faketime
  need java openjdk-17-jre-headless
  need mvn maven
  need jq jq
  need unzip unzip
fi

if [ ${#missing[@]} -gt 0 ]; then
  sudo=; [ "$(id -u)" -eq 0 ] || sudo="sudo -E"
  echo "installing: ${missing[*]}"
  # Packages must not start daemons of their own.
  policy=/usr/sbin/policy-rc.d made=
  [ -e $policy ] || { printf '#!/bin/sh\nexit 101\n' | $sudo tee $policy >/dev/null; $sudo chmod 755 $policy; made=1; }
  echo "slapd slapd/no_configuration boolean true" | $sudo debconf-set-selections 2>/dev/null || true
  log=$(mktemp)
  ok=
  for attempt in 1 2 3; do
    if { $sudo apt-get -o DPkg::Lock::Timeout=300 update -qq &&
         DEBIAN_FRONTEND=noninteractive $sudo apt-get -o DPkg::Lock::Timeout=300 install -qq -y --no-install-recommends "${missing[@]}"; } >"$log" 2>&1 </dev/null; then ok=1; break; fi
    sleep $((attempt * 3))
  done
  [ -z "$made" ] || $sudo rm -f $policy
  [ -n "$ok" ] || { tail -n 20 "$log" >&2; echo "failed: apt-get install ${missing[*]}" >&2; exit 1; }
  rm -f "$log"
fi
command -v node >/dev/null || { echo "failed: Node.js 20 or newer is needed: apt-get install nodejs npm" >&2; exit 1; }

# Browser driver, the certified relying party and the certified provider, from npm by their lock files.
mkdir -p .peers
test/peers/browser/install.sh .peers/browser
for peer in openid-client oidc-provider consoles/wetty; do
  dir=.peers/$(basename $peer)
  mkdir -p "$dir"
  sum=$(cat test/peers/$peer/package.json test/peers/$peer/package-lock.json | sha256sum | cut -c1-16)
  if [ ! -f "$dir/node_modules/.done-$sum" ]; then
    cp test/peers/$peer/package.json test/peers/$peer/package-lock.json "$dir/"
    # Native modules compile against the headers beside this node, where it brings them.
    node=$(dirname "$(dirname "$(readlink -f "$(command -v node)")")")
    [ ! -e "$node/include/node/node.h" ] || export npm_config_nodedir=$node
    (cd "$dir" && npm ci --no-audit --no-fund --loglevel=error) || { echo "failed: npm ci for $peer" >&2; exit 1; }
    touch "$dir/node_modules/.done-$sum"
  fi
done
# JupyterLab, a mail server and, in full, the AWS command line, from PyPI by pinned versions.
for peer in consoles/jupyter mail-sink $([ "$what" = core ] || echo aws-cli); do
  dir=.peers/$(basename $peer)
  sum=$(sha256sum <test/peers/$peer/requirements.txt | cut -c1-16)
  if [ ! -f "$dir/venv/.done-$sum" ]; then
    rm -rf "$dir/venv" && mkdir -p "$dir"
    { python3 -m venv "$dir/venv" && "$dir/venv/bin/pip" install -q --disable-pip-version-check -r test/peers/$peer/requirements.txt; } ||
      { echo "failed: pip install -r test/peers/$peer/requirements.txt" >&2; exit 1; }
    touch "$dir/venv/.done-$sum"
  fi
done

# Object stores, from their Go modules.
gomod() { # NAME PACKAGE@VERSION
  local bin=.peers/$1/bin
  [ ! -f "$bin/.done-${2##*@}" ] || return 0
  echo "building $1"
  mkdir -p "$bin"
  GOBIN=$PWD/$bin GOFLAGS=-mod=mod go install -trimpath -ldflags '-s -w' "$2" >"$bin/build.log" 2>&1 || { tail -n 20 "$bin/build.log" >&2; echo "failed: go install $2" >&2; exit 1; }
  touch "$bin/.done-${2##*@}"
}
gomod minio github.com/minio/minio@v0.0.0-20260212201848-7aac2a2c5b7c
[ "$what" = core ] || gomod versitygw github.com/versity/versitygw/cmd/versitygw@v1.8.0
echo "end-to-end peers ($what): ready"
