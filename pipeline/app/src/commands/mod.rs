//! Runs the commands, a module each.

mod apps;
pub(crate) mod dead;
mod forget;
pub mod output;
mod queues;
mod records;
mod send;
mod serve;
pub mod stats;
pub mod stop;
mod trace;

use std::process::ExitCode;

use anyhow::Context;

use crate::{
    args::{Command, ServerName},
    metrics::Metrics,
    servers::{self, Addresses},
    settings::Settings,
};

/// Runs a command.
pub async fn run(command: Command, settings: Settings, metrics: Metrics) -> anyhow::Result<ExitCode> {
    match command {
        Command::Up(args) => serve::up(&args, &settings, metrics).await?,
        Command::Serve(args) => serve::serve(&args, &settings, metrics).await?,
        Command::Migrate => Addresses::find(&settings)?.migrate(&settings).await?,
        Command::Send(args) => send::run(&args, &settings).await?,
        Command::Trace(args) => return trace::run(&args, &settings).await,
        Command::Stats(args) => stats::run(&args, &settings).await?,
        Command::Queues(args) => queues::run(&args, &settings).await?,
        Command::Forget(args) => forget::run(&args, &settings).await?,
        Command::Apps(command) => apps::run(command, &settings).await?,
        Command::Dead(command) => dead::run(command, &settings).await?,
        Command::Records(command) => records::run(command, &settings).await?,
        Command::Url { server } => {
            let Addresses { nats, clickhouse } = servers::of_up(&settings.embedded.data_dir)
                .context("no server of ours runs in this folder: start `chasqui up`")?;
            let address = match server {
                ServerName::Nats => nats,
                ServerName::Clickhouse => clickhouse,
            };
            output::print(&format!("{}\n", address.expose()))?;
        }
        // The manual was printed before settings were read.
        Command::Config => {}
    }
    Ok(ExitCode::SUCCESS)
}
