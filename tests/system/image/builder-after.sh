#!/bin/sh
# Runs on the new root ($1) of a builder after its packages are installed.
set -eu
root=$1

chroot "$root" useradd --uid 1000 --user-group --create-home --home-dir /build builder
rm -f "$root/etc/apt/apt.conf.d/99mmdebstrap" "$root/etc/dpkg/dpkg.cfg.d/99mmdebstrap"
