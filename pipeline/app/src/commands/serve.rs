//! `serve` and `up`: run roles until Ctrl-C or SIGTERM.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::Context;
use chasqui_embedded::{made_up_secret, write_private};
use tokio::net::TcpListener;

use crate::{
    args::{ServeArgs, UpArgs},
    commands::stop::stop_signal,
    metrics::Metrics,
    rehearsal::rehearse,
    role::Role,
    servers::{Addresses, OwnServers},
    settings::Settings,
    worker::Worker,
};

/// Runs roles against the servers in the settings.
pub(crate) async fn serve(args: &ServeArgs, settings: &Settings, metrics: Metrics) -> anyhow::Result<()> {
    let roles = if args.stages.is_empty() { Role::all() } else { args.stages.clone() };
    rehearse(settings, &roles)?;
    let addresses = Addresses::find(settings)?;
    if args.migrate {
        addresses.migrate(settings).await?;
    }
    let worker = Worker::start(settings, &addresses, &roles).await?;
    health(args.health, &worker, metrics).await?;
    worker.run_until(settings, &addresses, stopped()).await
}

/// Starts servers of our own, then all roles.
pub(crate) async fn up(args: &UpArgs, settings: &Settings, metrics: Metrics) -> anyhow::Result<()> {
    rehearse(settings, &Role::all())?;
    let servers = OwnServers::start(settings, &settings.embedded.data_dir, true, |step| eprintln!("{step}")).await?;
    servers.addresses.migrate(settings).await?;
    let mut settings = settings.clone();
    let token = console_token(&mut settings)?;
    let worker = Worker::start(&settings, &servers.addresses, &Role::all()).await?;
    health(args.health, &worker, metrics).await?;
    let Addresses { nats, clickhouse } = &servers.addresses;
    println!("Chasqui is up. Stop it with Ctrl-C.\n");
    println!("  NATS        {nats}        publish to notify.submit.<lane>.<app>");
    println!("  ClickHouse  {clickhouse}  database `{}`", settings.clickhouse.database);
    if let Some(bind) = worker.gateway {
        println!("  Gateway     http://{bind}  links, callbacks of vendors, receipts of apps that have a token");
        println!("  Console     {}", console_link(bind, token.as_deref()));
    }
    println!(
        "\nNATS and ClickHouse ask for a login. Other commands find it by themselves in this folder, for example:"
    );
    println!("  chasqui send my-submission.json --app shop");
    println!("  chasqui stats");
    println!("  chasqui url nats    prints the address with the login, for a program of yours");
    let ended = worker.run_until(&settings, &servers.addresses, stopped()).await;
    servers.shutdown().await;
    ended
}

/// Makes a token of the console for this run, unless the settings name one. It is in a file of `embedded.data_dir` that
/// only this user can read, because settings hold no secrets.
fn console_token(settings: &mut Settings) -> anyhow::Result<Option<String>> {
    if settings.console.token.is_set() {
        return Ok(None);
    }
    let token = made_up_secret();
    let path = settings.embedded.data_dir.join("console.token");
    write_private(&path, &token).with_context(|| format!("cannot write {}", path.display()))?;
    settings.console.token.file = Some(path);
    Ok(Some(token))
}

/// Where a browser finds the console, with the token that we made.
fn console_link(bind: SocketAddr, token: Option<&str>) -> String {
    // It listens everywhere; this machine is the one that reads this.
    let local = if bind.is_ipv4() { IpAddr::from(Ipv4Addr::LOCALHOST) } else { IpAddr::from(Ipv6Addr::LOCALHOST) };
    let address = if bind.ip().is_unspecified() { SocketAddr::new(local, bind.port()) } else { bind };
    match token {
        Some(token) => format!("http://up:{token}@{address}/ui"),
        None => format!("http://{address}/ui  the password is console.token"),
    }
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
        worker.health(metrics).start(listener.into_std()?).context("cannot start to answer probes")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt};

    use serde_json::json;

    use super::*;

    #[test]
    fn each_run_has_a_token_of_its_own_that_nobody_else_reads() {
        let dir = tempfile::tempdir().unwrap();
        let load =
            |console| Settings::load(None, &json!({ "embedded": { "data_dir": dir.path() }, "console": console }));
        let mut tokens = Vec::new();
        for _ in 0..2 {
            let mut settings = load(json!({})).unwrap();
            let token = console_token(&mut settings).unwrap().unwrap();
            let file = settings.console.token.file.clone().unwrap();
            assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
            assert_eq!(settings.console.token.read("console.token").unwrap().unwrap().expose(), token);
            // Somebody gave everybody the right to read it.
            fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
            tokens.push(token);
        }
        assert_ne!(tokens[0], tokens[1]);
        let mut settings = load(json!({ "token": { "env": "MINE" } })).unwrap();
        assert_eq!(console_token(&mut settings).unwrap(), None);
        assert_eq!(settings.console.token.file, None);
    }

    #[test]
    fn the_link_leads_to_this_machine() {
        for (bind, token, expected) in [
            ("127.0.0.1:8400", Some("t"), "http://up:t@127.0.0.1:8400/ui"),
            ("0.0.0.0:80", Some("t"), "http://up:t@127.0.0.1:80/ui"),
            ("[::]:80", Some("t"), "http://up:t@[::1]:80/ui"),
            ("192.0.2.1:80", None, "http://192.0.2.1:80/ui  the password is console.token"),
        ] {
            assert_eq!(console_link(bind.parse().unwrap(), token), expected);
        }
    }
}
