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

systemctl --quiet --root="$root" disable consul.service zookeeper.service

# Nor the programs around a cluster, before their configuration is there.
systemctl --quiet --root="$root" disable haproxy.service keepalived.service pgbouncer.service
if [ -e "$root/usr/lib/systemd/system/vip-manager.service" ]; then
    systemctl --quiet --root="$root" disable vip-manager.service
fi
