#!/bin/sh
# shellcheck source=tests/cases/findings/lib.sh
. "${0%/*}/../lib.sh"
usual_network
usual_store
if ours; then program=patroni-gen-config; else program=pg_createconfig_patroni; fi
$program 17 main --port 5555 || wrong "--port 5555 after the cluster is refused"
[ "$(value "$(file 17 main)" postgresql connect_address)" = "'10.88.0.12:5555'" ] || wrong "--port 5555 had no effect"
$program --force 17 main --port=5556 || wrong "--port=5556 after the cluster is refused"
$program --help | grep -qi usage || wrong "there is no --help"
status=0
$program --colour 17 main 2> /tmp/said || status=$?
[ $status = 2 ] || wrong "an unknown option exits $status"
grep -q -- --colour /tmp/said || wrong "it does not name the unknown option"
status=0
$program 17 main extra > /dev/null 2>&1 || status=$?
[ $status = 2 ] || wrong "a word too many exits $status"
