//! `chasqui`: the one binary.

use std::process::ExitCode;

use chasqui::args::Args;
use clap::Parser;

/// A worker makes and drops some hundred small values per notification: the system's allocator took a third of its time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // Before anything else: this process may be the embedded ClickHouse, which wants no threads of ours.
    chasqui_embedded::become_clickhouse_if_asked();
    chasqui::main(Args::parse())
}
