#!/bin/sh
# shellcheck source=tests/cases/findings/lib.sh
. "${0%/*}/../lib.sh"
usual_network
usual_store
ours || exit 0

# refused WORDS SETTING: is it refused once, with these words in the error or its hint?
refused() {
    words=$1
    shift
    if patroni-gen-config 17 main "$@" 2> /tmp/said; then wrong "$* is taken"; fi
    grep -qF -- "$words" /tmp/said || wrong "$*: $(cat /tmp/said)"
    [ "$(grep -vc ': hint: ' /tmp/said)" = 1 ] || wrong "$*: more than one error: $(cat /tmp/said)"
}

refused 'has no parameter shard_buffers' --set PG_shard_buffers=1GB
refused 'Did you mean shared_buffers?' --set PG_shard_buffers=1GB
refused 'Valid units for this parameter are' --set PG_work_mem=10XB
refused 'outside the valid range' --set PG_max_connections=5000000
refused 'requires a Boolean value' --set PG_jit=maybe
refused 'PostgreSQL 17 refuses the value' --set "PG_datestyle=b'c\\"
printf 'work_mem = 1MB\nwork_mam = 1MB\n' > /tmp/parameters
refused '/tmp/parameters: work_mam: PostgreSQL 17 has no parameter work_mam' \
    --set PG_PARAMETERS_FILE=/tmp/parameters
[ ! -e "$(file 17 main)" ] || wrong 'a file was written'

# Whatever the value is, it is the server's in the end, and nothing is left behind.
printf "auto_explain.log_min_duration = '3s'\n" > /tmp/parameters
gen 17 main --set PG_shared_buffers=64MB --set PG_PARAMETERS_FILE=/tmp/parameters --set 'PG_archive_command=a '\''b'\'' \ "c" %f' \
    --set PG_TUNE=auto > /dev/null
dcs() { value "$(file 17 main)" bootstrap dcs postgresql parameters "$1"; }
[ "$(dcs archive_command)" = "'a \\'b\\' \\\\ \"c\" %f'" ] || wrong "archive_command is $(dcs archive_command)"
[ "$(dcs auto_explain.log_min_duration)" = "'3s'" ] || wrong 'a parameter with a dot is lost'
[ "$(value "$(file 17 main)" postgresql parameters shared_buffers)" = KeyError ] || wrong 'PG_TUNE wins over PG_shared_buffers'
[ "$(value "$(file 17 main)" postgresql parameters work_mem)" != KeyError ] || wrong 'PG_TUNE did nothing'
