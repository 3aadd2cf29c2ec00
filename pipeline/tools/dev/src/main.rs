//! `chasqui-dev`: the commands of `chasqui`, and those that only developers need: a demo on the vendors' lab, and a
//! benchmark. It has them all, so that what it measures and shows, `serve` among it, is the program that ships.

mod args;
mod bench;
mod demo;

use std::process::ExitCode;

use clap::Parser;

use crate::args::{Args, Command};

/// As in `chasqui`, or the benchmark would measure another allocator.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // Before anything else: this process may be the embedded ClickHouse, which wants no threads of ours.
    chasqui_embedded::become_clickhouse_if_asked();
    let Args { config, command } = Args::parse();
    let command = match command {
        Command::Chasqui(command) => return chasqui::main(chasqui::args::Args { config, command }),
        ours => ours,
    };
    chasqui::exit_code(chasqui::start(config.as_deref(), Some("error"), false, async |settings, _| match command {
        Command::Demo(args) => demo::run(&args, config.as_deref()).await,
        Command::Bench(args) => bench::run(&args, settings).await.map(|()| ExitCode::SUCCESS),
        Command::Lab => bench::serve_lab().await.map(|()| ExitCode::SUCCESS),
        Command::Chasqui(_) => Ok(ExitCode::FAILURE),
    }))
}
