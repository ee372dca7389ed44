#!/bin/bash
# A double of Feishu (飞书): the sign-in page, token endpoint and API in one. Plain Node.
# App: cli_0123, secret feishu-secret, of the company tenant-1. People: 张三, 李四 (members), 王五 (frozen), 赵六 (of another company),
# 钱七 (the application is not open to this person).
# Never compared with the vendor: it behaves as the documentation that docs/connectors/feishu.md names says, and no better.
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
    echo "feishu-api is ready: http://127.0.0.1:$PORT"; exit 0
  fi
  kill -0 "$(cat "$DIR/pid")" 2>/dev/null || break
  sleep 0.25
done
echo "feishu-api did not start:"; tail -20 "$DIR/server.log"
"$HERE/stop.sh" "$DIR"; exit 1
