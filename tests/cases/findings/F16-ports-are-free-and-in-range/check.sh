#!/bin/sh
# shellcheck source=tests/cases/findings/lib.sh
. "${0%/*}/../lib.sh"
usual_network
usual_store
pg_createcluster 17 taken --port=15432 > /dev/null
gen 17 digits --port=5432 || wrong "port 5432 is refused because of 15432"
gen 17 one
gen 17 two
[ "$(value "$(file 17 one)" postgresql connect_address)" != "$(value "$(file 17 two)" postgresql connect_address)" ] ||
    wrong "two instances have the same address $(value "$(file 17 one)" postgresql connect_address)"
for port in abc 99999 0 62960; do
    ! gen 17 bad "--port=$port" || wrong "port $port is accepted: $(grep listen: "$(file 17 bad)")"
done
[ ! -e "$(file 17 bad)" ] || wrong "a refused port leaves a file"
