#!/bin/sh
# shellcheck source=tests/cases/findings/lib.sh
. "${0%/*}/../lib.sh"
network 10.88.0.12/24 fd00:88::12/64 default
printf 'etcd3:\n  hosts: 127.0.0.1:2379\n' | store
# The validator connects to the store, and no more.
python3 -c '
import socket
server = socket.create_server(("127.0.0.1", 2379))
open("/tmp/listening", "w").close()
while True: server.accept()
' &
until [ -e /tmp/listening ]; do sleep 0.05; done

# accepted: does Patroni find nothing wrong with the file?
accepted() {
    env -i PATH=/usr/bin:/bin timeout 20 patroni --validate-config "$(file 17 main)" > /tmp/said 2>&1 ||
        wrong "$1: $(tr '\n' '|' < /tmp/said)"
    [ ! -s /tmp/said ] || wrong "$1: $(tr '\n' '|' < /tmp/said)"
}

gen 17 main
accepted 'the plain file'
ours || exit 0
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=test -keyout /tmp/key -out /tmp/cert 2> /dev/null
try() {
    rm -f "$(file 17 main)"
    gen 17 main "$@" > /dev/null
    accepted "$*"
}
try --set HOST_ADDRESS=fd00:88::12
try --set 'LISTEN_ADDRESSES=*' --port 5555
try --set DCS_CACERT=/tmp/cert --set DCS_CERT=/tmp/cert --set DCS_KEY=/tmp/key
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=pg1 -addext subjectAltName=IP:10.88.0.12 \
    -keyout /etc/patroni/rest.key -out /etc/patroni/rest.pem 2> /dev/null
chgrp postgres /etc/patroni/rest.key
chmod 640 /etc/patroni/rest.key
for verify in none optional required; do
    try --set RESTAPI_CERT=/etc/patroni/rest.pem --set RESTAPI_KEY=/etc/patroni/rest.key --set RESTAPI_CACERT=/etc/patroni/rest.pem \
        --set RESTAPI_VERIFY_CLIENT=$verify --set MEMBERS=13=10.88.0.12,b=10.88.0.13 --set RESTAPI_ALLOWLIST=yes --set MEMBER_NAME=13
done
try --set RESTAPI_CERT=snakeoil --set RESTAPI_USERNAME=a --set RESTAPI_ALLOWLIST=yes
try --set SYNCHRONOUS_MODE=yes --set SYNCHRONOUS_NODE_COUNT=2 --set FAILSAFE_MODE=no --set WATCHDOG=off
try --set MEMBER_NAME=123 --set NAMESPACE=/a/b --set TTL=60 --set LOOP_WAIT=20
try --set LOCALE=C.UTF-8 --set ENCODING=UTF8 --set DATA_CHECKSUMS=no
try --set CLONE_MAX_RATE=50M --set CLONE_COMPRESS=gzip:1 --set CLONE_CHECKPOINT=spread
patroni-gen-config --check 17 main 2> /tmp/said || wrong "our own check refuses it: $(cat /tmp/said)"
