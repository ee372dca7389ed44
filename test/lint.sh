#!/usr/bin/env bash
# lint.sh STATICCHECK GOVULNCHECK: formatting, vet, static analysis, forbidden calls, known vulnerabilities.
set -euo pipefail
cd "$(dirname "$0")/.."
staticcheck=$1 govulncheck=$2
fail=0

out=$(git ls-files -z '*.go' | xargs -0 gofmt -l)
[ -z "$out" ] || { echo "gofmt would change:"; echo "$out"; fail=1; }

go vet ./... || fail=1
go vet -tags "e2e full" ./test/... || fail=1
go run "$staticcheck" ./... || fail=1

# Calls that have caused incidents elsewhere (security.md SC-3). A line may say why it is right: // lint:allow REASON
forbidden=(
  'http\.DefaultClient' 'InsecureSkipVerify: *true' 'jwt\.ParseInsecure' 'jws\.WithVerifyAuto'
  'WithVerify\(false\)' 'SkipIssuerCheck' 'SkipClientIDCheck' 'SkipExpiryCheck' 'InsecureSkipSignatureCheck'
  'UnauthenticatedBind' 'AllowEmptyPassword' '"text/template"' 'template\.(JS|URL|CSS|HTMLAttr)\('
  'middleware\.RealIP' 'Director:' '"math/rand'
)
for pattern in "${forbidden[@]}"; do
  hits=$(git ls-files '*.go' | grep -v '_test\.go$' | xargs grep -nE "$pattern" 2>/dev/null | grep -v 'lint:allow' || true)
  [ -z "$hits" ] || { echo "forbidden call ($pattern):"; echo "$hits"; fail=1; }
done
hits=$(git ls-files '*.go' | grep -v '_test\.go$' | grep -v '^broker/web/' | xargs grep -nE 'http\.Redirect\(|template\.HTML\(' 2>/dev/null | grep -v 'lint:allow' || true)
[ -z "$hits" ] || { echo "only broker/web may do this:"; echo "$hits"; fail=1; }

# Minimum versions of libraries with known holes (security.md SC-1).
min() { # MODULE VERSION
  local have
  have=$(go list -m -f '{{.Version}}' "$1" 2>/dev/null) || return 0
  [ -n "$have" ] || return 0
  [ "$(printf '%s\n%s\n' "$2" "$have" | sort -V | head -1)" = "$2" ] || { echo "$1 is $have, needs at least $2"; fail=1; }
}
min github.com/russellhaering/goxmldsig v1.6.1
min github.com/beevik/etree v1.7.0
min github.com/go-jose/go-jose/v4 v4.1.4
min github.com/go-chi/chi/v5 v5.3.0
min github.com/redis/go-redis/v9 v9.7.3
min golang.org/x/oauth2 v0.27.0

if curl -fsS -m 10 -o /dev/null https://vuln.go.dev/index/db.json 2>/dev/null; then
  go run "$govulncheck" ./... || fail=1
else
  echo "govulncheck: its database is not reachable from here; not run"
fi
[ $fail = 0 ] && echo "lint: ok"
exit $fail
