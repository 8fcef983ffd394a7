#!/bin/sh
# shellcheck source=tests/cases/findings/lib.sh
. "${0%/*}/../lib.sh"
usual_network
store <<'END'
etcd3:
  url: https://10.88.0.1:2379
  cacert: /etc/ssl/etcd/ca.pem
END

gen 17 main || wrong "exit status $?"

whole "$(file 17 main)" || wrong "exit status 0, but the file is not whole: $(wc -c < "$(file 17 main)") bytes"
[ "$(value "$(file 17 main)" etcd3 cacert)" = "'/etc/ssl/etcd/ca.pem'" ] || wrong "cacert is lost"
