//! See patroni-gen-config(8).

fn main() -> std::process::ExitCode {
    patroni_tools::gen_config::main()
}
