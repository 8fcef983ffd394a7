#!/bin/sh
# shellcheck source=tests/cases/findings/lib.sh
. "${0%/*}/../lib.sh"
data=/var/lib/postgresql/17/bf
create --scope=17-bf --datadir=$data
# What Patroni does when a bootstrap fails after the hook: its own pg_hba.conf stays, the data is moved away.
as_postgres sh -c 'echo "local all postgres trust" > /etc/postgresql/17/bf/pg_hba.conf'
as_postgres mv $data $data.failed

create --scope=17-bf --datadir=$data || wrong "the next attempt fails"

[ -e $data/PG_VERSION ] || wrong "the next attempt made no cluster"
! grep -q '^[^#].*trust' /etc/postgresql/17/bf/pg_hba.conf || wrong "pg_hba.conf still lets everybody in"
[ -e $data.failed ] || wrong "what Patroni kept of the first attempt is gone"
