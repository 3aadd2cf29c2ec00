//! The gateway: one listener, and the rooms behind it.

use std::{
    net::SocketAddr,
    sync::{Arc, atomic::AtomicU64},
};

use anyhow::Context;
use axum::Router;
use chasqui_contract::Clock;
use chasqui_engagement::{Carrier, Engagement, Reporters, Setup};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::settings::Settings;

/// A gateway that listens.
pub struct Gateway {
    listener: TcpListener,
    connections: usize,
    router: Router,
    carrier: Carrier,
    lost: Arc<AtomicU64>,
}

impl Gateway {
    /// Listens; [`Gateway::run`] answers. It is no error that NATS is away: until it is back, hits go to the spool.
    pub async fn bind(
        settings: &Settings,
        client: async_nats::Client,
        clickhouse: clickhouse::Client,
        clock: Arc<dyn Clock>,
    ) -> anyhow::Result<Self> {
        let gateway = &settings.gateway;
        let (address, is_local) = (gateway.address()?, gateway.is_local()?);
        let tokens = settings.apps.iter().map(|(app, settings)| (app.clone(), settings.token.clone())).collect();
        let engagement = Engagement::open(Setup {
            settings: &settings.engagement,
            public_url: &gateway.public_url,
            links: settings.links.open(&gateway.public_url)?,
            reporters: Reporters::of(&tokens, is_local)?,
            callbacks: chasqui_providers::callbacks(&settings.accounts, &gateway.public_url)?,
            client,
            clock,
        })?;
        let console = chasqui_console::open(&settings.console, is_local, clickhouse)?;
        let listener = TcpListener::bind(address).await;
        let listener = listener
            .with_context(|| format!("cannot listen on {address} (`gateway.bind`; empty for no gateway here)"))?;
        let lost = engagement.lost();
        let (router, carrier) = engagement.into_parts();
        let router = router.merge(console.unwrap_or_default());
        Ok(Gateway { listener, connections: gateway.connections.max(1), router, carrier, lost })
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
        let Gateway { listener, connections, router, carrier, .. } = self;
        // The last request drops the last sender of the hit queue, which ends the carrier.
        tokio::join!(chasqui_http::serve(listener, router, connections, &stop), carrier.run());
    }
}
