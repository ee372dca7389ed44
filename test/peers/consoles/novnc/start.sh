#!/bin/bash
# noVNC 1.3 behind websockify 0.10 in front of a TigerVNC desktop (all Debian).
# Ports: PORT (http + WebSocket at /websockify, any path is accepted), PORT+1 (VNC). Usage: start.sh DIR PORT
# Account: VNC password VNC_PASSWORD (default none). Env: VNC_PASSWORD, VNC_SIZE (800x600).
# The desktop has no window manager, just one xterm (a shell as the caller).
set -eu
HERE=$(dirname "$(readlink -f "$0")")
. "$HERE/../../peerlib/lib.sh"
peer_init "${1:-}"; PORT=${2:?usage: start.sh DIR PORT}; VNC=$((PORT + 1))
for c in Xtigervnc tigervncpasswd xterm websockify /usr/share/novnc/vnc.html; do
  [ -e "$c" ] || command -v "$c" >/dev/null || die "$c is missing: test/e2e/install.sh core"
done
peer_fresh; port_free "$PORT" "$VNC"
display=$((PORT % 1000 + 1000))
set -- ":$display" -rfbport "$VNC" -localhost=1 -interface 127.0.0.1 -geometry "${VNC_SIZE:-800x600}" -depth 24 -nolisten tcp -ac
if [ -n "${VNC_PASSWORD:-}" ]; then
  printf '%s\n' "$VNC_PASSWORD" | tigervncpasswd -f >"$DIR/passwd"; chmod 600 "$DIR/passwd"
  set -- "$@" -SecurityTypes VncAuth -PasswordFile "$DIR/passwd"
else
  set -- "$@" -SecurityTypes None
fi
launch xtigervnc Xtigervnc "$@"
wait_tcp "$VNC" 60
DISPLAY=:$display launch xterm xterm -geometry 80x24+20+20
launch websockify websockify --web /usr/share/novnc "127.0.0.1:$PORT" "127.0.0.1:$VNC"
wait_http "http://127.0.0.1:$PORT/vnc.html" 60
cat >"$DIR/env" <<V
NOVNC_URL=http://127.0.0.1:$PORT/vnc.html?autoconnect=1
NOVNC_WS=ws://127.0.0.1:$PORT/websockify
VNC_PASSWORD=${VNC_PASSWORD:-}
V
echo "novnc ready: http://127.0.0.1:$PORT/vnc.html (VNC on $VNC)"
