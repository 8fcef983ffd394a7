#!/bin/sh
# shellcheck source=tests/cases/findings/lib.sh
. "${0%/*}/../lib.sh"
usual_network
usual_store
find /etc/patroni | sort > /tmp/before
sentence() {
    status=0
    "$@" > /tmp/said 2>&1 || status=$?
    [ $status = 1 ] || wrong "$*: exit status $status"
    # A hint is a line of its own.
    sed -i '/: hint: /d' /tmp/said
    [ "$(wc -l < /tmp/said)" = 1 ] || wrong "$*: $(wc -l < /tmp/said) lines: $(tr '\n' '|' < /tmp/said)"
}
sentence gen 99 main
sentence gen 9 main
sentence gen 17 a/b
sentence gen 17 ../../tmp/evil
find /etc/patroni | sort | cmp -s - /tmp/before || wrong "a refused call left something in /etc/patroni"
[ ! -e /tmp/evil.yml ] || wrong "it wrote outside of /etc/patroni"
if ours; then program=patroni-gen-config; else program=pg_createconfig_patroni; fi
sentence setpriv --reuid=65534 --regid=65534 --clear-groups $program 17 main
