#!/bin/sh
# shellcheck source=tests/cases/findings/lib.sh
. "${0%/*}/../lib.sh"
network 10.88.0.12/24 fd00:88::12/64 default
usual_store
gen_at fd00:88::12 17 main || wrong "exit status $? with an IPv6 address"
[ "$(value "$(file 17 main)" restapi listen)" = "'[fd00:88::12]:8008'" ] ||
    wrong "restapi.listen is $(value "$(file 17 main)" restapi listen)"
rm "$(file 17 main)"
! gen_at 10.88.0.12/24 17 main || wrong "an address with a prefix is accepted"
[ ! -e "$(file 17 main)" ] || wrong "an address with a prefix leaves a file"
