//! `pg_preparecluster_patroni`: see the library.
fn main() -> std::process::ExitCode {
    patroni_tools::hooks::prepare::main()
}
