#!/bin/sh
# shellcheck source=tests/cases/findings/lib.sh
. "${0%/*}/../lib.sh"
usual_network
usual_store
gen 17 main
echo '# a local edit' >> "$(file 17 main)"
cp -p "$(file 17 main)" /tmp/before

if ours; then mv /usr/share/patroni-tools/templates /tmp/; else mv /etc/patroni/config.yml.in /tmp/; fi
if gen 17 main --force; then said=0; else said=$?; fi
cmp -s /tmp/before "$(file 17 main)" || wrong "without its template it destroyed the old file (exit status $said)"
[ "$said" = 1 ] || wrong "without its template it exits $said"

if ours; then mv /tmp/templates /usr/share/patroni-tools/; else mv /tmp/config.yml.in /etc/patroni/; fi
gen 17 main --force
grep -rqs '^# a local edit' /etc/patroni || wrong "--force keeps no copy of the local edit"
