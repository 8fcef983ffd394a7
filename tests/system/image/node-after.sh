#!/bin/sh
# Runs on the new root ($1) after its packages are installed: makes it a machine that boots quickly,
# that starts nothing a test starts itself, and that needs no network for apt.
set -eu
root=$1

# The file of an administrator who wants no cluster "main": the package's own, with that one line changed.
sed 's/^#create_main_cluster = true/create_main_cluster = false/' \
    "$root/usr/share/postgresql-common/createcluster.conf" > "$root/etc/postgresql-common/createcluster.conf"
grep -q '^create_main_cluster = false' "$root/etc/postgresql-common/createcluster.conf"
[ -z "$(ls "$root/etc/postgresql")" ] || { echo "a cluster was created in the image" >&2; exit 1; }

# Every package of the image can be purged and installed again without a network.
mkdir -p "$root/srv/debs" "$root/srv/repo"
cp "$root"/var/cache/apt/archives/*.deb "$root/srv/debs/"
chroot "$root" sh -c 'cd /srv/debs && apt-ftparchive packages . > Packages'
: > "$root/srv/repo/Packages"
rm -f "$root/etc/apt/sources.list" "$root"/etc/apt/sources.list.d/* "$root"/etc/apt/apt.conf.d/99mmdebstrap \
    "$root/etc/dpkg/dpkg.cfg.d/99mmdebstrap" "$root/etc/resolv.conf"
rm -rf "$root"/var/lib/apt/lists/*
cat > "$root/etc/apt/sources.list.d/lab.list" <<END
deb [trusted=yes] file:/srv/repo ./
deb [trusted=yes] file:/srv/debs ./
END
chroot "$root" apt-get -qq update

systemctl() { command systemctl --quiet --root="$root" "$@"; }
systemctl disable etcd.service named.service krb5-kdc.service krb5-admin-server.service
systemctl enable systemd-networkd.service
systemctl mask console-getty.service getty.target systemd-firstboot.service systemd-hwdb-update.service \
    ldconfig.service apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer \
    e2scrub_reap.service fstrim.timer man-db.timer systemd-networkd-persistent-storage.service 2>/dev/null

mkdir -p "$root/etc/systemd/system.conf.d" "$root/etc/systemd/journald.conf.d" \
    "$root/etc/systemd/system/systemd-networkd-wait-online.service.d" "$root/var/log/journal"
# A service that does not stop shows up as a test that takes 20 s longer, not 90.
printf '[Manager]\nDefaultTimeoutStopSec=20s\n' > "$root/etc/systemd/system.conf.d/lab.conf"
# A test may log more than the default 10000 lines in 30 s, and reads the journal after a power-off.
printf '[Journal]\nStorage=persistent\nRateLimitBurst=0\nSyncIntervalSec=1s\nSystemMaxUse=200M\n' \
    > "$root/etc/systemd/journald.conf.d/lab.conf"
# A machine that boots with its cable cut must not wait two minutes for it.
printf '[Service]\nExecStart=\nExecStart=/lib/systemd/systemd-networkd-wait-online --any --timeout=5\n' \
    > "$root/etc/systemd/system/systemd-networkd-wait-online.service.d/lab.conf"

echo 'LANG=C.UTF-8' > "$root/etc/default/locale"
# The lab gives each machine its own.
rm -f "$root/etc/machine-id" "$root/var/lib/dbus/machine-id" "$root/etc/hostname"
: > "$root/etc/machine-id"
# Nothing to update at the first boot.
touch "$root/etc/.updated" "$root/var/.updated"
