#!/bin/sh
# shellcheck source=tests/cases/findings/lib.sh
. "${0%/*}/../lib.sh"
usual_network
usual_store
mkdir /tmp/elsewhere
cd /tmp/elsewhere
echo 'not yours' > app.yml
find /etc/patroni | sort > /tmp/before

! gen 17 'my app' || accepted=1

[ "$(cat app.yml)" = 'not yours' ] || wrong "a file in the working directory was emptied"
find /etc/patroni | sort | cmp -s - /tmp/before ||
    wrong "there is a new file: $(find /etc/patroni -name '*my*' -printf '%p (%m) ')"
[ -z "${accepted-}" ] || wrong "exit status 0"
