//! See `pg_patronictl(1)`.

fn main() -> std::process::ExitCode {
    patroni_tools::pg_patronictl::main()
}
