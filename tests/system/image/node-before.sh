#!/bin/sh
# Runs on the new root ($1) before its packages are installed.
set -eu
root=$1

# Otherwise installing PostgreSQL makes and starts a cluster "main". Restored to the package's own file in node-after.sh.
mkdir -p "$root/etc/postgresql-common"
echo 'create_main_cluster = false' > "$root/etc/postgresql-common/createcluster.conf"
