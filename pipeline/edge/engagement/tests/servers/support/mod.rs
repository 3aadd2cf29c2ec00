//! A real nats-server that can be away for a while, and a real gateway in front of it.

#![allow(dead_code, unreachable_pub, clippy::unwrap_used, reason = "a test's support")]

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::Path,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use chasqui_contract::SystemClock;
use chasqui_engagement::{Engagement, Known, Reporters, Setup};
use chasqui_http::Limits;
use chasqui_links::{Links, Origin};
use chasqui_nats::Publisher;
use chasqui_schemas::{Channel, Receipt, header, id, receipt::Actor, sample, stream};
use chasqui_settings::SecretSource;
use chasqui_stores::NatsLedger;
use chasqui_testing::servers::Nats;
use jiff::Timestamp;
use reqwest::{Client, Response, redirect::Policy};
use serde::Deserialize;
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

pub const PUBLIC_URL: &str = "https://n.example.com";
const SECRET: &str = "0123456789abcdef0123456789abcdef";

/// Every receipt in the stream, in order: subject, receipt, opt-out.
pub async fn receipts(nats: &Nats) -> Vec<(String, Receipt, Option<String>)> {
    let context = nats.context().await;
    let stream = context.get_stream(stream::RECEIPTS).await.unwrap();
    let mut receipts = Vec::new();
    for sequence in 1..=stream.cached_info().state.last_sequence {
        let message = stream.direct_get(sequence).await.unwrap();
        // An empty list is an opt-out without a receipt.
        let receipt = match &message.payload[..] {
            b"[]" => Receipt::new(Uuid::nil(), Uuid::nil(), Actor::Unknown),
            payload => serde_json::from_slice(payload).unwrap(),
        };
        let opt_out = message.headers.get(header::OPT_OUT).map(|value| value.as_str().to_owned());
        receipts.push((message.subject.to_string(), receipt, opt_out));
    }
    receipts
}

/// The same, once there are `count`.
pub async fn wait_for(nats: &Nats, count: usize) -> Vec<(String, Receipt, Option<String>)> {
    let patience = tokio::time::Instant::now() + Duration::from_secs(60);
    loop {
        let found = receipts(nats).await;
        if found.len() >= count {
            assert_eq!(found.len(), count, "{found:?}");
            return found;
        }
        assert!(tokio::time::Instant::now() < patience, "{} and not {count}: {found:?}", found.len());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// A gateway at work.
pub struct Gateway {
    pub client: Client,
    pub address: SocketAddr,
    pub lost: Arc<AtomicU64>,
    stop: CancellationToken,
    running: JoinHandle<()>,
}

/// What of the settings concerns engagement.
#[derive(Clone, Deserialize)]
pub struct Config {
    pub gateway: chasqui_http::Settings,
    pub links: chasqui_links::Settings,
    pub engagement: chasqui_engagement::Settings,
    pub accounts: chasqui_providers::Accounts,
    #[serde(default)]
    pub apps: BTreeMap<String, App>,
}

#[derive(Clone, Deserialize)]
pub struct App {
    pub token: SecretSource,
}

/// The settings that the manuals document, with keys and a public address, changed by `changes`.
pub fn config(dir: &Path, changes: &str) -> Config {
    let secret = dir.join("links.key");
    std::fs::write(&secret, SECRET).unwrap();
    let ours = format!(
        "[gateway]\nbind = '127.0.0.1:0'\npublic_url = '{PUBLIC_URL}'\n[engagement]\nspool_dir = '{}'\n\
         [[links.keys]]\nid = 'k1'\nsecret = {{ file = '{}' }}",
        dir.join("spool").display(),
        secret.display()
    );
    let defaults = [
        chasqui_http::settings::DEFAULTS,
        chasqui_links::settings::DEFAULTS,
        chasqui_engagement::settings::DEFAULTS,
        chasqui_providers::DEFAULTS,
        &ours,
        changes,
    ];
    chasqui_settings::read(&defaults, None, &serde_json::Value::Null).unwrap()
}

impl Gateway {
    pub async fn start(nats: &Nats, config: &Config) -> Self {
        let context = nats.context().await;
        let ledger = NatsLedger::open_urgent(&context, Publisher::new(context.clone())).await.unwrap();
        Self::start_knowing(nats, config, Some(Known { pepper: sample::pepper(), ledger: Arc::new(ledger) })).await
    }

    /// The same, where the broker may not have told yet what only it knows.
    pub async fn start_knowing(nats: &Nats, config: &Config, known: Option<Known>) -> Self {
        // Plain HTTP needs none, but the client asks for one.
        _ = rustls::crypto::ring::default_provider().install_default();
        let Config { gateway, links, engagement, accounts, apps } = config;
        let tokens = apps.iter().map(|(app, settings)| (app.clone(), settings.token.clone())).collect();
        let engagement = Engagement::open(Setup {
            settings: engagement,
            gateway,
            links: links.open(&gateway.public_url).unwrap(),
            reporters: Reporters::of(&tokens).unwrap(),
            callbacks: chasqui_providers::callbacks(accounts, &gateway.public_url).unwrap(),
            client: nats.client().await,
            clock: Arc::new(SystemClock),
            kept: jiff::SignedDuration::from_hours(24 * 90),
            known: Arc::new(known.map_or_else(OnceLock::new, OnceLock::from)),
        });
        let engagement = engagement.unwrap();
        let listener = TcpListener::bind(gateway.address().unwrap()).await.unwrap();
        let (address, lost) = (listener.local_addr().unwrap(), engagement.lost());
        let (router, carrier) = engagement.into_parts();
        let (stop, limits) = (CancellationToken::new(), Limits::public(gateway.connections));
        let stopped = stop.clone();
        let running = tokio::spawn(async move {
            tokio::join!(chasqui_http::serve(listener, router, limits, &stopped), carrier.run());
        });
        let client = Client::builder().redirect(Policy::none()).no_proxy().build().unwrap();
        Gateway { client, address, lost, stop, running }
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
    // To the mailbox that callbacks speak of.
    let endpoint = sample::pepper().endpoint("ada@example.com");
    let delivery_id = sample::pepper().delivery("shop", notification_id, Channel::Email, &endpoint);
    Origin { delivery_id, notification_id, channel: Channel::Email }
}
