#!/bin/sh
# shellcheck source=tests/cases/findings/lib.sh
. "${0%/*}/../lib.sh"
pg_createcluster 17 app > /dev/null
echo 'somebody needs this' > /var/lib/postgresql/17/app/PRECIOUS
start_primary

clone --scope=17-my-app --role=replica --datadir=/var/lib/postgresql/17/my-app --connstring="$connstring"

[ -e /var/lib/postgresql/17/app/PRECIOUS ] || wrong "cloning 17-my-app removed the data of 17/app"
[ "$(pg_conftool -s 17 app show data_directory)" = /var/lib/postgresql/17/app ] ||
    wrong "cloning 17-my-app changed the configuration of 17/app"
[ -e /etc/postgresql/17/my-app/postgresql.conf ] || wrong "there is no /etc/postgresql/17/my-app"
[ -e /var/lib/postgresql/17/my-app/PG_VERSION ] || wrong "there is no data of 17/my-app"
