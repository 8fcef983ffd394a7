//! See `pg_preparecluster_patroni(8)`.

fn main() -> std::process::ExitCode {
    patroni_tools::hooks::prepare::main()
}
