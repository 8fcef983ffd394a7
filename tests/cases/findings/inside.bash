# Started by run, in mount and PID namespaces of its own: makes the machine, then runs the cases on copies of it.
# Arguments: image, case...
set -eu
image=$1
shift
here=$TOP/tests/cases/findings
processors=$(nproc)

mount -t tmpfs -o mode=0755,size=80% tmpfs /run
mkdir -p /run/machine/{upper,work,root} /run/results

# Mounts the machine $1, whose files are the directories $2, with what belongs to a running system.
assemble() {
    local root=$1 lower=$2 upper=$3 work=$4
    mount -t overlay -o "lowerdir=$lower,upperdir=$upper,workdir=$work" overlay "$root"
    mount -t proc proc "$root/proc"
    mount --rbind /dev "$root/dev"
    mount -t tmpfs -o mode=0755 tmpfs "$root/run"
    mkdir -p "$root/run/lock" "$root/cases"
    install -d -o "$(stat -c %u "$image/var/lib/postgresql")" -g "$(stat -c %g "$image/var/lib/postgresql")" -m 2775 \
        "$root/run/postgresql"
    mount --bind "$here" "$root/cases"
    mount -o remount,bind,ro "$root/cases"
}

# Installs what is under test, and makes the cluster that the clones come from.
prepare() {
    local root=/run/machine/root
    assemble "$root" "$image" /run/machine/upper /run/machine/work
    if [ -n "$PACKAGE" ]; then
        cp "$PACKAGE" "${PACKAGE/patroni-tools_/patroni-tools-common_}" "$root/tmp/"
        chroot "$root" sh -c 'dpkg --install /tmp/patroni-tools*.deb'
    elif [ -n "$PROGRAMS" ]; then
        install -D -m 755 -t "$root/usr/bin" "$PROGRAMS/patroni-gen-config"
        install -D -m 755 -t "$root/usr/libexec/patroni-tools" "$PROGRAMS"/pg_{create,clone}cluster_patroni
        install -D -m 644 -t "$root/usr/share/patroni-tools/templates" "$TOP"/templates/*.j2
    fi
    ip link set lo up
    chroot "$root" sh /cases/primary.sh
}

# Runs the case $1; its words go to /run/results.
one() {
    local name=$1 status=0
    local begin=$EPOCHREALTIME
    mkdir -p "/run/case.$name/"{upper,work,root}
    export -f assemble inside
    export image here name
    # SIGKILL for what is left of a case, however it ended.
    timeout --signal=KILL 60 unshare --mount --pid --net --uts --ipc --fork --kill-child --propagation=private \
        bash -c inside > "/run/results/$name" 2>&1 9>&- || status=$?
    rm -rf "/run/case.$name"
    local wants=pass
    if [ "$TOOLS_UNDER_TEST" = theirs ] && grep -q '^Differs: yes$' "$here/$name/differs.md"; then wants=fail; fi
    local seconds
    seconds=$(awk "BEGIN { printf \"%.1f\", $EPOCHREALTIME - $begin }")
    # 10 is lib.sh's "wrong": anything else is a case that did not work.
    case $wants.$status in
    pass.0) echo "ok      $name ($seconds s)" ;;
    fail.10) echo "differs $name ($seconds s): $(tail -n 1 "/run/results/$name")" ;;
    fail.0)
        echo "FAILED  $name ($seconds s): passes, but its differs.md says that it does not"
        return 1
        ;;
    *)
        echo "FAILED  $name ($seconds s), exit status $status:"
        sed 's/^/    /' "/run/results/$name"
        return 1
        ;;
    esac
}

inside() {
    set -eu
    local root=/run/case.$name/root
    assemble "$root" "/run/machine/upper:$image" "/run/case.$name/upper" "/run/case.$name/work"
    hostname pg1
    exec chroot "$root" env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8 HOME=/root \
        TOOLS_UNDER_TEST="$TOOLS_UNDER_TEST" sh "/cases/$name/check.sh"
}

export -f prepare assemble
export image here
if ! unshare --mount --pid --net --fork --kill-child --propagation=private bash -euc prepare > /run/prepare.log 2>&1; then
    cat /run/prepare.log
    echo 'findings: the machine could not be made'
    exit 1
fi

if [ $# = 0 ]; then
    for name in "$here"/*/check.sh; do
        name=${name%/check.sh}
        set -- "$@" "${name##*/}"
    done
fi
for name in "$@"; do
    while [ "$(jobs -rp | wc -l)" -ge "$processors" ]; do wait -n || true; done
    { ! one "$name" || : > "/run/results/$name.passed"; } &
done
wait
passed=$(find /run/results -name '*.passed' | wc -l)
echo "$passed passed, $(($# - passed)) failed"
[ "$passed" = $# ]
