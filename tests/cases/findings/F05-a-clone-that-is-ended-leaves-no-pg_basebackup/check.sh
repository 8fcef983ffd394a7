#!/bin/sh
# shellcheck source=tests/cases/findings/lib.sh
. "${0%/*}/../lib.sh"
ip link set lo up
: > /tmp/pgpass
chown postgres /tmp/pgpass
# A primary that accepts a connection and then says nothing, for as long as the clone lives.
cat > /tmp/silent.py <<'END'
import socket, time
server = socket.create_server(("127.0.0.1", 5999))
open("/tmp/listening", "w").close()
connections = []
while True:
    connections.append(server.accept())
    open("/tmp/connected", "w").close()
END
python3 /tmp/silent.py &
appears() {
    for _ in $(seq 200); do
        [ ! -e "$1" ] || return 0
        sleep 0.1
    done
    return 1
}
appears /tmp/listening
children() {
    pgrep -u postgres -f 'pg_basebackup|psql|pg_receivewal' | wc -l
}

for signal in TERM KILL; do
    rm -f /tmp/connected
    clone --scope=17-c$signal --role=replica --datadir=/var/lib/postgresql/17/c$signal \
        --connstring='dbname=postgres user=replicator host=127.0.0.1 port=5999' > /dev/null 2>&1 &
    job=$!
    appears /tmp/connected
    hook=$(pgrep -u postgres -f "clonecluster_patroni.*17-c$signal" | head -n 1)
    kill -$signal "$hook"
    wait $job || true
    for _ in $(seq 30); do
        [ "$(children)" = 0 ] && break
        sleep 0.1
    done
    [ "$(children)" = 0 ] || wrong "3 s after SIG$signal to the hook this still runs: $(pgrep -a -u postgres -f 'pg_basebackup|psql')"
done

# Ours can also be ended while the data flows: at 32 kB/s this clone would take minutes.
ours || exit 0
start_primary
for signal in TERM KILL; do
    clone --max-rate=32k --scope=17-s$signal --role=replica --datadir=/var/lib/postgresql/17/s$signal \
        --connstring="$connstring" > /dev/null 2>&1 &
    job=$!
    appears /var/lib/postgresql/17/s$signal/PG_VERSION || appears /var/lib/postgresql/17/s$signal/base
    [ "$(pgrep -u postgres -cf pg_basebackup)" -gt 0 ]
    kill -$signal "$(pgrep -u postgres -f "clonecluster_patroni.*17-s$signal" | head -n 1)"
    wait $job || true
    for _ in $(seq 30); do
        pgrep -u postgres -f 'pg_basebackup --|bin/pg_basebackup' > /dev/null || break
        sleep 0.1
    done
    ! pgrep -u postgres -af bin/pg_basebackup || wrong "3 s after SIG$signal to the hook its pg_basebackup still runs"
done
