//! A module per command.

mod dead;
mod forget;
pub mod output;
mod queues;
mod records;
mod send;
mod serve;
pub mod stats;
mod trace;

use std::process::ExitCode;

use crate::settings::Settings;
use anyhow::Context;

use crate::{args::Command, metrics::Metrics, servers::Addresses};

/// Does what was asked.
pub async fn run(command: Command, config: Settings, metrics: Metrics) -> anyhow::Result<ExitCode> {
    match command {
        Command::Up(args) => serve::up(&args, &config, metrics).await?,
        Command::Serve(args) => serve::serve(&args, &config, metrics).await?,
        Command::Migrate => Addresses::find(&config)?.migrate(&config).await?,
        Command::Send(args) => send::run(&args, &config).await?,
        Command::Trace(args) => return trace::run(&args, &config).await,
        Command::Stats(args) => stats::run(&args, &config).await?,
        Command::Queues(args) => queues::run(&args, &config).await?,
        Command::Forget(args) => forget::run(&args, &config).await?,
        Command::Dead(command) => dead::run(command, &config).await?,
        Command::Records(command) => records::run(command, &config).await?,
        // Printed before any server is asked for.
        Command::Config => {}
    }
    Ok(ExitCode::SUCCESS)
}

/// Ready when we are asked to stop: Ctrl-C or SIGTERM.
pub async fn stop_signal() -> anyhow::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    tokio::select! {
        _ = terminate.recv() => {}
        interrupt = tokio::signal::ctrl_c() => interrupt.context("cannot listen for Ctrl-C")?,
    }
    Ok(())
}
