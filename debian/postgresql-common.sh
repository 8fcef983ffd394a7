#!/bin/sh
# Stands in front of the programs of postgresql-common that would stop, rename, upgrade, remove or replace a server that Patroni runs.
# They are diverted to NAME.debian. If the cluster is not Patroni's, or if that is not certain, nothing but the program itself is run.
# /usr/share/doc/patroni-tools/habits.md.gz has what to run in place of each.
root=${PATRONI_TOOLS_ROOT:-}
# Root may call it with the PATH of another user. The programs of postgresql-common do not use that either.
PATH=/sbin:/bin:/usr/sbin:/usr/bin
program=${0##*/}
[ -e "$root/usr/bin/$program.debian" ] || program=$(basename -- "$(readlink -f -- "$0")")
diverted=$root/usr/bin/$program.debian

# Clusters of a user, such as those that postgresql-common's programs are tested with; pg_createcluster removes what it has
# created if a bootstrap of Patroni fails.
[ -z "$PG_CLUSTER_CONF_ROOT$PATRONI_TOOLS_BOOTSTRAP" ] || exec "$diverted" "$@"

# The cluster, in each notation: `17 main`, `17-main`, `17/main`. Since a word can also be the value of an option, only what is there
# is a cluster.
find_cluster() {
    case $1/$2 in
        [0-9]*/[!-.]*) ;;
        *) return 1 ;;
    esac
    case $1$2 in
        */*) return 1 ;;
    esac
    [ -d "$root/etc/postgresql/$1/$2" ] || [ -f "$root/etc/patroni/$1-$2.yml" ] || return 1
    version=$1 name=$2
}

version='' name='' action='' previous=''
for word; do
    case $word in
        --) break ;;
        # How systemd and this package call pg_ctlcluster, and how an administrator says "nevertheless"; pg_upgradecluster changes nothing.
        --skip* | --check) exec "$diverted" "$@" ;;
    esac
    # A cluster can have the name of an action.
    if [ -n "$name" ] || ! find_cluster "$previous" "$word"; then
        case $word in
            start | stop | restart | promote) action=$word ;;
            *[-/]*) [ -n "$name" ] || find_cluster "${word%%[-/]*}" "${word#*[-/]}" || : ;;
        esac
    fi
    previous=$word
done
[ -n "$name" ] || exec "$diverted" "$@"

cluster=$version/$name
unit=patroni@$version-$name
etc=$root/etc/postgresql/$cluster
file=/etc/patroni/$version-$name.yml

# As in the drop-in for postgresql@.service.
is_enabled() {
    [ -L "$root/etc/systemd/system/multi-user.target.wants/$unit.service" ]
}

# Are there processes of the unit? In maintenance mode the server outlives Patroni. The second control group is for cgroup v1.
has_processes() {
    [ -d "$root/sys/fs/cgroup/system.slice/system-postgresql.slice/$unit.service" ] ||
        [ -d "$root/sys/fs/cgroup/systemd/system.slice/system-postgresql.slice/$unit.service" ]
}

# Between two attempts to start it, the unit has no processes.
is_running() {
    has_processes || [ -e "$root$file" ] || return 1
    case $("$root/usr/bin/systemctl" show --property=ActiveState "$unit.service" 2>/dev/null) in
        *=active | *=activating | *=reloading) ;;
        *) return 1 ;;
    esac
}

refuse() {
    printf '%s: error: %s\n%s: hint: %s\n' "$program" "$1" "$program" "$2" >&2
    exit 1
}

# The name of this member, in front of which there is a space, if it can be read and needs no quotes.
member() {
    sed -n 's/^name: *"\{0,1\}\([A-Za-z0-9_.-]*\)"\{0,1\} *$/ \1/p' "$root$file" 2>/dev/null | head -n 1
}

# Has Patroni been here? Other clusters have no files of its, and their programs are replaced by nothing.
was_here() {
    [ -e "$root$file" ] || [ -e "$etc/postgresql.base.conf" ]
}

# Removes what Patroni and its hooks have put beside the files of postgresql-common, if nothing else is left of the cluster. As postgres
# and without a terminal, because postgres can make each of these names a link.
forget() {
    [ -d "$etc" ] || return 0
    set -- timeout 20 sh -c '
        cd -- "$1" || exit 0
        [ ! -e postgresql.conf ] && [ ! -L postgresql.conf ] || exit 0
        data=$(sed -n "s/^ *data_directory *=* *.\([^'\'']*\).*/\1/p" postgresql.base.conf 2>/dev/null)
        [ -z "$data" ] || [ ! -e "$2$data/PG_VERSION" ] || exit 0
        rm -f postgresql.base.conf postgresql.conf.backup postgresql.base.conf.backup pg_hba.conf.backup pg_ident.conf.backup
        rm -rf replaced .new
        cd / && rmdir -- "$1" && rmdir -- "${1%/*}"
    ' sh "$etc" "$root"
    if [ -z "$root" ] && [ "$(id -u)" = 0 ]; then
        set -- setsid --wait setpriv --reuid=postgres --regid=postgres --init-groups -- "$@"
    fi
    "$@" </dev/null >/dev/null 2>&1 || :
}

what="$cluster is managed by Patroni"
case $program:$action in
    pg_ctlcluster:start | pg_ctlcluster:restart)
        if is_running; then
            [ "$action" = restart ] || refuse "$what, which starts PostgreSQL" "See what prevents it with: patroni-gen-config check $cluster"
            refuse "$what" "Restart PostgreSQL with: pg_patronictl $cluster restart$(member)"
        elif is_enabled || has_processes; then
            refuse "$what, which does not run" "Start it with: systemctl start $unit"
        fi
        ;;
    pg_ctlcluster:stop)
        ! is_running || refuse "$what, which would start PostgreSQL again" "Stop both with: systemctl stop $unit"
        ;;
    pg_ctlcluster:promote)
        ! is_running || refuse "$what, which decides which member is the primary" "Change that with: pg_patronictl $cluster switchover"
        ;;
    pg_renamecluster:*)
        if is_enabled || has_processes; then
            refuse "$what, which does not know the new name" "Give it back to postgresql-common first, with: pg_releasecluster_patroni $cluster"
        elif [ -e "$root$file" ]; then
            refuse "$file is for $cluster, and has its name" "If Patroni does not manage it any more, run: rm $file"
        fi
        ;;
    pg_upgradecluster:*)
        if is_enabled || has_processes; then
            refuse "$what, which would start the old server again" "Give it back to postgresql-common first, with: pg_releasecluster_patroni $cluster"
        elif [ -e "$etc/postgresql.base.conf" ]; then
            refuse "the configuration of $cluster is Patroni's, which pg_upgradecluster cannot copy (postgresql.base.conf)" \
                "Start Patroni, and give it back, with: systemctl start $unit && pg_releasecluster_patroni $cluster"
        fi
        ;;
    pg_dropcluster:*)
        ! is_running || refuse "$what, which would create it again" \
            "Stop Patroni first, with: systemctl disable --now $unit && pg_dropcluster $version $name"
        if was_here; then
            "$diverted" "$@" || exit
            forget
            exit 0
        fi
        ;;
    pg_restorecluster:*)
        ! is_running || refuse "$what, which is running" "Stop it on all members, on this one with: systemctl stop $unit"
        ! was_here || forget
        ;;
esac
exec "$diverted" "$@"
