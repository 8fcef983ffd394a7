#!/bin/bash
# A user without any right asks PostgreSQL by every way, over and over. Arguments: bin directory, port, file for answers, file
# for refusals, hosts.
psql=$1/psql port=$2 answers=$3 refusals=$4
shift 4
export PGCONNECT_TIMEOUT=2
while :; do
    # So that a bootstrap has something of the machine, too.
    sleep 0.1
    for host in "$@"; do
        for user in postgres replicator; do
            "$psql" "host=$host port=$port user=$user dbname=postgres" -XAtwc "select '$host', current_user" >> "$answers" 2>> "$refusals"
        done
        "$psql" "host=$host port=$port user=replicator dbname=postgres replication=true" -XAtwc IDENTIFY_SYSTEM >> "$answers" 2>> "$refusals"
    done
done
