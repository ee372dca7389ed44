#!/bin/bash
# WeTTY 3.2 (npm): a shell in the browser over socket.io (long-polling that becomes a WebSocket).
# Port: PORT (http + socket.io at BASE/socket.io/). No account of its own. Usage: start.sh DIR PORT
# Env: BASE_PATH (e.g. /node1/tty), WETTY_COMMAND (default bash; local only as root),
#      SSH_HOST, SSH_PORT, SSH_USER (a sign-in at that sshd instead; needs an ssh client), ALLOW_IFRAME=1
set -eu
HERE=$(dirname "$(readlink -f "$0")")
. "$HERE/../../peerlib/lib.sh"
peer_init "${1:-}"; PORT=${2:?usage: start.sh DIR PORT}
MODULES=$HERE/../../../../.peers/wetty/node_modules
[ -d "$MODULES" ] || die "WeTTY is not installed: test/e2e/install.sh core"
"$HERE/stop.sh" "$DIR"; peer_fresh; port_free "$PORT"
BASE=${BASE_PATH:-}; BASE=${BASE%/}
mkdir -p "$DIR/home"
set -- --host 127.0.0.1 --port "$PORT" --base "$BASE/" --command "${WETTY_COMMAND:-bash}"
if [ -n "${SSH_HOST:-}" ]; then
  command -v ssh >/dev/null || die "an ssh client is needed: apt-get install openssh-client"
  set -- "$@" --force-ssh --ssh-host "$SSH_HOST" --ssh-port "${SSH_PORT:-22}" --command login
  [ -z "${SSH_USER:-}" ] || set -- "$@" --ssh-user "$SSH_USER"
elif [ "$(id -u)" != 0 ]; then
  die "without root WeTTY has no local shell: set SSH_HOST"
fi
[ "${ALLOW_IFRAME:-0}" = 0 ] || set -- "$@" --allow-iframe
cd "$DIR/home"
HOME=$DIR/home PEER_CONSOLE=$DIR SHELL=/bin/bash NODE_ENV=production launch wetty node "$MODULES/wetty/build/main.js" "$@"
wait_http "http://127.0.0.1:$PORT$BASE/" 60
cat >"$DIR/env" <<V
WETTY_URL=http://127.0.0.1:$PORT${BASE:-/}
WETTY_WS=ws://127.0.0.1:$PORT$BASE/socket.io/?EIO=4&transport=websocket
V
echo "wetty ready: http://127.0.0.1:$PORT${BASE:-/}"
