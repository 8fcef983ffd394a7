#!/bin/sh
# Runs on the new root ($1) of a machine with all stores, before node-after.sh: adds Consul, whose last package is Debian
# 11's, from the mirror that the image was made from; and starts no store by itself.
set -eu
root=$1
list=$root/etc/apt/sources.list.d/stores-bullseye.list

awk '$1 == "deb" && $3 !~ /-/ { $3 = "bullseye"; print; exit }' "$root/etc/apt/sources.list" > "$list"
chroot "$root" apt-get -qq update
DEBIAN_FRONTEND=noninteractive chroot "$root" apt-get install -y consul/bullseye
rm "$list"

# For docs/monitoring.md and docs/habits.md: not installed, but within reach of apt in the machine.
DEBIAN_FRONTEND=noninteractive chroot "$root" apt-get install -y --download-only --no-install-recommends \
    prometheus prometheus-node-exporter sudo nagios-nrpe-server nagios-nrpe-plugin needrestart

systemctl --quiet --root="$root" disable consul.service zookeeper.service
for unit in haproxy.service keepalived.service pgbouncer.service vip-manager.service ssh.service ssh.socket; do
    [ ! -e "$root/lib/systemd/system/$unit" ] || systemctl --quiet --root="$root" disable "$unit"
done
