#!/bin/sh
# The accounts of the realm GSS.TEST and the zone $2, on the machine $1; the keytab of pgsql$ goes to $3.
set -eu
server=$1 zone=$2 keytab=$3
rm -f /etc/krb5kdc/kdc.conf
kdb5_util create -s -r GSS.TEST -P masterpw > /dev/null
for query in 'addprinc -randkey pgsql$' "addprinc -randkey DNS/$server.$zone" \
    "ktadd -k /etc/bind/dns.keytab DNS/$server.$zone" "ktadd -k $keytab pgsql\$"; do
    kadmin.local -q "$query" > /dev/null
done
chown root:bind /etc/bind/dns.keytab
chmod 0640 /etc/bind/dns.keytab
cat > "/var/lib/bind/$zone.zone" <<END
\$TTL 300
@ SOA $server hostmaster 1 3600 600 86400 300
@ NS $server
$server A @ADDRESS@
END
chown bind:bind "/var/lib/bind/$zone.zone"
systemctl enable --quiet --now krb5-kdc named
for attempt in $(seq 100); do
    if dig +short +time=1 +tries=1 "@@ADDRESS@" "$zone" SOA | grep -q "$server" &&
        KRB5CCNAME=MEMORY: kinit -k -t "$keytab" 'pgsql$'; then
        exit 0
    fi
    sleep 0.2
done
echo "the servers do not answer" >&2
exit 1
