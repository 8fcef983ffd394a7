# shellcheck shell=sh
# For the cases: `gen`, `create` and `clone` are the programs under test.
set -eu

# What a case finds wrong. The exit status tells it from a case that does not work.
wrong() {
    echo "wrong: $*"
    exit 10
}

ours() {
    [ "$TOOLS_UNDER_TEST" = ours ]
}

# gen VERSION CLUSTER [--force] [--port=PORT]: the generator.
gen() {
    if ours; then
        patroni-gen-config "$@"
    else
        version=$1 cluster=$2
        shift 2
        pg_createconfig_patroni "$@" "$version" "$cluster"
    fi
}

# gen_at ADDRESS VERSION CLUSTER: the generator, told the address of this host.
gen_at() {
    address=$1
    shift
    if ours; then gen "$@" --set "HOST_ADDRESS=$address"; else gen "$@" "--hostip=$address"; fi
}

as_postgres() {
    setpriv --reuid=postgres --regid=postgres --init-groups "$@"
}

# create --scope= --datadir= ...: Patroni's custom bootstrap. The paths are those of Debian's package for both.
create() {
    as_postgres "$(hook create)" "$@"
}

# clone --scope= --role=replica --datadir= --connstring= ...: Patroni's replica creation.
clone() {
    as_postgres env PGPASSFILE=/tmp/pgpass "$(hook clone)" "$@"
}

hook() {
    path=/usr/share/patroni/pg_$1cluster_patroni
    if ours && [ -x "/usr/libexec/patroni-tools/${path##*/}" ]; then path=/usr/libexec/patroni-tools/${path##*/}; fi
    echo "$path"
}

# The path of the file that gen VERSION CLUSTER writes.
file() {
    echo "/etc/patroni/$1-$2.yml"
}

# value FILE KEY...: a value of a YAML file, as Python's representation of it.
value() {
    python3 -c '
import sys, yaml
try:
    value = yaml.safe_load(open(sys.argv[1]))
    for key in sys.argv[2:]:
        value = value[key]
    print(repr(value))
except Exception as error:
    print(type(error).__name__)
' "$@"
}

# network ADDRESS/PREFIX... [default]: interfaces with these addresses; "default" gives a default route.
network() {
    ip link set lo up
    ip link add eth0 type veth peer name outside
    ip link set eth0 up
    ip link set outside up
    for word; do
        case $word in
        default) ip route add default dev eth0 src "$first" ;;
        *:*) ip -6 address add "$word" dev eth0 nodad ;;
        *)
            first=${word%/*}
            ip address add "$word" dev eth0
            ;;
        esac
    done
}

# The address of most cases.
usual_network() {
    network 10.88.0.12/24 default
}

# store ...: the lines of dcs.yml, from stdin, for postgres only.
store() {
    cat > /etc/patroni/dcs.yml
    chown root:postgres /etc/patroni/dcs.yml
    chmod 0640 /etc/patroni/dcs.yml
}

usual_store() {
    printf 'etcd3:\n  hosts: 10.88.0.1:2379\n' | store
}

# Starts the cluster to clone from; the connection string and the password file are what Patroni would pass.
# shellcheck disable=SC2034 # used by the cases
connstring='dbname=postgres user=replicator host=127.0.0.1 port=5490'
start_primary() {
    ip link set lo up
    pg_ctlcluster --skip-systemctl-redirect 17 primary start
    echo '127.0.0.1:5490:*:replicator:copy-me' > /tmp/pgpass
    chown postgres /tmp/pgpass
    chmod 600 /tmp/pgpass
}

# whole FILE: is this a Patroni file with all that Patroni needs?
whole() {
    [ "$(value "$1" scope)" != "''" ] && python3 -c '
import sys, yaml
try:
    text = open(sys.argv[1]).read()
    assert text.count("\nbootstrap:") == 1
    y = yaml.safe_load(text)
    for section, key in (("restapi", "listen"), ("postgresql", "listen"), ("postgresql", "data_dir"), ("postgresql", "parameters")):
        assert y[section][key]
    assert any(store in y for store in ("etcd", "etcd3", "consul", "zookeeper", "raft", "kubernetes"))
except Exception:
    sys.exit(1)
' "$1"
}
