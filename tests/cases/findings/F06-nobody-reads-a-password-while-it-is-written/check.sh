#!/bin/sh
# shellcheck source=tests/cases/findings/lib.sh
. "${0%/*}/../lib.sh"
usual_network
usual_store
gen 17 main
# Another user reads whatever can be read.
# shellcheck disable=SC2016 # expanded by the other user's shell
setpriv --reuid=65534 --regid=65534 --clear-groups sh -c \
    'cd /etc/patroni; cat config.yml.in; while :; do for f in [0-9]*.yml .[!.]* site.key; do cat "$f"; done; done 2>/dev/null' > /tmp/read &
until [ -s /tmp/read ]; do sleep 0.01; done
# It can read what everybody may, which is not counted.
may=$(grep -c 'password:' /etc/patroni/config.yml.in)
for run in $(seq 40); do
    if ours; then gen 17 main --set "TTL=$((30 + run % 2))"; else gen 17 main --force; fi > /dev/null
done
read=$(($(grep -c 'password:' /tmp/read) - may))
[ "$read" = 0 ] || wrong "nobody has read $read lines with a password"
