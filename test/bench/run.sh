#!/usr/bin/env bash
# make bench: the figures of docs/performance.md, the comparison with other proxies, then the benchmarks of the packages.
# LONG=1 adds 100,000 sign-ins, to look at memory.
set -euo pipefail
cd "$(dirname "$0")/../.."
mkdir -p bin
go build -o bin/bench ./test/bench
bin/bench -bin bin/gatehouse ${LONG:+-long}
[ -z "${DRIVER_ONLY:-}" ] || exit 0
test/bench/proxies.sh
go test -run '^$' -bench . -benchmem -count "${COUNT:-1}" ./broker/... ./config/... ./connectors/...
