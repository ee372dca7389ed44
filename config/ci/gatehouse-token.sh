#!/bin/sh
# Exchanges the ID token of a CI job for a short access token (RFC 8693) and prints it, and nothing else.
# POSIX sh, curl and sed. For Jenkins, and whatever else has a shell; GitHub and GitLab have files of their own beside this one.
#
#   GATEHOUSE_ISSUER     the `issuer` of Gatehouse: https://remotegpu.example.com
#   GATEHOUSE_ID_TOKEN   the job's ID token; its one audience is what the trust rule says, by default the issuer
#   GATEHOUSE_SCOPE      less than the rule's scopes, optional
#   GATEHOUSE_AUDIENCE   the API that the token is for, if not the rule's `token_audience`
{ set +x; } 2>/dev/null # a trace would hold the tokens
set -eu

# The same function stands in github-actions/action.yml and gitlab-ci.yml.
gatehouse_exchange() ( # prints an access token for $GATEHOUSE_ID_TOKEN, or says why there is none
  { set +x; } 2>/dev/null
  fail() { echo "gatehouse: $*" >&2; exit 1; }
  case ${GATEHOUSE_ISSUER-} in
    https://?* | http://127.0.0.1:* | http://localhost:*) ;;
    *) fail "GATEHOUSE_ISSUER is \"${GATEHOUSE_ISSUER-}\"; it must be the address of Gatehouse, such as https://remotegpu.example.com" ;;
  esac
  [ -n "${GATEHOUSE_ID_TOKEN-}" ] || fail "this job has no ID token (GATEHOUSE_ID_TOKEN is empty)"
  command -v curl >/dev/null || fail "this job's machine or image has no curl"
  set -- -sS --connect-timeout 10 --max-time 30 -w ' %{http_code}' -H 'Accept: application/json' \
    --data-urlencode 'grant_type=urn:ietf:params:oauth:grant-type:token-exchange' \
    --data-urlencode 'subject_token_type=urn:ietf:params:oauth:token-type:id_token' \
    --data-urlencode 'subject_token@-'
  [ -z "${GATEHOUSE_SCOPE-}" ] || set -- "$@" --data-urlencode "scope=$GATEHOUSE_SCOPE"
  [ -z "${GATEHOUSE_AUDIENCE-}" ] || set -- "$@" --data-urlencode "audience=$GATEHOUSE_AUDIENCE"
  for pause in 2 5 0; do
    # The token goes by standard input: arguments are in the list of processes. Redirects are not followed.
    reply=$(printf %s "$GATEHOUSE_ID_TOKEN" | curl "$@" "${GATEHOUSE_ISSUER%/}/oauth2/token") || :
    status=${reply##* }
    case $status in
      000 | 429 | 502 | 503 | 504) [ $pause = 0 ] || sleep $pause ;;
      *) break ;;
    esac
  done
  # A quote inside a JSON string has a backslash before it, so that "NAME": can only be a member of the answer.
  member() { printf %s "${reply% *}" | tr -d '\000-\037\177' | sed -n 's/.*"'"$1"'" *: *"\([^"\\]*\)".*/\1/p'; }
  [ "$status" != 000 ] || fail "no answer from $GATEHOUSE_ISSUER"
  if [ "$status" != 200 ]; then
    code=$(member error) text=$(member error_description) ref=$(member ref)
    fail "$GATEHOUSE_ISSUER answered $status${code:+ $code}${text:+: $text}${ref:+ Reference $ref.}"
  fi
  token=$(member access_token)
  case $token in
    '' | *[!A-Za-z0-9._~+/=-]*) fail "the answer of $GATEHOUSE_ISSUER holds no access token; is that address right?" ;;
  esac
  printf '%s\n' "$token"
)

gatehouse_exchange
