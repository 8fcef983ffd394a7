#!/bin/sh
# shellcheck source=tests/cases/findings/lib.sh
. "${0%/*}/../lib.sh"
usual_network
store <<'END'
etcd3:
  hosts:
  - 10.0.0.1:2379
  - 10.0.0.2:2379
  username: patroni
  password: p-4.5.6.7
END
if ours; then
    gen 17 main
else
    [ -e /etc/patroni/vip.in ] || { echo 'VIP_ENDPOINT="@VIP_ENDPOINT@"' > /etc/patroni/vip.in; }
    gen 17 main --vip=10.88.0.100 || true
fi
leak=$(find /etc /tmp /var/lib -xdev -type f -perm -o=r -newer /etc/patroni/dcs.yml -exec grep -HE 'p-?4\.5\.6\.7' {} +) || true
[ -z "$leak" ] || wrong "everybody can read the store's password: $leak"
[ "$(value "$(file 17 main)" etcd3 password)" = "'p-4.5.6.7'" ] || wrong "the password is lost"
