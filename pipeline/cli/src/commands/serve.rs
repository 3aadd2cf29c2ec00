//! `serve` and `up`: run until told to stop.

use std::time::Duration;

use anyhow::Context;
use chasqui_runtime::Config;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use crate::{
    args::ServeArgs,
    commands::stop_signal,
    servers::{Addresses, OwnServers},
    worker::{Role, Worker},
};

/// Runs roles against the configured servers.
pub(crate) async fn serve(args: &ServeArgs, config: &Config) -> anyhow::Result<()> {
    let addresses = Addresses::find(config)?;
    if args.migrate {
        addresses.migrate(config).await?;
    }
    let roles = if args.stages.is_empty() { Role::all() } else { args.stages.clone() };
    let worker = Worker::start(config, &addresses, &roles).await?;
    if let Some(address) = args.health {
        tokio::spawn(health(TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address}"))?));
    }
    worker.run_until(stopped()).await
}

/// Starts servers of our own, then all roles.
pub(crate) async fn up(config: &Config) -> anyhow::Result<()> {
    let servers = OwnServers::start(config, &config.embedded.data_dir, true, |step| eprintln!("{step}")).await?;
    servers.addresses.migrate(config).await?;
    let worker = Worker::start(config, &servers.addresses, &Role::all()).await?;
    let Addresses { nats, clickhouse } = &servers.addresses;
    println!("Chasqui is up. Stop it with Ctrl-C.\n");
    println!("  NATS        {nats}        publish to notify.submit.<lane>.<app>");
    println!("  ClickHouse  {clickhouse}  database `{}`", config.clickhouse.database);
    if let Some(bind) = config.gateway["bind"].as_str().filter(|bind| !bind.is_empty()) {
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

/// Answers every HTTP request with 200: this process ends when one of its roles does, so answering is being well.
async fn health(listener: TcpListener) {
    const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: close\r\n\r\nok\n";
    const PATIENCE: Duration = Duration::from_secs(1);
    // One at a time, each within a bound: a probe asks rarely, and whoever asks otherwise only waits.
    while let Ok((mut connection, _)) = listener.accept().await {
        let answering = async {
            let mut request = [0; 1024];
            match connection.read(&mut request).await? {
                0 => Ok(()),
                _ => connection.write_all(ANSWER).await,
            }
        };
        if !matches!(tokio::time::timeout(PATIENCE, answering).await, Ok(Ok(()))) {
            tracing::debug!("a health probe left early");
        }
    }
}
