//! Answers probes and Prometheus: `/healthz`, `/readyz`, `/metrics`.
//!
//! | path | answers 200 while |
//! |---|---|
//! | `/healthz` | the loops of its roles move; otherwise the process should be restarted |
//! | `/readyz` | its roles have what they need: NATS with the streams, and ClickHouse where it writes traces |
//! | `/metrics` | the process runs |
//!
//! Guarantee: `/healthz` depends on the process alone. A broker that is away makes loops wait, but a restart would not
//! help, so that time does not count. The gateway has a listener and a `/readyz` of its own, because it accepts hits
//! without a broker. Nothing is stored; after a crash the process begins as healthy.
//!
//! Nothing keeps the answers away, because who waits for `/healthz` in vain restarts the process. They have a thread of their
//! own, so that no work of the process delays them. A connection is closed after one answer, and within `LIMITS.head` where
//! it asks nothing; the newest get the places of those that wait (see [`chasqui_http::server`]).

use std::{
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use anyhow::Context;
use async_nats::{Client, connection};
use axum::{
    Router,
    extract::State,
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
    routing::get,
};
use chasqui_http::Limits;
use tokio::{
    net::TcpListener,
    runtime,
    sync::{Semaphore, watch},
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{metrics::Metrics, servers::require_topology};

/// Maximum time without a turn before a loop counts as stuck. A loop turns twice a second.
const STALLED: Duration = Duration::from_secs(30);
/// Time between two looks at the connection to NATS. A loop that waits for NATS is excused as long as we saw it away.
const LOOK: Duration = Duration::from_millis(500);
/// Maximum time for a server's answer; after it the process is not ready. A server at work answers within milliseconds.
const PATIENCE: Duration = Duration::from_secs(2);
/// What the listener allows. Probes rarely come together, and ask at once.
const LIMITS: Limits = Limits { connections: 256, head: Duration::from_secs(2), requests: 1 };
/// Maximum checks of the servers at once: a flood of `/readyz` must not become one of queries.
const CHECKS: usize = 4;

/// What decides whether a process is healthy and ready.
pub struct Health {
    metrics: Metrics,
    /// The connection of its roles, another one after they began anew; `None` where they need none.
    nats: watch::Receiver<Option<Client>>,
    clickhouse: Option<clickhouse::Client>,
    /// When we last saw that NATS was away; at first, when the process began.
    away_at: Mutex<Instant>,
    checks: Semaphore,
}

impl Health {
    pub fn new(
        metrics: Metrics,
        nats: watch::Receiver<Option<Client>>,
        clickhouse: Option<clickhouse::Client>,
    ) -> Self {
        Health { metrics, nats, clickhouse, away_at: Mutex::new(Instant::now()), checks: Semaphore::new(CHECKS) }
    }

    /// Answers requests on a thread of its own, until the process ends.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn start(self, listener: std::net::TcpListener) -> anyhow::Result<()> {
        let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
        let listener = {
            let _within = runtime.enter();
            TcpListener::from_std(listener)?
        };
        thread::Builder::new().name("health".into()).spawn(move || runtime.block_on(self.serve(listener)))?;
        Ok(())
    }

    async fn serve(self, listener: TcpListener) {
        let health = Arc::new(self);
        let router = Router::new()
            .route("/healthz", get(healthy))
            .route("/readyz", get(ready))
            .route("/metrics", get(metrics))
            .with_state(Arc::clone(&health));
        let never = CancellationToken::new();
        tokio::join!(chasqui_http::serve(listener, router, LIMITS, &never), health.watch_nats());
    }

    async fn watch_nats(&self) {
        loop {
            if self.nats.borrow().as_ref().is_some_and(is_away) {
                *self.away_at.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
            }
            sleep(LOOK).await;
        }
    }

    /// The loops that are stuck; none while NATS is away, or was until a moment ago.
    fn stalled(&self) -> Vec<String> {
        let now = Instant::now();
        let away_at = *self.away_at.lock().unwrap_or_else(PoisonError::into_inner);
        if now.duration_since(away_at) <= STALLED { Vec::new() } else { self.metrics.stalled(now, STALLED) }
    }

    async fn missing(&self) -> anyhow::Result<()> {
        let _check = timeout(PATIENCE, self.checks.acquire()).await.context("too many ask")?;
        let nats = self.nats.borrow().clone();
        if let Some(nats) = nats {
            anyhow::ensure!(!is_away(&nats), "NATS is not connected");
            timeout(PATIENCE, require_topology(&nats)).await.context("JetStream does not answer")??;
        }
        if let Some(clickhouse) = &self.clickhouse {
            let asked = timeout(PATIENCE, clickhouse.query("SELECT 1").execute()).await;
            asked.context("ClickHouse does not answer")?.context("ClickHouse does not answer as it should")?;
        }
        Ok(())
    }
}

fn is_away(nats: &Client) -> bool {
    nats.connection_state() != connection::State::Connected
}

async fn healthy(State(health): State<Arc<Health>>) -> Response {
    match health.stalled() {
        stalled if stalled.is_empty() => "ok\n".into_response(),
        stalled => (StatusCode::SERVICE_UNAVAILABLE, format!("stuck: {}\n", stalled.join("; "))).into_response(),
    }
}

async fn ready(State(health): State<Arc<Health>>) -> Response {
    match health.missing().await {
        Ok(()) => "ready\n".into_response(),
        // The error's sources are left out, because they may name addresses.
        Err(error) => (StatusCode::SERVICE_UNAVAILABLE, format!("{error}\n")).into_response(),
    }
}

async fn metrics(State(health): State<Arc<Health>>) -> Response {
    ([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], health.metrics.text()).into_response()
}
