#!/usr/bin/env bash
# images.sh: renews docs/images with the built program on 127.0.0.1:8080 (or GATEHOUSE_LISTEN), beside doubles of GitHub, DingTalk, WeCom, Feishu,
# Google and GitLab, an OpenID provider, a SAML identity provider and a directory.
set -euo pipefail
cd "$(dirname "$0")/.."
listen=${GATEHOUSE_LISTEN:-127.0.0.1:8080}
work=$(mktemp -d)
doubles="github dingtalk wecom feishu google gitlab"
stop() { kill "$(cat "$work/pid" 2>/dev/null)" 2>/dev/null || true; }
trap 'stop; for d in $doubles; do test/peers/$d-api/stop.sh "$work/$d" || true; done; for p in slapd oidc-provider simplesamlphp; do test/peers/$p/stop.sh "$work/$p" || true; done; rm -rf "$work"' EXIT
test/e2e/install.sh core
port=${GITHUB_PORT:-8090}
for d in $doubles; do
  test/peers/$d-api/start.sh "$work/$d" $port
  declare "$d=http://127.0.0.1:$port"
  port=$((port + 1))
done
test/peers/oidc-provider/start.sh "$work/oidc-provider" $port
oidc=http://127.0.0.1:$port
test/peers/simplesamlphp/start.sh "$work/simplesamlphp" $((port + 10))
saml=$(. "$work/simplesamlphp/env" && echo "$SAML_IDP_METADATA_URL")
test/peers/slapd/start.sh "$work/slapd" "${SLAPD_PORT:-8389}"
cp test/e2e/browser/images.mjs .peers/browser/
shoot() { # NAME, and the configuration on stdin
  mkdir -p "$work/$1/config"
  cat >"$work/$1/config/gatehouse.yml"
  GATEHOUSE_LISTEN=$listen GATEHOUSE_ADMIN_LISTEN=${GATEHOUSE_ADMIN_LISTEN:-127.0.0.1:9091} GATEHOUSE_DATA=$work/$1/data GATEHOUSE_CONFIG=$work/$1/config \
    bin/gatehouse serve --dev >"$work/log" 2>&1 &
  echo $! >"$work/pid"
  for _ in $(seq 100); do curl -fsS -o /dev/null "http://$listen/healthz" 2>/dev/null && break; sleep 0.1; done
  node .peers/browser/images.mjs "http://$listen" docs/images "$1" || { tail -20 "$work/log"; exit 1; }
  stop
  wait
}
shoot readme <<END
github: {client_id: gh-client, client_secret: gh-secret, base_url: "$github"}
END
shoot china <<END
connectors:
  - {id: dingtalk, type: dingtalk, name: 钉钉, client_id: ding-client, client_secret: ding-secret, corp_id: ding0123, api_url: "$dingtalk", oapi_url: "$dingtalk"}
  - {id: wecom, type: wecom, name: 企业微信, corp_id: ww0123, agent_id: "1000002", secret: wecom-secret, qr_url: "$wecom/wwlogin/sso/login", api_url: "$wecom"}
  - {id: feishu, type: feishu, name: 飞书, app_id: cli_0123, app_secret: feishu-secret, tenant_key: tenant-1, api_url: "$feishu"}
END
shoot directory <<END
ldap:
  name: Company directory
  host: localhost
  port: ${SLAPD_PORT:-8389}
  ca_file: $work/slapd/tls/ca.crt
  base_dn: dc=example,dc=com
  bind_dn: cn=gatehouse,ou=services,dc=example,dc=com
  bind_password: gatehouse-secret
  reset_url: https://password.example.com/
END
shoot enterprise <<END
google: {client_id: broker-post, client_secret: broker-secret, issuer: "$google", hosted_domains: [example.com]}
gitlab: {client_id: broker, client_secret: broker-secret, base_url: "$gitlab"}
connectors:
  - {id: company, type: oidc, name: Company account, issuer: "$oidc", client_id: broker, client_secret: broker-secret}
  - {id: acme, type: saml, name: Acme Corp, metadata_url: "$saml"}
outgoing: {allow_private: [127.0.0.0/8]}
END
ls -l docs/images
