//! The gateway: one listener, and the rooms behind it.
//!
//! Guarantee: connections leave the process half of its file descriptors, so that a flood of them closes neither spool nor
//! the way to NATS.

use std::{
    net::SocketAddr,
    sync::{Arc, OnceLock, atomic::AtomicU64},
    time::Duration,
};

use anyhow::Context;
use async_nats::jetstream;
use axum::Router;
use chasqui_api::Keys;
use chasqui_contract::{Clock, Ledger};
use chasqui_engagement::{Carrier, Engagement, Known, Reporters, Setup};
use chasqui_http::Limits;
use chasqui_nats::{Pauses, Publisher};
use chasqui_settings::Secret;
use chasqui_stores::{NatsLedger, pepper};
use rustix::process::{Resource, getrlimit};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::{settings::Settings, worker::publisher};

/// A gateway that listens.
pub struct Gateway {
    listener: TcpListener,
    limits: Limits,
    router: Router,
    carrier: Carrier,
    submissions: chasqui_api::Carrier,
    lost: Arc<AtomicU64>,
    client: async_nats::Client,
    secret: Option<Secret>,
    known: Arc<OnceLock<Known>>,
    ledger: Arc<OnceLock<Arc<dyn Ledger>>>,
    keys: Arc<Keys>,
}

impl Gateway {
    /// Listens; [`Gateway::run`] answers. It is no error that NATS is away: until it is back, hits go to the spool.
    pub async fn bind(
        settings: &Settings,
        client: async_nats::Client,
        clickhouse: clickhouse::Client,
        clock: Arc<dyn Clock>,
    ) -> anyhow::Result<Self> {
        let gateway = &chasqui_http::Settings {
            connections: affordable(settings.gateway.connections),
            ..settings.gateway.clone()
        };
        let address = gateway.address()?;
        let tokens = settings.listed_apps().map(|(app, settings)| (app.clone(), settings.token.clone())).collect();
        let known = Arc::new(OnceLock::new());
        let kept = settings.engagement.spool_dir.join("apps.json");
        let keys = Arc::new(Keys::open(settings.permissions(), settings.keys()?, kept));
        let ledger = Arc::new(OnceLock::new());
        let (api, submissions) = chasqui_api::open(chasqui_api::Setup {
            settings: &settings.api,
            spool_dir: settings.engagement.spool_dir.join("submissions"),
            keys: Arc::clone(&keys),
            allowed: settings.allowed()?,
            client: client.clone(),
            publisher: publisher(&jetstream::new(client.clone()), &settings.nats),
            ledger: Arc::clone(&ledger),
            window: Duration::from_secs(settings.streams.dedupe_window_s),
            clickhouse: clickhouse.clone(),
            clock: Arc::clone(&clock),
            connections: gateway.connections,
        })?;
        let engagement = Engagement::open(Setup {
            settings: &settings.engagement,
            gateway,
            links: settings.links.open(&gateway.public_url)?,
            reporters: Reporters::of(&tokens)?,
            callbacks: chasqui_providers::callbacks(&settings.accounts, &gateway.public_url)?,
            client: client.clone(),
            clock,
            kept: settings.kept(),
            known: Arc::clone(&known),
        })?;
        let console = chasqui_console::open(&settings.console, gateway, clickhouse)?;
        let listener = TcpListener::bind(address).await;
        let listener = listener
            .with_context(|| format!("cannot listen on {address} (`gateway.bind`; empty for no gateway here)"))?;
        let lost = engagement.lost();
        let (router, carrier) = engagement.into_parts();
        let router = router.merge(api).merge(console.unwrap_or_default());
        let (limits, secret) = (Limits::public(gateway.connections), settings.privacy.secret()?);
        Ok(Gateway { listener, limits, router, carrier, submissions, lost, client, secret, known, ledger, keys })
    }

    /// The address that it listens on, with the port that the system chose where the settings say 0.
    pub fn address(&self) -> anyhow::Result<SocketAddr> {
        Ok(self.listener.local_addr()?)
    }

    /// The number of hits that were neither stored nor refused.
    pub fn lost(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.lost)
    }

    /// Answers until `stop` is cancelled, and then publishes or spools the hits that it had accepted.
    pub async fn run(self, stop: CancellationToken) {
        let Gateway { listener, limits, router, carrier, submissions, client, secret, known, ledger, keys, .. } = self;
        let following = stop.run_until_cancelled(keys.follow(client.clone()));
        let learning = stop.run_until_cancelled(learn(client, secret, &known, &ledger));
        let serving = chasqui_http::serve(listener, router, limits, &stop);
        // The last request drops the last sender of each queue, which ends its carrier.
        tokio::join!(serving, carrier.run(), submissions.run(), learning, following);
    }
}

/// Asks the broker for what proves ids, and for the ledger, until it has told both.
async fn learn(
    client: async_nats::Client,
    secret: Option<Secret>,
    known: &OnceLock<Known>,
    shared: &OnceLock<Arc<dyn Ledger>>,
) {
    let context = jetstream::new(client);
    let mut pauses = Pauses::default();
    loop {
        let asked = async {
            let pepper = pepper(&context, secret.as_ref()).await?;
            let ledger = NatsLedger::open_urgent(&context, Publisher::new(context.clone())).await?;
            let ledger: Arc<dyn Ledger> = Arc::new(ledger);
            _ = shared.set(Arc::clone(&ledger));
            anyhow::Ok(Known { pepper, ledger })
        };
        match asked.await {
            Ok(found) => {
                _ = known.set(found);
                return;
            }
            Err(error) => tracing::warn!(
                error = &*error,
                "ids of receipts are not proved here yet, only by the service `receipts`: trying again"
            ),
        }
        tokio::time::sleep(pauses.pause()).await;
    }
}

/// As many of the connections as the process can hold open.
fn affordable(wanted: usize) -> usize {
    let files = getrlimit(Resource::Nofile).current.and_then(|files| usize::try_from(files).ok());
    let most = files.unwrap_or(usize::MAX) / 2;
    if wanted > most {
        tracing::warn!(wanted, most, "gateway.connections is more than half of the open files that the system allows");
    }
    wanted.clamp(1, most.max(1))
}
