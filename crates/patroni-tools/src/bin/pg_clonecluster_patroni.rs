//! See `pg_clonecluster_patroni(8)`.

fn main() -> std::process::ExitCode {
    patroni_tools::hooks::clone::main()
}
