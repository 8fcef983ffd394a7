#!/bin/sh
# shellcheck source=tests/cases/findings/lib.sh
. "${0%/*}/../lib.sh"
usual_network
usual_store
gen 17 main
file=$(file 17 main)
for round in $(seq 10); do
    if ours; then set -- --set "TTL=$((30 + round % 2))"; else set -- --force; fi
    gen 17 main "$@" > /tmp/one 2>&1 &
    one=$!
    gen 17 main "$@" > /tmp/two 2>&1 &
    two=$!
    first=0 second=0
    wait $one || first=$?
    wait $two || second=$?
    whole "$file" || wrong "round $round: the file holds $(grep -c '^scope' "$file") copies (exit status $first and $second)"
    [ $first = 0 ] || [ $second = 0 ] || wrong "round $round: both gave up"
    [ $first = 0 ] || grep -q 'another program of patroni-tools' /tmp/one || wrong "round $round: $(cat /tmp/one)"
    [ $second = 0 ] || grep -q 'another program of patroni-tools' /tmp/two || wrong "round $round: $(cat /tmp/two)"
done
