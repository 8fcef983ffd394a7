//! `pg_createcluster_patroni`: see the library.
fn main() -> std::process::ExitCode {
    patroni_tools::hooks::create::main()
}
