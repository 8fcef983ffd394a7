#!/bin/sh
# shellcheck source=tests/cases/findings/lib.sh
. "${0%/*}/../lib.sh"
usual_network
printf '  # etcd3:\n  #   hosts: 10.88.0.1:2379\n' | store
if gen 17 main; then
    whole "$(file 17 main)" || wrong "exit status 0, but the file names no store"
fi
rm -f "$(file 17 main)"
# As the package ships it, with a ZooKeeper on this host that nobody asked for.
printf 'zookeeper:\n  hosts: 127.0.0.1:2181\n' | store
if gen 17 main; then
    [ "$(value "$(file 17 main)" zookeeper)" = KeyError ] || wrong "the example of the package is taken for the site's store"
fi
