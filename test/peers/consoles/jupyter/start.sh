#!/bin/bash
# JupyterLab on jupyter-server (PyPI), with kernels and terminals over WebSocket. Its own origin and host checks stay as shipped.
# Port: PORT. Sign-in: token TOKEN (default "peer-token"), or TOKEN="" for none (then the proxy is the only gate). Usage: start.sh DIR PORT
# Env: BASE_PATH (default /), TOKEN, ALLOW_ORIGIN, ALLOW_REMOTE=1 (accept any Host header), TRUST_XHEADERS=1,
#      AUTH_PROXY_CONF=file (extra jupyter_server_config.py lines)
set -eu
HERE=$(dirname "$(readlink -f "$0")")
. "$HERE/../../peerlib/lib.sh"
peer_init "${1:-}"; PORT=${2:?usage: start.sh DIR PORT}
VENV=$HERE/../../../../.peers/jupyter/venv
[ -x "$VENV/bin/jupyter" ] || die "JupyterLab is not installed: test/e2e/install.sh core"
VENV=$(cd "$VENV" && pwd)
peer_fresh; port_free "$PORT"
BASE=${BASE_PATH:-}; BASE=${BASE%/}/
TOKEN=${TOKEN-peer-token}
mkdir -p "$DIR/home/notebooks" "$DIR/config"
{
  echo "c.ServerApp.ip = '127.0.0.1'; c.ServerApp.port = $PORT; c.ServerApp.port_retries = 0"
  echo "c.ServerApp.open_browser = False; c.ServerApp.allow_root = True; c.ServerApp.base_url = '$BASE'"
  echo "c.ServerApp.root_dir = '$DIR/home/notebooks'; c.IdentityProvider.token = '$TOKEN'"
  echo "c.LabApp.check_for_updates_class = 'jupyterlab.NeverCheckForUpdate'; c.LabApp.news_url = None"
  [ -z "${ALLOW_ORIGIN:-}" ] || echo "c.ServerApp.allow_origin = '$ALLOW_ORIGIN'"
  [ "${ALLOW_REMOTE:-0}" = 0 ] || echo "c.ServerApp.allow_remote_access = True"
  [ "${TRUST_XHEADERS:-0}" = 0 ] || echo "c.ServerApp.trust_xheaders = True"
  [ -z "${AUTH_PROXY_CONF:-}" ] || cat "$AUTH_PROXY_CONF"
} >"$DIR/config/jupyter_server_config.py"
HOME=$DIR/home JUPYTER_CONFIG_DIR=$DIR/config JUPYTER_DATA_DIR=$DIR/data JUPYTER_RUNTIME_DIR=$DIR/runtime \
  IPYTHONDIR=$DIR/ipython SHELL=/bin/bash launch jupyter "$VENV/bin/jupyter" lab
wait_http "http://127.0.0.1:$PORT${BASE}api" 120
cat >"$DIR/env" <<V
JUPYTER_URL=http://127.0.0.1:$PORT$BASE
JUPYTER_TOKEN=$TOKEN
V
echo "jupyter ready: http://127.0.0.1:${PORT}${BASE}lab"
