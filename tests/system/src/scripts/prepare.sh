# Makes the disk of one machine: an overlay of the image, with the local apt repository in it. A disk that is there is gone.
# Arguments: the machine's name, the image directory, the cgroup of the lab.
set -eu
name=$1 image=$2 cgroup=$3
disk=/run/lab/$name
if [ -d "$disk" ]; then
    umount "$disk/root/srv/repo" "$disk/root"
    rm -rf "$disk/upper" "$disk/work"
fi
mkdir -p "$disk/upper" "$disk/work" "$disk/root" "$cgroup/$name/commands"
mount -t overlay -o "lowerdir=$image,upperdir=$disk/upper,workdir=$disk/work" overlay "$disk/root"
mount --bind /run/lab/repo "$disk/root/srv/repo"
echo "$name" > "$disk/root/etc/hostname"
tr -d - < /proc/sys/kernel/random/uuid > "$disk/root/etc/machine-id"
