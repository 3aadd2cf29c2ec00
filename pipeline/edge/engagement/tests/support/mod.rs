//! A real nats-server that can be away for a while, and a real gateway in front of it.

#![allow(dead_code, unreachable_pub, clippy::unwrap_used, reason = "a test's support")]

use std::{
    net::SocketAddr,
    path::Path,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_nats::jetstream;
use chasqui_contract::SystemClock;
use chasqui_embedded::{Embedded, NatsOptions, Options};
use chasqui_gateway::{Config, Gateway};
use chasqui_links::{Links, Origin};
use chasqui_runtime::topology;
use chasqui_schemas::{Channel, Receipt, header, id, stream};
use chasqui_stores::{ConnectOptions, connect};
use jiff::Timestamp;
use reqwest::{Client, Response, redirect::Policy};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

pub const PUBLIC_URL: &str = "https://n.example.com";
const SECRET: &str = "0123456789abcdef0123456789abcdef";

/// A nats-server with the streams of the house, gone when dropped.
pub struct Nats {
    dir: tempfile::TempDir,
    url: String,
    server: Option<Embedded>,
}

impl Nats {
    pub async fn start() -> Self {
        let mut nats = Nats { dir: tempfile::tempdir().unwrap(), url: String::new(), server: None };
        nats.start_again().await;
        let mut config = chasqui_runtime::Config::load("[send]\n", None).unwrap();
        config.streams.queue_bytes = 64 << 20;
        config.streams.trace_bytes = 64 << 20;
        topology::migrate(&nats.client().await, &nats.url, &config.streams, &config.runner).await.unwrap();
        nats
    }

    /// Stops it, and nobody starts it.
    pub async fn stop(&mut self) {
        self.server.take().unwrap().shutdown().await;
    }

    /// Starts it, with what it had, where it was.
    pub async fn start_again(&mut self) {
        let port = self.url.rsplit(':').next().and_then(|port| port.parse().ok());
        let nats = NatsOptions { port, max_file_store_bytes: 2 << 30, ..NatsOptions::default() };
        let options = Options {
            nats: Some(nats),
            clickhouse: None,
            ..Options::new(self.dir.path().join("data"), concat!(env!("CARGO_TARGET_TMPDIR"), "/embedded"))
        };
        let server = Embedded::start(options, |_| {}).await.unwrap();
        self.url = server.nats_url().unwrap().to_owned();
        self.server = Some(server);
    }

    pub async fn client(&self) -> async_nats::Client {
        connect(&self.url, &ConnectOptions::default()).await.unwrap()
    }

    /// Every receipt in the stream, in order: subject, receipt, opt-out.
    pub async fn receipts(&self) -> Vec<(String, Receipt, Option<String>)> {
        let context = jetstream::new(self.client().await);
        let stream = context.get_stream(stream::RECEIPTS).await.unwrap();
        let mut receipts = Vec::new();
        for sequence in 1..=stream.cached_info().state.last_sequence {
            let message = stream.direct_get(sequence).await.unwrap();
            let receipt = serde_json::from_slice(&message.payload).unwrap();
            let opt_out = message.headers.get(header::OPT_OUT).map(|value| value.as_str().to_owned());
            receipts.push((message.subject.to_string(), receipt, opt_out));
        }
        receipts
    }

    /// The same, once there are `count`.
    pub async fn wait_for(&self, count: usize) -> Vec<(String, Receipt, Option<String>)> {
        let patience = tokio::time::Instant::now() + Duration::from_secs(60);
        loop {
            let receipts = self.receipts().await;
            if receipts.len() >= count {
                assert_eq!(receipts.len(), count, "{receipts:?}");
                return receipts;
            }
            assert!(tokio::time::Instant::now() < patience, "{} and not {count}: {receipts:?}", receipts.len());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

/// A gateway at work.
pub struct House {
    pub client: Client,
    pub address: SocketAddr,
    pub lost: Arc<AtomicU64>,
    stop: CancellationToken,
    running: JoinHandle<()>,
}

/// The settings that the manual documents, with keys and a public address, changed by `changes`.
pub fn config(dir: &Path, changes: &str) -> Config {
    let secret = dir.join("links.key");
    std::fs::write(&secret, SECRET).unwrap();
    let mut table: toml::Table = toml::from_str(chasqui_runtime::config::DEFAULTS).unwrap();
    let mut gateway = table.remove("gateway").unwrap();
    let text = format!(
        "bind = '127.0.0.1:0'\npublic_url = '{PUBLIC_URL}'\nspool_dir = '{}'\nkeys = [{{ id = 'k1', file = '{}' }}]",
        dir.join("spool").display(),
        secret.display()
    );
    for text in [text.as_str(), changes] {
        gateway.as_table_mut().unwrap().extend(toml::from_str::<toml::Table>(text).unwrap());
    }
    Config::read(&serde_json::to_value(gateway).unwrap()).unwrap()
}

impl House {
    pub async fn start(nats: &Nats, config: &Config) -> Self {
        // Plain HTTP needs none, but the client asks for one.
        _ = rustls::crypto::ring::default_provider().install_default();
        let gateway = Gateway::bind(config, nats.client().await, Arc::new(SystemClock)).await.unwrap();
        let (address, lost) = (gateway.address(), gateway.lost());
        let stop = CancellationToken::new();
        let running = tokio::spawn(gateway.run(stop.clone()));
        let client = Client::builder().redirect(Policy::none()).no_proxy().build().unwrap();
        House { client, address, lost, stop, running }
    }

    /// Asks for the path of `url`, which links have with their public address.
    pub async fn get(&self, url: &str) -> Response {
        let request = self.client.get(self.here(url)).header("User-Agent", "Mozilla/5.0 (X11; Linux) Firefox/140.0");
        request.send().await.unwrap()
    }

    pub async fn post(&self, url: &str, body: impl Into<reqwest::Body>) -> Response {
        self.client.post(self.here(url)).body(body).send().await.unwrap()
    }

    pub fn here(&self, url: &str) -> String {
        format!("http://{}{}", self.address, url.trim_start_matches(PUBLIC_URL))
    }

    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    pub async fn stop(self) {
        self.stop.cancel();
        self.running.await.unwrap();
    }

    /// As kill -9 would, as far as that goes within a process: nothing is written any more.
    pub async fn crash(self) {
        self.running.abort();
        _ = self.running.await;
    }
}

pub fn links() -> Links {
    Links::new(PUBLIC_URL, [("k1", SECRET.as_bytes())]).unwrap()
}

/// A message that was submitted a while ago, for the `n`th recipient.
pub fn message(n: u128) -> Origin {
    // One moment for all, so that the same message has the same id whenever it is asked for.
    static SUBMITTED_AT: OnceLock<Timestamp> = OnceLock::new();
    let submitted_at = *SUBMITTED_AT.get_or_init(|| Timestamp::now() - jiff::SignedDuration::from_mins(5));
    let notification_id = id::notification(submitted_at, Uuid::from_u128(n), "user:ada");
    Origin { delivery_id: Uuid::from_u128(1_000 + n), notification_id, channel: Channel::Email }
}
