#!/bin/sh
# shellcheck source=tests/cases/findings/lib.sh
. "${0%/*}/../lib.sh"
start_primary
pg_createcluster 17 busy > /dev/null
pg_ctlcluster --skip-systemctl-redirect 17 busy start
echo 'local' > /var/lib/postgresql/17/busy/PRECIOUS
! clone --scope=17-busy --role=replica --datadir=/var/lib/postgresql/17/busy --connstring="$connstring" || wrong "exit status 0"
[ -e /var/lib/postgresql/17/busy/PRECIOUS ] || wrong "data is lost"
pg_lsclusters --no-header 17 busy | grep -q online || wrong "the cluster no longer runs"
