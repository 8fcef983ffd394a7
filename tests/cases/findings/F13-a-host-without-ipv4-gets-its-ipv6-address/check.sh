#!/bin/sh
# shellcheck source=tests/cases/findings/lib.sh
. "${0%/*}/../lib.sh"
network fd00:88::12/64
ip -6 route add default via fd00:88::1 dev eth0
usual_store
gen 17 main || wrong "exit status $?"
file=$(file 17 main)
[ "$(value "$file" restapi connect_address)" = "'[fd00:88::12]:8008'" ] ||
    wrong "restapi.connect_address is $(value "$file" restapi connect_address)"
[ "$(value "$file" postgresql connect_address)" = "'[fd00:88::12]:5432'" ] ||
    wrong "postgresql.connect_address is $(value "$file" postgresql connect_address)"
grep -q 'replication .*fd00:88::/64' "$file" || wrong "the members may not replicate: $(grep 'host.*replication' "$file")"

# Without any address it says so and writes nothing.
ip link del eth0
rm "$file"
! gen 17 main || wrong "exit status 0 without any address"
[ ! -e "$file" ] || wrong "a file is left without any address"
