# Written by patroni-gen-config from /etc/default/patroni.
# Change it there or in /etc/patroni/templates, and run: patroni-gen-config --for consul
# Checksum of what follows: 185f67b22333ae49d3a8e9f5b16ee4c5f8119de756bb769c9f2e67bf58fb9899
node_name   = "pg1"
datacenter  = "dc1"
data_dir    = "/var/lib/consul"
bind_addr   = "10.0.3.141"
client_addr = "127.0.0.1"
server = false
retry_join = ["10.0.3.142"]

# Derived from the site key, so it is the same on all members.
encrypt = "qcOqmAifrKQKkLobFpJ+ivDFsG+/7QyEkgzK8GafejY="

ports {
  http  = -1
  https = 8501
}
ca_file   = "/etc/patroni/tls/ca.pem"
cert_file = "/etc/patroni/tls/consul.pem"
key_file  = "/etc/patroni/tls/consul.key"

verify_outgoing        = true
verify_server_hostname = true
verify_incoming_rpc    = true
verify_incoming_https  = true

acl {
  enabled        = true
  default_policy = "deny"
}
