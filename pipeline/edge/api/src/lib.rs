//! The HTTP door for producers, under `/v1`.
//!
//! | path | scope | does |
//! |---|---|---|
//! | `POST /v1/notifications` | `send` | submits one |
//! | `POST /v1/notifications/batch` | `send` | submits up to a thousand |
//! | `GET /v1/notifications`, `GET /v1/notifications/{id}` | `read` | shows what became of them |
//! | `GET /v1/held`, `POST /v1/held/{id}/release`, `DELETE /v1/held/{id}` | `admin` | decides about what waited too long |
//! | `GET /v1/openapi.json` | | describes all of this |
//!
//! Guarantee: a 2xx means stored, in JetStream or in files that were synced; a refusal means that nothing was taken, but for a
//! 503 that says it is unknown. No name of ours is asked for in `Host`, as elsewhere: a browser adds no key by itself, and
//! which web pages may use one, its app says. Whose key a request shows is looked at before its body is read.
//!
//! | module | does |
//! |---|---|
//! | [`apps`] | apps in the bucket, and making their keys |
//! | [`caller`] | who asks: what a request shows of itself, held against the keys |
//! | [`keys`] | the keys of all apps, from the settings and from the bucket |
//! | `notifications` | submitting and reading |
//! | `idempotency` | the same request again |
//! | `limits` | how many recipients an app may address |
//! | [`outbox`] | the way to NATS, with files for when it is away |
//! | `held` | what waited in the files too long |
//! | `problem` | refusals |
//! | [`openapi`] | the description of the whole |
//! | [`settings`] | `[api]` |
//! | [`signed`] | tokens that a key has signed |

pub mod apps;
pub mod caller;
mod held;
mod idempotency;
pub mod keys;
mod limits;
mod notifications;
pub mod openapi;
pub mod outbox;
mod problem;
pub mod settings;
pub mod signed;

use std::{
    path::PathBuf,
    sync::{Arc, OnceLock},
    time::Duration,
};

use axum::{
    Router,
    extract::{Request, State},
    middleware::{Next, from_fn, from_fn_with_state},
    response::{IntoResponse, Response},
    routing::{delete, get, post},
};
use chasqui_contract::{Clock, Ledger};
use chasqui_http::Budget;
use chasqui_nats::Publisher;
use chasqui_schemas::api::MAX_BATCH_BYTES;
use chasqui_spool::SpoolError;
use chasqui_validate::{Allowed, Checks};
use uuid::Uuid;

pub use caller::{Caller, Refused, identify};
pub use keys::{Keys, NamedKeys};
pub use outbox::Carrier;
pub use settings::Settings;

use crate::{limits::Limits, outbox::Outbox, problem::Problem};

/// Maximum bytes of a body that nobody reads: some clients send one with every method.
const IGNORED_BODY: usize = 16 << 10;
/// How long a submission is known to be accepted before ClickHouse shows it.
const RECENT: Duration = Duration::from_secs(15 * 60);
/// Maximum submissions that are known so: some 100 bytes each.
const MAX_RECENT: u64 = 100_000;

/// What the door is made of.
pub struct Setup<'a> {
    /// Its own settings.
    pub settings: &'a Settings,
    /// Where submissions wait while NATS is away; this process's own.
    pub spool_dir: PathBuf,
    /// Whose key a request shows.
    pub keys: Arc<Keys>,
    /// What a submission may say.
    pub allowed: Allowed,
    /// Where submissions go. It may be away.
    pub client: async_nats::Client,
    /// The same, as the server wants messages to come.
    pub publisher: Publisher,
    /// What remembers the keys of requests; empty until the broker was there once.
    pub ledger: Arc<OnceLock<Arc<dyn Ledger>>>,
    /// How long it remembers them.
    pub window: Duration,
    /// Where it is read what became of submissions.
    pub clickhouse: clickhouse::Client,
    /// What time it is.
    pub clock: Arc<dyn Clock>,
    /// How many connections the gateway has.
    pub connections: usize,
}

/// What requests share.
pub(crate) struct App {
    keys: Arc<Keys>,
    checks: Checks,
    limits: Limits,
    outbox: Outbox,
    ledger: Arc<OnceLock<Arc<dyn Ledger>>>,
    recent: moka::sync::Cache<Uuid, (String, u32)>,
    clickhouse: clickhouse::Client,
    clock: Arc<dyn Clock>,
    client: async_nats::Client,
}

impl App {
    /// What remembers the keys of requests, while it can be asked.
    fn ledger(&self) -> Option<Arc<dyn Ledger>> {
        let is_there = self.client.connection_state() == async_nats::connection::State::Connected;
        self.ledger.get().filter(|_| is_there).cloned()
    }
}

/// Opens the door: what answers, and what carries submissions to NATS. That ends when the router and its requests are gone.
///
/// # Errors
/// Where the spool cannot be used. With NATS away it is no error.
pub fn open(setup: Setup<'_>) -> Result<(Router, Carrier), SpoolError> {
    let Setup { settings, spool_dir, keys, allowed, client, publisher, ledger, window, clickhouse, clock, connections } =
        setup;
    let parts = outbox::Parts {
        client: client.clone(),
        publisher,
        ledger: Arc::clone(&ledger),
        clock: Arc::clone(&clock),
        window,
    };
    let (outbox, carrier) = Outbox::open(settings, &spool_dir, parts)?;
    let recent = moka::sync::Cache::builder().max_capacity(MAX_RECENT).time_to_live(RECENT).build();
    let (checks, limits) = (Checks::new(allowed), Limits::default());
    let app = App { keys, checks, limits, outbox, ledger, recent, clickhouse, clock, client };
    Ok((router(Arc::new(app), connections), carrier))
}

/// Each kind of route with its budget; whose key it is, is asked before a body is read.
fn router(app: Arc<App>, connections: usize) -> Router {
    let guarded = |routes: Router<Arc<App>>| routes.route_layer(from_fn_with_state(Arc::clone(&app), guard));
    let submit = Router::new()
        .route("/v1/notifications", post(notifications::submit_one))
        .route("/v1/notifications/batch", post(notifications::submit_batch));
    let read = Router::new()
        .route("/v1/notifications", get(notifications::list))
        .route("/v1/notifications/{id}", get(notifications::one))
        .route("/v1/held", get(held::list))
        .route("/v1/held/{id}", delete(held::discard))
        .route("/v1/held/{id}/release", post(held::release));
    let described = Router::new().route("/v1/openapi.json", get(openapi::answer));
    let read = Budget::of(connections, IGNORED_BODY).around(guarded(read).merge(described));
    Router::new()
        .merge(guarded(Budget::of(connections, MAX_BATCH_BYTES).around(submit)))
        .merge(read)
        .layer(from_fn(problem::worded))
        .with_state(app)
}

/// Lets only requests with a valid key come any further.
async fn guard(State(app): State<Arc<App>>, mut request: Request, next: Next) -> Response {
    match identify(&app.keys, request.headers(), app.clock.now()) {
        Ok(caller) => {
            request.extensions_mut().insert(caller);
            next.run(request).await
        }
        Err(refused) => Problem::from(refused).into_response(),
    }
}
