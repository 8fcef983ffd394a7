//! `dnscp`: the connection point of a Patroni cluster.

fn main() -> std::process::ExitCode {
    dnscp::main()
}
