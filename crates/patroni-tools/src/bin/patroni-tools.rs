//! All programs of the package except dnscp, which has its own mode and capabilities: one file with several names.

fn main() -> std::process::ExitCode {
    patroni_tools::programs::main()
}
