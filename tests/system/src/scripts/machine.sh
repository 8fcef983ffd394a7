# Runs one machine until it is switched off; a reboot from inside (status 133) boots it again.
# Arguments: the machine's name.
set -u
name=$1
export SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1
while :; do
    systemd-nspawn --quiet --directory="/run/lab/$name/root" --boot --machine="$name" --network-bridge=br0 \
        --register=no --keep-unit --resolv-conf=off --timezone=off --link-journal=no --console=read-only \
        < /dev/null >> "/run/lab/$name/console" 2>&1
    status=$?
    [ "$status" = 133 ] || exit "$status"
done
