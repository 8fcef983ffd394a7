#!/bin/sh
# Runs on the new root ($1) of a builder after its packages are installed.
set -eu
root=$1

# By hand: a builder need not have the package passwd.
echo 'builder:x:1000:1000::/build:/bin/sh' >> "$root/etc/passwd"
echo 'builder:x:1000:' >> "$root/etc/group"
mkdir "$root/build"
chown 1000:1000 "$root/build"
rm -f "$root/etc/apt/apt.conf.d/99mmdebstrap" "$root/etc/dpkg/dpkg.cfg.d/99mmdebstrap"
