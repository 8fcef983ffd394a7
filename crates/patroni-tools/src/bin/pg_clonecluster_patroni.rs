//! `pg_clonecluster_patroni`: see the library.
fn main() -> std::process::ExitCode {
    patroni_tools::hooks::clone::main()
}
