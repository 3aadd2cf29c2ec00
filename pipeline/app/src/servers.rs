//! Finds NATS and ClickHouse: those in the settings, those that `chasqui up` runs on this machine, or starts our own.
//!
//! `chasqui up` writes the addresses of its servers, and how to log in there, to a file in `embedded.data_dir`, where other
//! commands find them. Only its owner can read it, and one that others could read is not believed: it may have come with
//! somebody's files. After a crash it is stale, and the next command fails to connect.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use async_nats::{Client, jetstream};
use chasqui_embedded::{
    ClickHouseOptions, Embedded, NatsOptions, Options, Server, SyncInterval, read_private, write_private,
};
use chasqui_nats::{
    connection,
    settings::{Always, SyncInterval as NatsSync},
};
use chasqui_runtime::topology;
use chasqui_schemas::{Lane, Stage, stream};
use chasqui_settings::ServerUrl;
use chasqui_stores::pepper;
use chasqui_warehouse::{ClickHouseSettings, MigrateSettings};
use serde::Deserialize;
use serde_json::json;

use crate::settings::{EmbeddedSettings, Settings};

/// The addresses of NATS and ClickHouse.
#[derive(Debug, Clone, Deserialize)]
pub struct Addresses {
    pub nats: ServerUrl,
    pub clickhouse: ServerUrl,
}

impl Addresses {
    /// Reads the addresses from the settings. For one that is empty, it takes the address that `chasqui up` wrote.
    pub fn find(settings: &Settings) -> anyhow::Result<Self> {
        Ok(Addresses { nats: nats_url(settings)?, clickhouse: clickhouse_url(settings)? })
    }

    /// Connects to NATS.
    pub async fn nats(&self, settings: &chasqui_nats::Settings) -> anyhow::Result<Client> {
        Ok(connection::connect(&self.nats, &settings.connect_options()?).await?)
    }

    /// Connects to NATS in the background, and returns at once even where the server does not answer.
    pub async fn nats_some_time(&self, settings: &chasqui_nats::Settings) -> anyhow::Result<Client> {
        Ok(connection::connect_some_time(&self.nats, &settings.connect_options()?).await?)
    }

    /// Makes a client of ClickHouse, which connects when it is used.
    pub fn clickhouse(&self, settings: &ClickHouseSettings) -> anyhow::Result<clickhouse::Client> {
        Ok(chasqui_warehouse::client::open(&self.clickhouse, settings)?)
    }

    /// Brings streams, buckets and tables up to date.
    pub async fn migrate(&self, settings: &Settings) -> anyhow::Result<()> {
        let client = self.nats(&settings.nats).await?;
        topology::migrate(&client, self.nats.as_str(), &settings.streams, &settings.runner).await?;
        topology::migrate_export(&client, settings.export.is_on(), &settings.runner).await?;
        // This makes the pepper if there is none yet, and reports now where [privacy] contradicts the stored one.
        pepper(&jetstream::new(client), settings.privacy.secret()?.as_ref()).await?;
        let clickhouse = self.clickhouse(&settings.clickhouse)?;
        chasqui_warehouse::migrate(&clickhouse, &schema(&settings.clickhouse)).await?;
        Ok(())
    }
}

/// Selects the settings that ClickHouse's tables depend on.
pub fn schema(settings: &ClickHouseSettings) -> MigrateSettings {
    MigrateSettings {
        database: settings.database.clone(),
        retention_days: settings.ttl_days,
        insert_window: settings.insert_window,
        cluster: Some(settings.cluster.clone()).filter(|name| !name.is_empty()),
    }
}

/// The servers that we started, for as long as this lives. A server that the settings name is used and not started.
pub struct OwnServers {
    pub addresses: Addresses,
    pub embedded: Embedded,
    /// Other commands read the addresses in this file, while we run.
    address_file: Option<PathBuf>,
}

impl OwnServers {
    /// Starts them in `data_dir`. With `write_addresses` other commands find them.
    pub async fn start(
        settings: &Settings,
        data_dir: &Path,
        write_addresses: bool,
        progress: impl Fn(&str) + Send + Sync + 'static,
    ) -> anyhow::Result<Self> {
        let Settings { embedded: own, nats, clickhouse, .. } = settings;
        let options = Options {
            data_dir: data_dir.to_owned(),
            cache_dir: cache_dir(&own.cache_dir)?,
            nats: nats.url.is_empty().then(|| nats_options(own, nats.sync_interval)),
            clickhouse: clickhouse.url.is_empty().then(|| ClickHouseOptions {
                libchdb: path(&own.libchdb),
                port: port(own.clickhouse_port),
                max_memory_bytes: own.clickhouse_memory_bytes,
                database: clickhouse.database.clone(),
                ..ClickHouseOptions::default()
            }),
        };
        let embedded = Embedded::start(options, progress).await?;
        let address =
            |own: Option<&Server>, configured: &ServerUrl| own.map(Server::address).unwrap_or(configured).clone();
        let addresses = Addresses {
            nats: address(embedded.nats(), &nats.url),
            clickhouse: address(embedded.clickhouse(), &clickhouse.url),
        };
        let address_file = write_addresses.then(|| address_file(data_dir));
        if let Some(file) = &address_file {
            let Addresses { nats, clickhouse } = &addresses;
            let text = json!({ "nats": nats.expose(), "clickhouse": clickhouse.expose() }).to_string();
            write_private(file, &text).with_context(|| format!("cannot write {}", file.display()))?;
        }
        Ok(OwnServers { addresses, embedded, address_file })
    }

    /// Stops them in order.
    pub async fn shutdown(self) {
        if let Some(file) = &self.address_file {
            // Errors are ignored: a stale file only makes the next command fail to connect.
            _ = std::fs::remove_file(file);
        }
        self.embedded.shutdown().await;
    }
}

/// Connects to NATS alone, for commands that also work where no address of ClickHouse is known.
pub async fn nats_alone(settings: &Settings) -> anyhow::Result<Client> {
    Addresses { nats: nats_url(settings)?, clickhouse: ServerUrl::default() }.nats(&settings.nats).await
}

/// Makes a client of ClickHouse alone.
pub fn clickhouse_alone(settings: &Settings) -> anyhow::Result<clickhouse::Client> {
    Addresses { nats: ServerUrl::default(), clickhouse: clickhouse_url(settings)? }.clickhouse(&settings.clickhouse)
}

fn nats_url(settings: &Settings) -> anyhow::Result<ServerUrl> {
    configured_or_up(&settings.nats.url, &settings.embedded.data_dir, |up| up.nats, "nats.url")
}

fn clickhouse_url(settings: &Settings) -> anyhow::Result<ServerUrl> {
    configured_or_up(&settings.clickhouse.url, &settings.embedded.data_dir, |up| up.clickhouse, "clickhouse.url")
}

fn configured_or_up(
    url: &ServerUrl,
    data_dir: &Path,
    pick: fn(Addresses) -> ServerUrl,
    key: &str,
) -> anyhow::Result<ServerUrl> {
    if !url.is_empty() {
        return Ok(url.clone());
    }
    of_up(data_dir).map(pick).with_context(|| {
        format!("no server: set `{key}` (CHASQUI_{}), or start `chasqui up`", key.to_uppercase().replace('.', "__"))
    })
}

/// The servers that `chasqui up` runs with this data directory.
///
/// # Errors
/// It runs none, or its file is not to be believed.
pub fn of_up(data_dir: &Path) -> anyhow::Result<Addresses> {
    let path = address_file(data_dir);
    let told = || format!("cannot use {}", path.display());
    serde_json::from_str(&read_private(&path).with_context(told)?).with_context(told)
}

/// Where fetched programs are kept: not in the folder that we happen to stand in, which may be anybody's.
fn cache_dir(configured: &Path) -> anyhow::Result<PathBuf> {
    if !configured.as_os_str().is_empty() {
        return Ok(configured.to_owned());
    }
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let caches = absolute("XDG_CACHE_HOME").or_else(|| Some(absolute("HOME")?.join(".cache")));
    Ok(caches.context("there is no HOME to keep fetched servers in: set `embedded.cache_dir`")?.join("chasqui"))
}

fn address_file(data_dir: &Path) -> PathBuf {
    data_dir.join("addresses.json")
}

fn nats_options(settings: &EmbeddedSettings, sync_interval: NatsSync) -> NatsOptions {
    NatsOptions {
        binary: path(&settings.nats_server),
        port: port(settings.nats_port),
        sync_interval: match sync_interval {
            NatsSync::Word(Always::Always) => SyncInterval::Always,
            NatsSync::Seconds(seconds) => SyncInterval::Every(std::time::Duration::from_secs(seconds)),
        },
        max_file_store_bytes: settings.nats_disk_bytes,
        memory_limit_bytes: Some(settings.nats_memory_bytes),
        ..NatsOptions::default()
    }
}

fn path(path: &Path) -> Option<PathBuf> {
    (!path.as_os_str().is_empty()).then(|| path.to_owned())
}

fn port(port: u16) -> Option<u16> {
    (port != 0).then_some(port)
}

/// Refuses to go on where `migrate` has not run.
pub async fn require_topology(client: &Client) -> anyhow::Result<()> {
    let context = jetstream::new(client.clone());
    if context.get_stream(stream::of_stage(Stage::Validate, Lane::Normal)).await.is_err() {
        bail!("the streams do not exist: run `chasqui migrate` first");
    }
    Ok(())
}
