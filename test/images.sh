#!/usr/bin/env bash
# images.sh: renews docs/images with the built program on 127.0.0.1:8080 (or GATEHOUSE_LISTEN), beside a double of GitHub.
set -euo pipefail
cd "$(dirname "$0")/.."
listen=${GATEHOUSE_LISTEN:-127.0.0.1:8080}
work=$(mktemp -d)
trap 'kill "$(cat "$work/pid" 2>/dev/null)" 2>/dev/null || true; test/peers/github-api/stop.sh "$work/github" || true; rm -rf "$work"' EXIT
test/peers/browser/install.sh .peers/browser
test/peers/github-api/start.sh "$work/github" "${GITHUB_PORT:-8090}"
mkdir "$work/config"
cat >"$work/config/gatehouse.yml" <<END
github: {client_id: gh-client, client_secret: gh-secret, base_url: "http://127.0.0.1:${GITHUB_PORT:-8090}"}
END
GATEHOUSE_LISTEN=$listen GATEHOUSE_ADMIN_LISTEN=${GATEHOUSE_ADMIN_LISTEN:-127.0.0.1:9091} GATEHOUSE_DATA=$work/data GATEHOUSE_CONFIG=$work/config \
  bin/gatehouse serve --dev >"$work/log" 2>&1 &
echo $! >"$work/pid"
for _ in $(seq 100); do curl -fsS -o /dev/null "http://$listen/healthz" 2>/dev/null && break; sleep 0.1; done
cp test/e2e/browser/images.mjs .peers/browser/
node .peers/browser/images.mjs "http://$listen" docs/images || { tail -20 "$work/log"; exit 1; }
ls -l docs/images
