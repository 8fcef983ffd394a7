# Written by patroni-gen-config from /etc/default/patroni and /etc/default/patroni@16-main and /etc/default/patroni@16-my.app.
# Change it there or in /etc/patroni/templates, and run: patroni-gen-config --for consul-policy 16/main 16/my.app
# Checksum of what follows: a05c4bd8bdb189e4e3ce5e45c3eda9d91b9f0bc82816c37dd99eccbfcb254821
node "pg1" {
  policy = "write"
}
node "pg2" {
  policy = "write"
}
node "pg3" {
  policy = "write"
}
service_prefix "" {
  policy = "read"
}
