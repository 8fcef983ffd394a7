//! See `pg_createcluster_patroni(8)`.

fn main() -> std::process::ExitCode {
    patroni_tools::hooks::create::main()
}
