#!/bin/sh
# shellcheck source=tests/cases/findings/lib.sh
. "${0%/*}/../lib.sh"
usual_network
usual_store
gen 17 main
file=$(file 17 main)
[ "$(value "$file" postgresql authentication replication password)" != "'rep-pass'" ] ||
    wrong "the replication password is rep-pass, as everywhere"
! grep -v '^ *#' "$file" | grep -q md5 || wrong "pg_hba has md5"
[ "$(value "$file" restapi authentication password)" != KeyError ] || wrong "everybody may use the REST API to change things"
[ "$(value "$file" postgresql listen)" != "'*:5432'" ] || wrong "it listens in every network of the host"
cp "$file" /tmp/first
rm -f "$file" /etc/patroni/site.key
gen 17 main
[ "$(value "$file" postgresql authentication replication password)" != \
    "$(value /tmp/first postgresql authentication replication password)" ] || wrong "another installation has the same password"
[ "$(stat -c %U:%G:%a "$file")" = root:postgres:640 ] || wrong "the file is $(stat -c %U:%G:%a "$file")"
