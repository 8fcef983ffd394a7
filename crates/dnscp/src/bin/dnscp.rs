//! `dnscp`: the client endpoint of a Patroni cluster.

fn main() -> std::process::ExitCode {
    dnscp::main()
}
