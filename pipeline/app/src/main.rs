//! `chasqui`: the one binary.

use std::process::ExitCode;

use chasqui::args::Args;
use clap::Parser;

/// A worker allocates some hundred small values per notification; the system's allocator took a third of its time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // This comes first: the process may be the embedded ClickHouse, which must start before we have any threads.
    chasqui_embedded::become_clickhouse_if_asked();
    chasqui::main(Args::parse())
}
