//! The embedded ClickHouse as a program of its own, for tests: their executables have no hidden subcommand to be run
//! with. `chasqui` itself does not need it.

fn main() {
    chasqui_embedded::run_clickhouse_child(std::env::args_os().skip(1))
}
