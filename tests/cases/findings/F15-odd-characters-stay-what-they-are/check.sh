#!/bin/sh
# shellcheck source=tests/cases/findings/lib.sh
. "${0%/*}/../lib.sh"
usual_network
printf '%s\n' 'etcd3:' '  hosts: 10.88.0.1:2379' '  username: patroni' "  password: 'a&b\"c\\1'" | store
gen 17 main || wrong "exit status $?"
[ "$(value "$(file 17 main)" etcd3 password)" = "$(value /etc/patroni/dcs.yml etcd3 password)" ] ||
    wrong "the password $(value /etc/patroni/dcs.yml etcd3 password) became $(value "$(file 17 main)" etcd3 password)"
for name in 'a&b' 'a"b' 'a\b'; do
    ! gen 17 "$name" || wrong "the name $name is accepted"
done
[ "$(ls /etc/patroni/17-*)" = "$(file 17 main)" ] || wrong "there are other files: $(ls /etc/patroni/17-*)"
