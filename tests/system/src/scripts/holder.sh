# Holds the namespaces of one lab: started in mount and network namespaces of its own, makes the lab's /run, cgroup
# and bridge, then a PID namespace whose first process reads standard input. When that ends, because the lab closed it
# or died in whatever way, the kernel ends every process in there, and the cgroups are removed here.
# Arguments: the image directory. Says "ready PID CGROUP" on standard output.
set -eu
image=$1

# A lab that runs from this image holds a shared lock, so that nobody removes it.
exec 8< "$image"
flock --shared 8

mount -t tmpfs -o mode=0755,size=80% tmpfs /run
mkdir -p /run/lab/repo
: > /run/lab/repo/Packages

# Only cgroup v2 in here, whatever the host has: systemd-nspawn then gives each machine a tree of its own.
umount --recursive --lazy /sys/fs/cgroup || :
mount -t cgroup2 cgroup2 /sys/fs/cgroup

# Labs that were killed together with their holder.
for old in /sys/fs/cgroup/patroni-tools-lab.*; do
    [ -d "$old" ] && [ ! -d "/proc/${old##*.}" ] || continue
    find "$old" -depth -type d -exec rmdir {} + 2>/dev/null || :
done

cgroup=/sys/fs/cgroup/patroni-tools-lab.$$
mkdir "$cgroup"

ip link set lo up
ip link add br0 type bridge
ip address add 10.88.0.1/24 dev br0
ip address add fd00:88::1/64 dev br0 nodad
ip link set br0 up

# The first process of the namespace is bash because it reaps the orphans that are left to it.
# "detach" makes the lab outlive its maker.
set +e
unshare --pid --fork --kill-child --mount bash -c '
    read -r pid _ < /proc/self/stat
    mount -t proc proc /proc
    echo "ready $pid $1"
    exec > /dev/null
    while read -r line; do
        [ "$line" = detach ] || continue
        exec < /dev/null
        while :; do sleep 3600 & wait $!; done
    done
' sh "$cgroup"

[ -e "$cgroup/cgroup.kill" ] && echo 1 > "$cgroup/cgroup.kill"
for _ in {1..200}; do
    find "$cgroup" -depth -type d -exec rmdir {} + 2>/dev/null
    [ -d "$cgroup" ] || break
    sleep 0.05
done
