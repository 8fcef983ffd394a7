# Runs a command in a throw-away copy of a builder image; started in mount and PID namespaces of its own.
# Arguments: image, cache for cargo and the compiler's output, source directory or "", output directory or "", command…
# In there: /build/src is a copy of the source's files that git knows or could add, /src the source itself, read-only.
set -eu
image=$1 cache=$2 source=$3 output=$4
shift 4

mount -t tmpfs -o mode=0755,size=80% tmpfs /run
mkdir -p /run/upper /run/work /run/root
mount -t overlay -o "lowerdir=$image,upperdir=/run/upper,workdir=/run/work" overlay /run/root
root=/run/root
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
mkdir -p "$root/build/src" "$root/build/target" "$root/build/cargo" "$root/src" "$root/dist"
for file in /etc/resolv.conf /etc/hosts /etc/ssl/certs/ca-certificates.crt; do
    [ ! -e "$file" ] || [ ! -d "$root${file%/*}" ] || cp --remove-destination --dereference "$file" "$root$file"
done

mkdir -p "$cache/home" "$cache/target"
for config in "${CARGO_HOME:-${HOME:-/root}/.cargo}"/config{,.toml}; do
    [ ! -e "$config" ] || cp "$config" "$cache/home/"
done
mount --bind "$cache/home" "$root/build/cargo"
mount --bind "$cache/target" "$root/build/target"

if [ -n "$source" ]; then
    mount --bind "$source" "$root/src"
    mount -o remount,bind,ro "$root/src"
    # With their times, so that cargo sees what has changed.
    cd "$source"
    git -c safe.directory='*' ls-files -z --cached --others --exclude-standard |
        while IFS= read -r -d '' file; do
            if [ -e "$file" ] || [ -L "$file" ]; then printf '%s\0' "$file"; fi
        done |
        tar --create --null --no-recursion --files-from=- --owner=1000 --group=1000 |
        tar --extract --same-owner --directory="$root/build/src"
    cd /
fi
chown 1000:1000 "$root/build" "$root/build/src" "$cache/home" "$cache/target"
find "$root/build/src" -xdev -type d -exec chown 1000:1000 {} +

settings=()
while IFS= read -r -d '' setting; do
    case $setting in
    CARGO_HTTP_* | CARGO_NET_* | CARGO_REGISTR* | CARGO_SOURCE_* | \
        [Hh][Tt][Tt][Pp]_[Pp]* | [Hh][Tt][Tt][Pp][Ss]_[Pp]* | [Nn][Oo]_[Pp][Rr]* | DEB_BUILD_* | TERM=* | SOURCE_DATE_EPOCH=*)
        settings+=("$setting")
        ;;
    esac
done < <(env -0)

status=0
chroot "$root" env -i "${settings[@]}" HOME=/build CARGO_HOME=/build/cargo CARGO_TARGET_DIR=/build/target LANG=C.UTF-8 \
    PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    setpriv --reuid=1000 --regid=1000 --clear-groups sh -c 'cd /build/src && exec "$@"' builder "$@" || status=$?
[ "$status" = 0 ] && [ -n "$output" ] || exit "$status"

mkdir -p "$output"
owner=$(stat --format=%u:%g "$output")
cd "$root/build"
for file in *.deb *.changes *.buildinfo; do
    [ ! -e "$file" ] || install --mode=0644 --owner="${owner%:*}" --group="${owner#*:}" "$file" "$output/"
done
