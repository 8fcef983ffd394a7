#!/bin/sh
# shellcheck source=tests/cases/findings/lib.sh
. "${0%/*}/../lib.sh"
network 10.88.0.12/24 fd00:88::12/64 default
printf 'etcd3:\n  hosts: 127.0.0.1:2379\n' | store
# The validator connects to the store, and no more.
python3 -c '
import select, socket
servers = [socket.create_server(("127.0.0.1", port)) for port in (2379, 8500, 8501, 2181, 2281)]
servers.append(socket.create_server(("10.88.0.12", 3333)))
servers.append(socket.create_server(("fd00:88::12", 3333), family=socket.AF_INET6))
open("/tmp/listening", "w").close()
while True:
    for server in select.select(servers, [], [])[0]: server.accept()
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
install -m 0640 /dev/null /tmp/secret
echo "1234" > /tmp/secret
tls='--set DCS_CACERT=/tmp/cert --set DCS_CERT=/tmp/cert --set DCS_KEY=/tmp/key'
user='--set DCS_USERNAME=0777 --set DCS_PASSWORD_FILE=/tmp/secret'
# shellcheck disable=SC2086 # lists of words
{
    try --set DCS_SRV=example.org $tls $user
    try --set DCS=etcd --set DCS_ALLOW_V2=yes $tls $user
    try --set DCS=consul
    try --set DCS=consul $tls --set DCS_TOKEN_FILE=/tmp/secret --set CONSUL_REGISTER_SERVICE=yes \
        --set CONSUL_SERVICE_TAGS=1,yes --set CONSUL_DC=1 --set CONSUL_CHECKS=serfHealth
    try --set DCS=consul --set DCS_PROTOCOL=https --set DCS_VERIFY=no
    try --set DCS=zookeeper
    try --set DCS=zookeeper --set DCS_HOSTS=127.0.0.1,127.0.0.1:2281 $tls $user --set DCS_VERIFY=no --set ZOOKEEPER_ACL=CN=1
    try --set DCS=raft
    try --set DCS=raft --set DCS_HOSTS=10.88.0.12:3333 --set DCS_PASSWORD_FILE=/tmp/secret --set RAFT_DATA_DIR=/var/lib/raft
    try --set DCS=raft --set HOST_ADDRESS=fd00:88::12 --set 'DCS_HOSTS=[fd00:88::12]:3333'
    try --set DCS=kubernetes --set KUBERNETES_NAMESPACE=1 --set KUBERNETES_LABELS=a=1 --set KUBERNETES_USE_ENDPOINTS=yes
    try --set DCS=exhibitor --set DCS_HOSTS=10.88.0.1:8181,10.88.0.2:8181
}
try --set CLONE_MAX_RATE=50M --set CLONE_COMPRESS=gzip:1 --set CLONE_CHECKPOINT=spread
try --set PRIMARY_START_TIMEOUT=0 --set SYNCHRONOUS_MODE=on --set SYNCHRONOUS_MODE_STRICT=yes \
    --set SLOTS=site_b:physical,app:logical:shop:pgoutput --set PG_wal_level=logical
try --set 'STANDBY_HOST=10.9.0.1,fd00::7' --set STANDBY_PORT=5433 --set STANDBY_SLOT=site_a --set PASSWORD_SCOPE=17/source
try --set PG_max_connections=200 --set PG_work_mem=8MB --set 'PG_archive_command=test "a b"' --set PG_TUNE=auto
try --set NOFAILOVER=yes --set NOLOADBALANCE=yes --set CLONEFROM=yes --set NOSYNC=yes --set WATCHDOG_DEVICE=/dev/watchdog1
try --set FAILOVER_PRIORITY=0 --set LOG_LEVEL=warning --set LOG_DIR=/tmp --set LOG_FILE_NUM=1 --set LOG_FILE_SIZE=1000 \
    --set 'LOG_FORMAT=%(message)s'
echo secret > /tmp/password
chmod 0640 /tmp/key /tmp/password
printf 'host all all .example.org ldap ldapserver=x ldapprefix=cn=\n' > /tmp/hba
printf 'auto_explain.log_min_duration = 3s\n' > /tmp/parameters
try --set SSL_CERT=/tmp/cert --set SSL_KEY=/tmp/key --set SSL_CACERT=/tmp/cert --set PG_HBA_FILE=/tmp/hba \
    --set PG_PARAMETERS_FILE=/tmp/parameters --set SUPERUSER_PASSWORD_FILE=/tmp/password \
    --set REPLICATION_PASSWORD_FILE=/tmp/password --set REWIND_PASSWORD_FILE=/tmp/password
try --set SSL_CERT=/tmp/cert --set SSL_KEY=/tmp/key --set SSL_CACERT=/tmp/cert --set REPLICATION_AUTH=cert \
    --set REPLICATION_CERT=/tmp/cert --set REPLICATION_KEY=/tmp/key
# Patroni knows quorum, but its own validator does not until 4.1.
rm "$(file 17 main)"
gen 17 main --set SYNCHRONOUS_MODE=quorum > /dev/null
! (accepted quorum) > /tmp/quorum || wrong 'the validator accepts quorum now: this test has no exception to make'
[ "$(sed 's/.*dcs.synchronous_mode //' /tmp/said)" = 'quorum is not a boolean' ] || wrong "quorum: $(cat /tmp/said)"
patroni-gen-config --check --offline 17 main 2> /tmp/said || wrong "our own check refuses it: $(cat /tmp/said)"
