#!/bin/sh
# shellcheck source=tests/cases/findings/lib.sh
. "${0%/*}/../lib.sh"
network 10.88.0.12/24 default
printf 'etcd3:\n  hosts: 127.0.0.1:2379\n' | store
ours || exit 0
etcd --data-dir /tmp/etcd > /tmp/etcd.log 2>&1 &
export ETCDCTL_API=3
until etcdctl endpoint health > /dev/null 2>&1; do sleep 0.1; done
gen 17 main > /dev/null 2>&1
apply() { patroni-gen-config --apply 17/main "$@" > /tmp/said 2>&1; }
# has KEY...: what the store has, through Debian's patronictl.
has() {
    patronictl -c "$(file 17 main)" show-config > /tmp/config.yml
    value /tmp/config.yml "$@"
}

if apply --yes; then wrong 'a cluster that does not exist is changed'; fi
grep -q 'no configuration in the DCS yet' /tmp/said || wrong "no cluster: $(cat /tmp/said)"

etcdctl put /postgresql-common/17-main/config \
    '{"ttl":30,"pause":true,"postgresql":{"parameters":{"work_mem":"4MB","auto_explain.log_min_duration":"1s"}}}' > /dev/null
printf "auto_explain.log_min_duration = 3s\n" > /tmp/parameters
cat > /etc/default/patroni <<'EOF'
TTL=25
LOOP_WAIT=5
SYNCHRONOUS_MODE=yes
SLOTS=site_b:physical
PG_archive_command="cp '%p' \\ é"
PG_PARAMETERS_FILE=/tmp/parameters
EOF
if apply < /dev/null; then wrong 'it changes the cluster without asking'; fi
grep -q 'stdin is not a terminal' /tmp/said || wrong "not asked: $(cat /tmp/said)"
[ "$(has ttl)" = 30 ] || wrong 'it changed the cluster without asking'

# Asked on a terminal.
echo n | script -qec 'patroni-gen-config --apply 17/main' /tmp/said > /dev/null && wrong 'no is taken for yes'
[ "$(has ttl)" = 30 ] || wrong 'no is taken for yes'
echo y | script -qec 'patroni-gen-config --apply 17/main' /tmp/said > /dev/null || wrong "yes: $(cat /tmp/said)"
[ "$(has ttl) $(has pause) $(has synchronous_mode)" = '25 True True' ] || wrong "$(cat /tmp/config.yml)"
[ "$(has slots site_b type)" = "'physical'" ] || wrong "$(cat /tmp/config.yml)"
parameters() { has postgresql parameters "$1"; }
[ "$(parameters auto_explain.log_min_duration)" = "'3s'" ] || wrong "$(cat /tmp/config.yml)"
[ "$(parameters work_mem)" = "'4MB'" ] || wrong "$(cat /tmp/config.yml)"
[ "$(parameters archive_command)" = "\"cp '%p' \\\\ é\"" ] || wrong "$(cat /tmp/config.yml)"

apply || wrong "a second time: $(cat /tmp/said)"
grep -q 'the running cluster is up to date' /tmp/said || wrong "a second time: $(cat /tmp/said)"
grep -q 'kept (--prune removes it): postgresql.parameters.work_mem' /tmp/said || wrong "$(cat /tmp/said)"
apply --yes --prune || wrong "--prune: $(cat /tmp/said)"
[ "$(parameters work_mem) $(has pause)" = 'KeyError True' ] || wrong "$(cat /tmp/config.yml)"
