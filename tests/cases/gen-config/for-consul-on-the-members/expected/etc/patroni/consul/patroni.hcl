# Written by patroni-gen-config from /etc/default/patroni and /etc/default/patroni@16-main and /etc/default/patroni@16-my.app.
# Change it there or in /etc/patroni/templates, and run: patroni-gen-config --for consul-policy 16/main 16/my.app
# Checksum of what follows: d93d4cda7fbb509e9f27be5e6a1bb9074e8f031187243b0ddb89caa62386929f
key_prefix "postgresql-common/16-main/" {
  policy = "write"
}
key_prefix "postgresql-common/16-my.app/" {
  policy = "write"
}
service "16-main" {
  policy = "write"
}
service "16-my-app" {
  policy = "write"
}
session "pg1" {
  policy = "write"
}
session "pg2" {
  policy = "write"
}
session "pg3" {
  policy = "write"
}
node_prefix "" {
  policy = "read"
}
agent_prefix "" {
  policy = "read"
}
