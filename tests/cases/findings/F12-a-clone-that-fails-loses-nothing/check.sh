#!/bin/sh
# shellcheck source=tests/cases/findings/lib.sh
. "${0%/*}/../lib.sh"
ip link set lo up
pg_createcluster 17 rep > /dev/null
echo 'work_mem = 77MB # local' >> /etc/postgresql/17/rep/postgresql.conf
echo '# local' >> /etc/postgresql/17/rep/environment
# Patroni removes the data before it calls the hook.
rm -rf /var/lib/postgresql/17/rep
: > /tmp/pgpass
chown postgres /tmp/pgpass

! clone --scope=17-rep --role=replica --datadir=/var/lib/postgresql/17/rep \
    --connstring='dbname=postgres user=replicator host=127.0.0.1 port=5998' > /tmp/said 2>&1 || wrong "exit status 0 without a primary"

grep -q 5998 /tmp/said || wrong "it does not say what is wrong: $(cat /tmp/said)"
grep -rqs 'work_mem = 77MB # local' /etc/postgresql/17/rep/*.conf || wrong "the local line in postgresql.conf is gone"
grep -qs '^# local' /etc/postgresql/17/rep/environment || wrong "the local line in environment is gone"

# And the next attempt succeeds.
start_primary
clone --scope=17-rep --role=replica --datadir=/var/lib/postgresql/17/rep --connstring="$connstring" || wrong "the next attempt fails"
[ -e /var/lib/postgresql/17/rep/PG_VERSION ] || wrong "there is no data after the next attempt"
