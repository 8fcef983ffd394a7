# Written by patroni-gen-config from /etc/default/patroni.
# Change it there or in /etc/patroni/templates, and run: patroni-gen-config --for consul
# Checksum of what follows: cfb9a20c50968a69e91310ad700060a2612e6e8a9f2d8b7d9f38e9063aa9bdbf
node_name   = "pg1"
datacenter  = "dc1"
data_dir    = "/var/lib/consul"
bind_addr   = "10.0.3.141"
client_addr = "127.0.0.1"
server = false
retry_join = ["10.0.3.142"]

# From the site key, the same on all members.
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
