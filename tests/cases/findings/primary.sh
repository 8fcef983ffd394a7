# Runs once in the new machine: a cluster 17/primary, stopped, that a member can clone from.
set -eu
echo pg1 > /etc/hostname
echo '127.0.0.1 localhost pg1' > /etc/hosts
pg_createcluster 17 primary --port=5490 > /dev/null
cat >> /etc/postgresql/17/primary/postgresql.conf <<'END'
fsync = off
max_wal_senders = 10
END
sed -i '1i host replication replicator 127.0.0.1/32 scram-sha-256\nhost all replicator 127.0.0.1/32 scram-sha-256' \
    /etc/postgresql/17/primary/pg_hba.conf
pg_ctlcluster --skip-systemctl-redirect 17 primary start
setpriv --reuid=postgres --regid=postgres --init-groups \
    psql --quiet --port=5490 --command="CREATE ROLE replicator LOGIN REPLICATION PASSWORD 'copy-me'"
pg_ctlcluster --skip-systemctl-redirect 17 primary stop
