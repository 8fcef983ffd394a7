#!/bin/sh
# Runs on the new root ($1) of a machine for postgresql-common's own tests, before node-after.sh: adds their source, and PostgreSQL of
# the release before, because an upgrade needs two versions.
set -eu
root=$1
list=$root/etc/apt/sources.list.d/suite.list
source=$root/usr/src/postgresql-common

# shellcheck source=/dev/null
case $(. "$root/etc/os-release" && echo "$VERSION_CODENAME") in
    bookworm) release_before=bullseye older=13 ;;
    trixie) release_before=bookworm older=15 ;;
esac
of_mirror() { # TYPE SUITE
    awk -v type="$1" -v suite="$2" '$1 == "deb" && $3 !~ /-/ { $1 = type; $3 = suite; print; exit }' "$root/etc/apt/sources.list"
}

# Without its PL/Perl, which needs the Perl of its release.
of_mirror deb "$release_before" > "$list"
chroot "$root" apt-get -qq update
DEBIAN_FRONTEND=noninteractive chroot "$root" apt-get install -y --no-install-recommends "postgresql-$older"

# Of the version that is installed. Not every mirror has every source: then the nearest one that it has, without its .dsc if need be, as
# apt verifies each file by itself. The tests are those of installed programs, and are run with the installed PgCommon.pm.
{ sed -n 's/^deb /deb-src /p' "$root/etc/apt/sources.list"; of_mirror deb-src sid; } > "$list"
# A mirror can be a snapshot of some day.
chroot "$root" apt-get -qq -o Acquire::Check-Valid-Until=false update
installed=$(chroot "$root" dpkg-query --status postgresql-common | sed -n 's/^Version: //p')
others=$(chroot "$root" apt-cache showsrc --only-source postgresql-common | sed -n 's/^Version: //p' | grep -vxF "$installed" | sort -uV)
mkdir "$source"
for version in $installed $others; do
    chroot "$root" sh -c "cd /usr/src/postgresql-common && apt-get -qq source --download-only postgresql-common=$version" || :
    if tar -xf "$source/postgresql-common_$version.tar.xz" -C "$source" --strip-components=1; then
        echo "source of postgresql-common: $version, installed: $installed"
        break
    fi
done
rm -f "$list" "$source"/*.tar.xz "$source"/*.dsc
[ -e "$source/testsuite" ] || { echo "the mirror has no source of postgresql-common" >&2; exit 1; }
cp "$root/usr/share/perl5/PgCommon.pm" "$source/"
