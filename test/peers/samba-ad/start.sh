#!/usr/bin/env bash
# Samba Active Directory domain controller, realm EXAMPLE.TEST (NetBIOS EXAMPLE), all state under DIR. Needs root.
#   start.sh DIR PORT   PORT=LDAP+StartTLS  PORT+1=LDAPS  PORT+2=global catalogue  PORT+3=same, TLS  PORT+4=Kerberos (TCP)
#   Samba cannot move its LDAP ports: it listens on AD_IP:389, 636, 3268, 3269, 88, 464 and socat relays to it.
#   AD_IP=127.88.x.y    a loopback address of its own (default from PORT)
#   STRONG_AUTH=no      allows a simple bind without TLS (default yes: answers 8, strongerAuthRequired)
#   Administrator / Admin-Secret-1; svc-gatehouse / Svc-Secret-1; people: "<Name>-Secret-1", see add_people below
set -eu
[ $# -ge 2 ] || { echo "usage: start.sh DIR PORT" >&2; exit 1; }
[ "$(id -u)" = 0 ] || exec sudo -E "$0" "$@" # ports below 1024
HERE=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$1"; DIR=$(cd "$1" && pwd); PORT=$2
AD_IP=${AD_IP:-127.88.$((PORT / 256)).$((PORT % 256))} STRONG_AUTH=${STRONG_AUTH:-yes}
PATH=$PATH:/usr/sbin
BASE=DC=example,DC=test ADMIN_PASSWORD=Admin-Secret-1

# Debian packages, without letting them start a daemon.
install_packages() {
  (
    flock 9
    policy=/usr/sbin/policy-rc.d mine=
    [ -e "$policy" ] || { printf '#!/bin/sh\nexit 101\n' >"$policy"; chmod 755 "$policy"; mine=1; }
    apt() { DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=300 "$@"; }
    rc=0
    { apt install -y --no-install-recommends "$@" ||
      { apt update && apt install -y --no-install-recommends "$@"; }; } >"$DIR/install.log" 2>&1 || rc=$?
    [ -z "$mine" ] || rm -f "$policy"
    [ "$rc" = 0 ] || { echo "install failed:"; tail -n 15 "$DIR/install.log"; }
    exit "$rc"
  ) 9>"${TMPDIR:-/tmp}/peer-install.lock"
}

running() { [ -s "$DIR/pid" ] && [ "$(cat "/proc/$(head -n 1 "$DIR/pid")/comm" 2>/dev/null)" = samba ]; }

fail() { echo "samba-ad: $1"; tail -n 20 "$DIR/samba.log" 2>/dev/null || true; "$HERE/stop.sh" "$DIR" >/dev/null 2>&1 || true; exit 1; }

make_certs() {
  [ ! -s "$DIR/tls/server.crt" ] || return 0
  mkdir -p "$DIR/tls"; chmod 711 "$DIR/tls"; cd "$DIR/tls"
  openssl req -x509 -newkey rsa:2048 -nodes -days 3650 -subj "/CN=Peer test CA" \
    -addext "keyUsage=critical,keyCertSign,cRLSign" -keyout ca.key -out ca.crt 2>/dev/null
  openssl req -newkey rsa:2048 -nodes -subj "/CN=dc1.example.test" -keyout server.key -out server.csr 2>/dev/null
  printf 'subjectAltName=DNS:dc1.example.test,DNS:example.test,DNS:localhost,IP:127.0.0.1,IP:%s\nextendedKeyUsage=serverAuth\n' "$AD_IP" >ext
  openssl x509 -req -in server.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 3650 -extfile ext -out server.crt 2>/dev/null
  chmod 600 ./*.key; rm -f ext server.csr; cd "$DIR"
}

as_admin() { tool=$1; shift; "$tool" -x -H "ldaps://127.0.0.1:$((PORT + 1))" -D "EXAMPLE\\Administrator" -w "$ADMIN_PASSWORD" "$@"; }

# person DN sAMAccountName password [more LDIF lines]: one LDIF record; unicodePwd is "password" in UTF-16 with the quotes.
person() {
  printf 'dn: %s,%s\nobjectClass: user\nsAMAccountName: %s\nuserAccountControl: 512\nunicodePwd:: %s\n' "$1" "$BASE" "$2" \
    "$(printf '"%s"' "$3" | iconv -f UTF-8 -t UTF-16LE | base64 -w0)"
  shift 3
  [ $# = 0 ] || printf '%s\n' "$@"
  echo
}
group() { # DN sAMAccountName groupType member...
  printf 'dn: %s,%s\nobjectClass: group\nsAMAccountName: %s\ngroupType: %s\n' "$1" "$BASE" "$2" "$3"
  shift 3
  for m in "$@"; do printf 'member: %s,%s\n' "$m" "$BASE"; done
  echo
}
policy() { # name precedence lockout-duration (in 100 ns, negative) applies-to
  printf 'dn: CN=%s,CN=Password Settings Container,CN=System,%s\nobjectClass: msDS-PasswordSettings\n' "$1" "$BASE"
  printf 'msDS-PasswordSettingsPrecedence: %s\nmsDS-MaximumPasswordAge: -36288000000000\nmsDS-LockoutThreshold: 3\nmsDS-LockoutDuration: %s\nmsDS-LockoutObservationWindow: %s\n' "$2" "$3" "$3"
  printf 'msDS-PasswordReversibleEncryptionEnabled: FALSE\nmsDS-PasswordHistoryLength: 0\nmsDS-PasswordComplexityEnabled: FALSE\nmsDS-MinimumPasswordLength: 0\nmsDS-MinimumPasswordAge: 0\n'
  printf 'msDS-PSOAppliesTo: %s,%s\n\n' "$4" "$BASE"
}

add_people() {
  printf 'dn: OU=%s,DC=example,DC=test\nobjectClass: organizationalUnit\n\n' Staff Groups Services
  person "CN=svc-gatehouse,OU=Services" svc-gatehouse Svc-Secret-1 "userPrincipalName: svc-gatehouse@example.test" "servicePrincipalName: HTTP/gatehouse.example.test" "msDS-SupportedEncryptionTypes: 28"
  # alice has a UPN in the additional suffix corp.example
  person "CN=Alice Adams,OU=Staff" alice Alice-Secret-1 "userPrincipalName: alice@corp.example" "mail: alice@example.com" "displayName: Alice A." "givenName: Alice" "sn: Adams"
  person "CN=Bob Brown,OU=Staff" bob Bob-Secret-1 "userPrincipalName: bob@example.test" "mail: Bob.Brown@Example.com" "displayName: Bob B."
  person "CN=No Mail,OU=Staff" nomail Nomail-Secret-1
  person "CN=Doe\\, John,OU=Staff" jdoe Jdoe-Secret-1 "userPrincipalName: jdoe@example.test" "mail: jdoe@example.com"
  person "CN=Jörg Müller,OU=Staff" jmüller Jmueller-Secret-1 "userPrincipalName: jörg.müller@example.test" "mail: jm@example.com" "displayName: Jörg Müller"
  person "CN=张伟,OU=Staff" zhangwei Zhangwei-Secret-1 "userPrincipalName: zhangwei@example.test" "mail: zhangwei@example.com" "displayName: 张伟"
  person "CN=Dis Abled,OU=Staff" disabled Disabled-Secret-1 "userPrincipalName: disabled@example.test" | sed 's/^userAccountControl: 512/userAccountControl: 514/'
  person "CN=Exp Ired,OU=Staff" expired Expired-Secret-1 "userPrincipalName: expired@example.test" "accountExpires: 132223104000000000"
  person "CN=Must Change,OU=Staff" mustchange Mustchange-Secret-1 "userPrincipalName: mustchange@example.test" "pwdLastSet: 0"
  person "CN=Old Password,OU=Staff" pwexpired Pwexpired-Secret-1 "userPrincipalName: pwexpired@example.test"
  person "CN=Stan Strict,OU=Staff" strict Strict-Secret-1 "userPrincipalName: strict@example.test"
  person "CN=Lea Locked,OU=Staff" locked Locked-Secret-1 "userPrincipalName: locked@example.test"
  # logonHours: never
  person "CN=No Hours,OU=Staff" nohours Nohours-Secret-1 "userPrincipalName: nohours@example.test" "logonHours:: AAAAAAAAAAAAAAAAAAAAAAAAAAAA"
  # -2147483646 = global, -2147483644 = domain local, -2147483640 = universal. App-Users > Engineering > Dev > alice: three levels.
  group "CN=Dev,OU=Groups" Dev -2147483646 "CN=Alice Adams,OU=Staff" "CN=Bob Brown,OU=Staff" "CN=张伟,OU=Staff" "CN=Doe\\, John,OU=Staff"
  group "CN=Engineering,OU=Groups" Engineering -2147483640 "CN=Dev,OU=Groups"
  group "CN=App-Users,OU=Groups" App-Users -2147483644 "CN=Engineering,OU=Groups"
  group "CN=R&D\\, (Berlin),OU=Groups" "R&D Berlin" -2147483646 "CN=Jörg Müller,OU=Staff"
  # Three failures lock for 10 s / for ever.
  policy pso-strict 10 -100000000 "CN=Stan Strict,OU=Staff"
  policy pso-locked 20 -9223372036854775808 "CN=Lea Locked,OU=Staff"
}

if running; then echo "samba-ad: already running on 127.0.0.1:$PORT"; exit 0; fi
command -v samba >/dev/null && [ -e /usr/share/samba/setup/provision.ldif ] || install_packages samba samba-dsdb-modules samba-ad-provision samba-vfs-modules winbind
command -v ldapadd >/dev/null || install_packages ldap-utils
command -v socat >/dev/null || install_packages socat
command -v openssl >/dev/null || install_packages openssl
make_certs
export LDAPTLS_CACERT="$DIR/tls/ca.crt" LDAPTLS_REQCERT=demand LDAPRC=none

if [ ! -e "$DIR/loaded" ]; then
  rm -rf "$DIR/ad"
  printf '[global]\n' >"$DIR/empty.conf"
  samba-tool domain provision --quiet --configfile="$DIR/empty.conf" --targetdir="$DIR/ad" \
    --realm=EXAMPLE.TEST --domain=EXAMPLE --server-role=dc --dns-backend=NONE --use-rfc2307 \
    --host-name=dc1 --host-ip="$AD_IP" --adminpass="$ADMIN_PASSWORD" >"$DIR/samba.log" 2>&1 || fail "provisioning failed"
fi
cat >"$DIR/smb.conf" <<CONF
[global]
  netbios name = DC1
  workgroup = EXAMPLE
  realm = EXAMPLE.TEST
  server role = active directory domain controller
  server services = ldap, kdc
  interfaces = $AD_IP/8
  bind interfaces only = yes
  private dir = $DIR/ad/private
  state directory = $DIR/ad/state
  cache directory = $DIR/ad/cache
  lock directory = $DIR/ad
  pid directory = $DIR/ad
  ncalrpc dir = $DIR/ad/ncalrpc
  winbindd socket directory = $DIR/ad/winbindd
  log file = $DIR/samba.log
  idmap_ldb:use rfc2307 = yes
  ldap server require strong auth = $STRONG_AUTH
  tls cafile = $DIR/tls/ca.crt
  tls certfile = $DIR/tls/server.crt
  tls keyfile = $DIR/tls/server.key
[sysvol]
  path = $DIR/ad/state/sysvol
CONF
cat >"$DIR/krb5.conf" <<CONF
[libdefaults]
  default_realm = EXAMPLE.TEST
  dns_lookup_kdc = false
  dns_lookup_realm = false
  rdns = false
  udp_preference_limit = 1
[realms]
  EXAMPLE.TEST = {
    kdc = tcp/127.0.0.1:$((PORT + 4))
    kdc = 127.0.0.1:$((PORT + 4))
  }
[domain_realm]
  .example.test = EXAMPLE.TEST
CONF

# Its children are in the same process group; stop.sh ends the group.
: >"$DIR/samba.log"
cd "$DIR"
KRB5_CONFIG="$DIR/krb5.conf" setsid samba --foreground --no-process-group --configfile="$DIR/smb.conf" --debuglevel=1 >>"$DIR/samba.log" 2>&1 </dev/null &
echo $! >"$DIR/pid"
n=0
for target in 389 636 3268 3269 88; do
  setsid socat "TCP-LISTEN:$((PORT + n)),bind=127.0.0.1,fork,reuseaddr" "TCP:$AD_IP:$target" >>"$DIR/samba.log" 2>&1 </dev/null &
  echo $! >>"$DIR/pid"
  n=$((n + 1))
done
ok=
for _ in $(seq 300); do
  if as_admin ldapsearch -LLL -s base -b "$BASE" objectSid >/dev/null 2>&1; then ok=1; break; fi
  running || break
  sleep 0.2
done
[ -n "$ok" ] || fail "did not answer on $AD_IP (127.0.0.1:$PORT)"

if [ ! -e "$DIR/loaded" ]; then
  add_people >"$DIR/people.ldif"
  as_admin ldapadd -f "$DIR/people.ldif" >"$DIR/load.log" 2>&1 || { tail -n 5 "$DIR/load.log"; fail "adding people failed"; }
  printf 'dn: CN=Partitions,CN=Configuration,%s\nchangetype: modify\nadd: uPNSuffixes\nuPNSuffixes: corp.example\n' "$BASE" |
    as_admin ldapmodify >"$DIR/load.log" 2>&1 || fail "adding the UPN suffix failed"
  for _ in 1 2 3; do
    ldapwhoami -x -H "ldaps://127.0.0.1:$((PORT + 1))" -D locked@example.test -w wrong >/dev/null 2>&1 || true
  done
  # LDAP may not write pwdLastSet: an old password needs the database itself and a private control.
  /usr/bin/python3 - "$DIR/smb.conf" >"$DIR/load.log" 2>&1 <<'PY' || { tail -n 5 "$DIR/load.log"; fail "ageing a password failed"; }
import sys
from samba.auth import system_session
from samba.param import LoadParm
from samba.samdb import SamDB
sam = SamDB(session_info=system_session(), lp=LoadParm(filename_for_non_global_lp=sys.argv[1]))
sam.modify_ldif("""dn: CN=Old Password,OU=Staff,DC=example,DC=test
changetype: modify
replace: pwdLastSet
pwdLastSet: 132223104000000000
""", ["local_oid:1.3.6.1.4.1.7165.4.3.20:0"])
PY
  samba-tool domain exportkeytab "$DIR/http.keytab" --principal=HTTP/gatehouse.example.test --configfile="$DIR/smb.conf" >"$DIR/load.log" 2>&1 || true
  touch "$DIR/loaded"
fi

{
  echo "AD_LDAP_URL=ldap://127.0.0.1:$PORT"
  echo "AD_LDAPS_URL=ldaps://127.0.0.1:$((PORT + 1))"
  echo "AD_GC_URL=ldap://127.0.0.1:$((PORT + 2))"
  echo "AD_GCS_URL=ldaps://127.0.0.1:$((PORT + 3))"
  echo "AD_IP=$AD_IP"
  echo "AD_CA=$DIR/tls/ca.crt"
  echo "AD_BASE=$BASE"
  echo "AD_DOMAIN=EXAMPLE"
  echo "AD_REALM=EXAMPLE.TEST"
  echo "AD_BIND_DN=CN=svc-gatehouse,OU=Services,$BASE"
  echo "AD_BIND_UPN=svc-gatehouse@example.test"
  echo "AD_BIND_PASSWORD=Svc-Secret-1"
  echo "AD_ADMIN='EXAMPLE\\Administrator'"
  echo "AD_ADMIN_PASSWORD=$ADMIN_PASSWORD"
  echo "AD_KRB5_CONFIG=$DIR/krb5.conf"
  echo "AD_HTTP_KEYTAB=$DIR/http.keytab"
} >"$DIR/env"
echo "samba-ad: ready on 127.0.0.1:$PORT (LDAP), :$((PORT + 1)) (LDAPS), :$((PORT + 2))/$((PORT + 3)) (global catalogue), :$((PORT + 4)) (Kerberos)"
