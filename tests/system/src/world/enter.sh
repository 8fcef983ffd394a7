#!/bin/sh
# In namespaces of its own: a throw-away copy of the image $1 at /mnt/root, with the program $3 as /program, and two hosts on one
# cable. This one is 10.77.0.2; the other, 10.77.0.53, drops what goes to 10.99.0.0/16.
# With a second image, $2, a copy of it is at /second. Then pairs of files, of this host and of the copy, until "--", and the
# program's arguments.
set -eu
image=$1
second=$2
program=$3
shift 3
copy() {
	mkdir -p "/mnt/$2/upper" "/mnt/$2/work" "$3"
	mount -t overlay -o "lowerdir=$1,upperdir=/mnt/$2/upper,workdir=/mnt/$2/work" overlay "$3"
	mount -t proc proc "$3/proc"
	mount --rbind /dev "$3/dev"
	mount -t tmpfs -o mode=1777 shm "$3/dev/shm"
	mount -t tmpfs -o mode=755 run "$3/run"
}
show() {
	: > "$2"
	mount --bind "$1" "$2"
}
mount -t tmpfs -o mode=755 tmpfs /mnt
root=/mnt/root
copy "$image" first "$root"
if [ -n "$second" ]; then
	copy "$second" second "$root/second"
fi
show "$program" "$root/program"
while [ "$1" != -- ]; do
	show "$1" "$root$2"
	shift 2
done
shift
hostname dc1
exec chroot "$root" sh -eu -c '
	mkdir -p /run/netns /run/named
	printf "127.0.0.1 localhost\n10.77.0.53 dc1.ad.test dc1\n" > /etc/hosts
	printf "nameserver 10.77.0.53\n" > /etc/resolv.conf
	ip netns add dns
	ip link add n0 type veth peer name d0 netns dns
	ip addr add 10.77.0.2/24 dev n0
	ip addr add fd77::2/64 dev n0 nodad
	ip link set lo up
	ip link set n0 up
	ip -n dns addr add 10.77.0.53/24 dev d0
	ip -n dns addr add fd77::53/64 dev d0 nodad
	ip -n dns link set lo up
	ip -n dns link set d0 up
	ip route add 10.99.0.0/16 via 10.77.0.53
	exec /program "$@"
' sh "$@"
