#!/bin/bash
# Prometheus 2.42 and Alertmanager 0.25 (both Debian), scraping one target. No accounts.
# Ports: PORT (Prometheus), PORT+1 (Alertmanager). Usage: start.sh DIR PORT
# Env: TARGET (http://127.0.0.1:8080/metrics), RULES (rules files, separated by blanks, optional), JOB (gatehouse), BEARER or BASIC=user:password for the scrape,
#      INTERVAL (2s), WEBHOOK (where Alertmanager posts alerts; none: nowhere), NO_ALERTMANAGER=1
# promtool checks the configuration and the rules before the start.
set -eu
HERE=$(dirname "$(readlink -f "$0")")
. "$HERE/../peerlib/lib.sh"
peer_init "${1:-}"; PORT=${2:?usage: start.sh DIR PORT}; AM=$((PORT + 1))
need_apt prometheus prometheus
[ "${NO_ALERTMANAGER:-0}" = 1 ] || need_apt prometheus-alertmanager prometheus-alertmanager
peer_fresh; port_free "$PORT" "$AM"
target=${TARGET:-http://127.0.0.1:8080/metrics}; scheme=${target%%://*}; base=${target#*://}; host=${base%%/*}; path=/metrics
case $base in */*) path=/${base#*/};; esac
{
  echo "global: {scrape_interval: ${INTERVAL:-2s}, scrape_timeout: ${INTERVAL:-2s}, evaluation_interval: ${INTERVAL:-2s}}"
  if [ -n "${RULES:-}" ]; then echo "rule_files:"; for f in $RULES; do echo "- '$f'"; done; fi
  [ "${NO_ALERTMANAGER:-0}" = 1 ] || echo "alerting: {alertmanagers: [{static_configs: [{targets: ['127.0.0.1:$AM']}]}]}"
  echo "scrape_configs:"
  echo "- job_name: ${JOB:-gatehouse}"
  echo "  scheme: $scheme"
  echo "  metrics_path: '$path'"
  echo "  tls_config: {insecure_skip_verify: true}"
  [ -z "${BEARER:-}" ] || echo "  authorization: {credentials: '$BEARER'}"
  [ -z "${BASIC:-}" ] || echo "  basic_auth: {username: '${BASIC%%:*}', password: '${BASIC#*:}'}"
  echo "  static_configs: [{targets: ['$host']}]"
} >"$DIR/prometheus.yml"
promtool check config "$DIR/prometheus.yml" >"$DIR/promtool.log" 2>&1 || die "promtool check config"
if [ "${NO_ALERTMANAGER:-0}" != 1 ]; then
  if [ -n "${WEBHOOK:-}" ]; then receiver="{name: sink, webhook_configs: [{url: '$WEBHOOK'}]}"; else receiver="{name: sink}"; fi
  printf 'route: {receiver: sink, group_wait: 1s, group_interval: 5s, repeat_interval: 1h}\nreceivers: [%s]\n' "$receiver" >"$DIR/alertmanager.yml"
  launch alertmanager prometheus-alertmanager --config.file="$DIR/alertmanager.yml" --storage.path="$DIR/am" \
    --web.listen-address="127.0.0.1:$AM" --cluster.listen-address=
  wait_http "http://127.0.0.1:$AM/-/ready" 60
fi
launch prometheus prometheus --config.file="$DIR/prometheus.yml" --storage.tsdb.path="$DIR/tsdb" \
  --web.listen-address="127.0.0.1:$PORT" --web.enable-lifecycle --storage.tsdb.retention.time=1d
wait_http "http://127.0.0.1:$PORT/-/ready" 60
printf 'PROMETHEUS_URL=http://127.0.0.1:%s\nALERTMANAGER_URL=http://127.0.0.1:%s\nTARGET=%s\n' "$PORT" "$AM" "$target" >"$DIR/env"
echo "prometheus ready: http://127.0.0.1:$PORT scrapes $target"
