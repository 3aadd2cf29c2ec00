//! `serve` and `up`: run roles until Ctrl-C or SIGTERM.

use std::net::SocketAddr;

use anyhow::Context;
use tokio::net::TcpListener;

use crate::{
    args::{ServeArgs, UpArgs},
    commands::stop::stop_signal,
    metrics::Metrics,
    servers::{Addresses, OwnServers},
    settings::Settings,
    worker::{Role, Worker},
};

/// Runs roles against the servers in the settings.
pub(crate) async fn serve(args: &ServeArgs, settings: &Settings, metrics: Metrics) -> anyhow::Result<()> {
    let addresses = Addresses::find(settings)?;
    if args.migrate {
        addresses.migrate(settings).await?;
    }
    let roles = if args.stages.is_empty() { Role::all() } else { args.stages.clone() };
    let worker = Worker::start(settings, &addresses, &roles).await?;
    health(args.health, &worker, metrics).await?;
    worker.run_until(stopped()).await
}

/// Starts servers of our own, then all roles.
pub(crate) async fn up(args: &UpArgs, settings: &Settings, metrics: Metrics) -> anyhow::Result<()> {
    let servers = OwnServers::start(settings, &settings.embedded.data_dir, true, |step| eprintln!("{step}")).await?;
    servers.addresses.migrate(settings).await?;
    let worker = Worker::start(settings, &servers.addresses, &Role::all()).await?;
    health(args.health, &worker, metrics).await?;
    let Addresses { nats, clickhouse } = &servers.addresses;
    println!("Chasqui is up. Stop it with Ctrl-C.\n");
    println!("  NATS        {nats}        publish to notify.submit.<lane>.<app>");
    println!("  ClickHouse  {clickhouse}  database `{}`", settings.clickhouse.database);
    if let Some(bind) = worker.gateway {
        println!("  Gateway     http://{bind}  receipts of apps at /v1/receipts; what happened, for a browser, at /ui");
    }
    println!("\nOther commands find it by themselves when started in this folder, for example:");
    println!("  chasqui send my-submission.json --app shop");
    println!("  chasqui stats");
    let ended = worker.run_until(stopped()).await;
    servers.shutdown().await;
    ended
}

async fn stopped() {
    if let Err(error) = stop_signal().await {
        tracing::error!("{error:#}");
    }
}

/// Starts to answer probes at `address`, if one is given.
async fn health(address: Option<SocketAddr>, worker: &Worker, metrics: Metrics) -> anyhow::Result<()> {
    if let Some(address) = address {
        let listener = TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address}"))?;
        tokio::spawn(worker.health(metrics).serve(listener));
    }
    Ok(())
}
