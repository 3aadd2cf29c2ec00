//! `chasqui-dev`: the commands of `chasqui`, and two that only developers need: a demo on the vendors' lab, and a
//! benchmark. It includes `serve` and the others, so that the demo and the benchmark run the same code that ships.

mod args;
mod bench;
mod demo;

use std::process::ExitCode;

use clap::Parser;

use crate::args::{Args, Command};

/// The same allocator as in `chasqui`; with another, the benchmark would measure a different program.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // This comes first: the process may be the embedded ClickHouse, which must start before we have any threads.
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
