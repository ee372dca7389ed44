#!/usr/bin/env bash
# The comparison of docs/performance.md: nginx, a bare ReverseProxy, oauth2-proxy and Gatehouse, turn by turn in one run.
# Installs nginx (Debian) and oauth2-proxy (Go module, into .peers/bin).
set -euo pipefail
cd "$(dirname "$0")/../.."
OAUTH2_PROXY=v7.15.6
PATH=$PATH:/usr/sbin
if ! command -v nginx >/dev/null; then
  sudo=; [ "$(id -u)" -eq 0 ] || sudo="sudo -E"
  policy=/usr/sbin/policy-rc.d made= # the package must not start a server of its own
  [ -e $policy ] || { printf '#!/bin/sh\nexit 101\n' | $sudo tee $policy >/dev/null; $sudo chmod 755 $policy; made=1; }
  { $sudo apt-get update -qq && DEBIAN_FRONTEND=noninteractive $sudo apt-get install -qq -y --no-install-recommends nginx-light; } >/dev/null ||
    { echo "failed: apt-get install nginx-light" >&2; exit 1; }
  [ -z "$made" ] || $sudo rm -f $policy
fi
bin=$PWD/.peers/bin
if [ ! -x "$bin/oauth2-proxy-$OAUTH2_PROXY" ]; then
  mkdir -p "$bin"
  GOBIN=$bin go install "github.com/oauth2-proxy/oauth2-proxy/v7@$OAUTH2_PROXY"
  mv "$bin/oauth2-proxy" "$bin/oauth2-proxy-$OAUTH2_PROXY"
fi
go build -o bin/proxies ./test/bench/proxies
exec bin/proxies -gatehouse bin/gatehouse -oauth2-proxy "$bin/oauth2-proxy-$OAUTH2_PROXY" "$@"
