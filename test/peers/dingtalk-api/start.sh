#!/bin/bash
# A double of DingTalk (钉钉): the sign-in page and the calls that the connector makes, both halves of the API in one. Plain Node.
# App: Client ID ding-client, secret ding-secret, of the company ding0123. People: 张三 and 李四 (members), 路人 (in no company of ours).
# Never compared with the vendor: it behaves as the documentation that docs/connectors/dingtalk.md names says, and no better.
#   start.sh DIR PORT     127.0.0.1:PORT; options and POST /control?hostile=a,b as in peerlib/double.mjs and server.mjs
set -eu
[ $# -eq 2 ] || { echo "usage: $0 DIR PORT" >&2; exit 2; }
HERE=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$1"; DIR=$(cd "$1" && pwd); export PORT=$2
"$HERE/stop.sh" "$DIR" >/dev/null
if (exec 3<>"/dev/tcp/127.0.0.1/$PORT") 2>/dev/null; then echo "port $PORT is taken"; exit 1; fi
command -v node >/dev/null || { echo "Node.js 20 or newer is needed: apt-get install nodejs"; exit 1; }
node "$HERE/server.mjs" </dev/null >"$DIR/server.log" 2>&1 &
echo $! >"$DIR/pid"
for _ in $(seq 120); do
  if curl -fsS "http://127.0.0.1:$PORT/control" -o /dev/null 2>/dev/null; then
    echo "URL=http://127.0.0.1:$PORT" >"$DIR/env"
    echo "dingtalk-api is ready: http://127.0.0.1:$PORT"; exit 0
  fi
  kill -0 "$(cat "$DIR/pid")" 2>/dev/null || break
  sleep 0.25
done
echo "dingtalk-api did not start:"; tail -20 "$DIR/server.log"
"$HERE/stop.sh" "$DIR"; exit 1
