//! All programs of the package but dnscp, which has a mode and capabilities of its own: one file, known by several names.

fn main() -> std::process::ExitCode {
    patroni_tools::programs::main()
}
