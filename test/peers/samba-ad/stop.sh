#!/usr/bin/env bash
# Stops the domain controller and the relays that start.sh recorded in DIR/pid
# (each line leads a process group). The directory's content stays in DIR.
#   stop.sh DIR
set -eu
[ $# -ge 1 ] || { echo "usage: stop.sh DIR" >&2; exit 1; }
[ "$(id -u)" = 0 ] || exec sudo -E "$0" "$@"
# Whoever called may remove the folder.
give() { [ -z "${SUDO_UID:-}" ] || chown -R "$SUDO_UID:$SUDO_GID" "$1"; }
[ -s "$1/pid" ] || { give "$1"; echo "samba-ad: not running"; exit 0; }
# Samba's children rename themselves, and may outlive the first process when a start fails.
alive() { ps -o comm= -g "$1" 2>/dev/null | grep -qE '^(samba|tfork|ldap|kdc|socat)'; }
for pid in $(cat "$1/pid"); do
  if alive "$pid"; then kill -TERM -- "-$pid" 2>/dev/null || true; fi
done
for pid in $(cat "$1/pid"); do
  for _ in $(seq 100); do alive "$pid" || break; sleep 0.1; done
  if alive "$pid"; then kill -KILL -- "-$pid" 2>/dev/null || true; sleep 0.3; fi
done
rm -f "$1/pid"
give "$1"
echo "samba-ad: stopped"
