#!/bin/sh
# shellcheck source=tests/cases/findings/lib.sh
. "${0%/*}/../lib.sh"
usual_network
usual_store
gen 17 main
file=$(file 17 main)
begin=$(date +%s%N)
gen 17 main --force > /dev/null
length=$((($(date +%s%N) - begin) / 1000))
for run in $(seq 60); do
    # Ours would have nothing to write.
    if ours; then set -- --set "TTL=$((30 + run % 2))"; else set -- --force; fi
    # A process of its own, so that it is the program that is killed.
    (if ours; then exec patroni-gen-config 17 main "$@"; else exec pg_createconfig_patroni "$@" 17 main; fi) > /dev/null 2>&1 &
    delay=$((length * (run * 37 % 110) / 100))
    sleep "$(printf '%d.%06d' $((delay / 1000000)) $((delay % 1000000)))"
    kill -KILL $! 2>/dev/null || true
    wait $! 2>/dev/null || true
    whole "$file" || wrong "killed after $((delay / 1000)) ms it leaves $(wc -c < "$file" 2>/dev/null || echo no) bytes"
    mode=$(stat -c %a "$file")
    if ours; then expected=640; else expected=660; fi
    [ "$mode" = $expected ] || wrong "killed after $((delay / 1000)) ms it leaves mode $mode"
done
