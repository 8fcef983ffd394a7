#!/bin/sh
# shellcheck source=tests/cases/findings/lib.sh
. "${0%/*}/../lib.sh"
create --scope=17/my-app --datadir=/var/lib/postgresql/17/my-app || wrong "the scope 17/my-app is refused"
[ -e /etc/postgresql/17/my-app/postgresql.conf ] || wrong "17/my-app is not there"
mkdir /srv/data
chown postgres /srv/data
create --scope=17-blank '--datadir=/srv/data/with a blank' --encoding=LATIN1 --locale=C --data-checksums=True ||
    wrong "a data directory with a blank is refused"
[ "$(pg_conftool -s 17 blank show data_directory)" = '/srv/data/with a blank' ] || wrong "the data is elsewhere"
/usr/lib/postgresql/17/bin/pg_controldata '/srv/data/with a blank' > /tmp/control
grep -q 'Data page checksum version: *1' /tmp/control || wrong "--data-checksums has no effect"
pg_ctlcluster --skip-systemctl-redirect 17 blank start
encoding=$(as_postgres psql --cluster=17/blank -Atc 'SHOW server_encoding')
[ "$encoding" = LATIN1 ] || wrong "--encoding=LATIN1 has no effect: $encoding"
! create --scope=prod --datadir=/srv/data/prod 2> /tmp/said || wrong "a scope without a version is accepted"
grep -q prod /tmp/said || wrong "it does not say what is wrong with the scope: $(cat /tmp/said)"
if ours; then create --cluster=17/prod --scope=prod --datadir=/srv/data/prod; fi
