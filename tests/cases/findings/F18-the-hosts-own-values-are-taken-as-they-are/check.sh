#!/bin/sh
# shellcheck source=tests/cases/findings/lib.sh
. "${0%/*}/../lib.sh"
usual_network
usual_store
echo "data_directory = '/srv/%c-%v/data'" > /etc/postgresql-common/createcluster.conf
hostname 123
gen 17 dd2
[ "$(value "$(file 17 dd2)" postgresql data_dir)" = "'/srv/dd2-17/data'" ] ||
    wrong "data_dir is $(value "$(file 17 dd2)" postgresql data_dir), where pg_createcluster makes /srv/dd2-17/data"
[ "$(value "$(file 17 dd2)" name)" = "'123'" ] || wrong "name is $(value "$(file 17 dd2)" name), which is no text"
grep -q 'replication .*10\.88\.0\.0/24' "$(file 17 dd2)" || wrong "no network in pg_hba: $(grep 'replication.*10' "$(file 17 dd2)")"
