//! Paths, and what their handlers share.

use std::sync::{Arc, OnceLock, atomic::AtomicU64};

use axum::{
    Router,
    extract::State,
    middleware::from_fn_with_state,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use chasqui_contract::{AccountCallbacks, Clock, Ledger};
use chasqui_http::{Budget, Names, request::come_again};
use chasqui_links::Links;
use chasqui_nats::Publisher;
use chasqui_schemas::{Pepper, receipt::IdCheck};
use chasqui_settings::SettingsError;
use chasqui_spool::{Spool, SpoolError};
use jiff::{SignedDuration, Timestamp};

use crate::{
    Reporters, Settings,
    actor::Clicks,
    callbacks,
    hit_queue::{Carrier, HitQueue, MAX_RECORD_BYTES},
    pages, reports, track,
};

/// What engagement is made of.
pub struct Setup<'a> {
    /// Its own settings.
    pub settings: &'a Settings,
    /// Where recipients and providers reach us, by which names, and how many at once.
    pub gateway: &'a chasqui_http::Settings,
    /// What links are read with; `None` where none are made.
    pub links: Option<Links>,
    /// Who may report.
    pub reporters: Reporters,
    /// What vendors report, by account.
    pub callbacks: Vec<AccountCallbacks>,
    /// Where receipts go. It may be away.
    pub client: async_nats::Client,
    /// What time it is.
    pub clock: Arc<dyn Clock>,
    /// How long notifications are kept: nothing is reported of what is older.
    pub kept: SignedDuration,
    /// What only the broker can tell; empty until it has.
    pub known: Arc<OnceLock<Known>>,
}

/// What only the broker can tell. Until then reports are stored without a proof of their ids, which the service
/// `receipts` asks for again; and what counts only with a proof is refused for now.
pub struct Known {
    /// It proves ids.
    pub pepper: Pepper,
    /// It remembers what counts once.
    pub ledger: Arc<dyn Ledger>,
}

/// Engagement, ready to answer.
pub struct Engagement {
    router: Router,
    carrier: Carrier,
    lost: Arc<AtomicU64>,
}

/// Engagement cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum EngagementError {
    /// A setting cannot be used.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// The spool cannot be used.
    #[error(transparent)]
    Spool(#[from] SpoolError),
}

impl Engagement {
    /// Opens the spool. Nothing is answered before its router is served, and nothing carried before its carrier runs.
    ///
    /// # Errors
    /// Where a setting or the spool cannot be used. With NATS away it is no error: then hits are kept.
    pub fn open(setup: Setup<'_>) -> Result<Self, EngagementError> {
        let Setup { settings, gateway, links, reporters, callbacks, client, clock, kept, known } = setup;
        let spool = Spool::open(&settings.spool_dir, settings.spool_bytes, MAX_RECORD_BYTES)?;
        let publisher = Publisher::new(async_nats::jetstream::new(client.clone()));
        let (hits, carrier) = HitQueue::new(client, &publisher, spool, settings.queue_hits);
        let lost = hits.lost();
        let app = App {
            hits,
            links,
            clicks: Clicks::default(),
            reporters,
            callbacks,
            public_url: gateway.public_url.trim_end_matches('/').to_owned(),
            clock,
            kept,
            known,
        };
        let router = router(Arc::new(app), Names::of(gateway)?, gateway.connections);
        Ok(Engagement { router, carrier, lost })
    }

    /// Counts the hits that were neither stored nor refused.
    pub fn lost(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.lost)
    }

    /// What answers, and what carries hits to NATS: it ends when the router and all of its requests are gone.
    pub fn into_parts(self) -> (Router, Carrier) {
        (self.router, self.carrier)
    }
}

/// What requests share.
pub(crate) struct App {
    pub(crate) hits: HitQueue,
    pub(crate) links: Option<Links>,
    pub(crate) clicks: Clicks,
    pub(crate) reporters: Reporters,
    pub(crate) callbacks: Vec<AccountCallbacks>,
    /// Without a slash at the end.
    pub(crate) public_url: String,
    pub(crate) known: Arc<OnceLock<Known>>,
    clock: Arc<dyn Clock>,
    kept: SignedDuration,
}

impl App {
    pub(crate) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// What ids that come in `now` are held against.
    pub(crate) fn check(&self, now: Timestamp) -> IdCheck<'_> {
        IdCheck { now, kept: self.kept, pepper: self.known.get().map(|known| &known.pepper) }
    }
}

/// Each kind of route with its budget. A receipt's token is looked at before its body is read.
fn router(app: Arc<App>, names: Names, connections: usize) -> Router {
    let links = Router::new()
        .route("/t/o/{file}", get(track::pixel))
        .route("/t/c/{token}", get(track::click))
        .route("/t/u/{token}", get(track::confirm).post(track::unsubscribe));
    let receipts = Router::new().route("/v1/receipts", post(reports::report));
    let receipts = Budget::of(connections, reports::MAX_BODY).around(receipts);
    let receipts = receipts.route_layer(from_fn_with_state(Arc::clone(&app), reports::guard));
    let callbacks = get(callbacks::receive).post(callbacks::receive);
    let callbacks = Router::new().route("/v1/callbacks/{account}", callbacks);
    let health = Router::new().route("/healthz", get(|| async { "ok\n" })).route("/readyz", get(ready));
    Router::new()
        .merge(Budget::of(connections, track::MAX_BODY).around(links))
        .merge(names.around(receipts))
        .merge(Budget::of(connections, callbacks::MAX_BODY).around(callbacks))
        .merge(Budget::of(connections, 0).around(health))
        .fallback(|| async { pages::missing() })
        .with_state(app)
}

/// Ready as long as hits are taken: with NATS away too, while there is room in the spool.
async fn ready(State(app): State<Arc<App>>) -> Response {
    if app.hits.is_ready() { "ready\n".into_response() } else { come_again() }
}
