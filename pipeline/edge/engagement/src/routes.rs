//! Paths, and the bounds of a request: its time, its body, how many large ones at once.

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    body::to_bytes,
    extract::{Request, State},
    http::{
        HeaderName, HeaderValue, StatusCode,
        header::{CACHE_CONTROL, REFERRER_POLICY, RETRY_AFTER, X_CONTENT_TYPE_OPTIONS},
    },
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use bytes::Bytes;
use chasqui_contract::Clock;
use chasqui_links::Links;
use jiff::Timestamp;
use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::timeout,
};

use crate::{
    actor::Clicks,
    callbacks::{self, Verifiers},
    config::Reporters,
    intake::Intake,
    pages, reports, track,
};

/// A request is answered within this time, its body included.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(15);
/// Requests with a large body that are in memory at once: 32 MiB at most.
const MAX_BULK: usize = 32;
/// When to come again after a 503, in seconds.
const COME_AGAIN_S: &str = "5";

/// What requests share.
pub(crate) struct App {
    pub(crate) intake: Intake,
    pub(crate) links: Option<Links>,
    pub(crate) clicks: Clicks,
    pub(crate) reporters: Reporters,
    pub(crate) verifiers: Verifiers,
    /// Without a slash at the end.
    pub(crate) public_url: String,
    clock: Arc<dyn Clock>,
    bulk: Semaphore,
}

impl App {
    pub(crate) fn new(
        intake: Intake,
        links: Option<Links>,
        reporters: Reporters,
        verifiers: Verifiers,
        public_url: String,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let bulk = Semaphore::new(MAX_BULK);
        App { intake, links, clicks: Clicks::default(), reporters, verifiers, public_url, clock, bulk }
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// A turn to read a large body; `None` is never, for the semaphore is not closed.
    pub(crate) async fn turn(&self) -> Option<SemaphorePermit<'_>> {
        self.bulk.acquire().await.ok()
    }
}

/// `ui` are the routes of the trace page, where there is one.
pub(crate) fn router(app: Arc<App>, ui: Option<Router>) -> Router {
    Router::new()
        .route("/t/o/{file}", get(track::pixel))
        .route("/t/c/{token}", get(track::click))
        .route("/t/u/{token}", get(track::ask).post(track::unsubscribe))
        .route("/v1/receipts", post(reports::report))
        .route("/v1/callbacks/{provider}", post(callbacks::receive))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .fallback(|| async { pages::missing() })
        .with_state(app)
        .merge(ui.unwrap_or_default())
        .layer(middleware::from_fn(bounded))
}

/// Ready as long as hits are taken: with NATS away too, while there is room in the spool.
async fn ready(State(app): State<Arc<App>>) -> Response {
    if app.intake.is_ready() { "ready\n".into_response() } else { come_again() }
}

/// Bounds a request's time, and says what holds for every answer.
async fn bounded(request: Request, next: Next) -> Response {
    let answered = timeout(REQUEST_TIMEOUT, next.run(request)).await;
    let mut response = answered.unwrap_or_else(|_| StatusCode::REQUEST_TIMEOUT.into_response());
    for (name, value) in
        [(CACHE_CONTROL, "no-store"), (REFERRER_POLICY, "no-referrer"), (X_CONTENT_TYPE_OPTIONS, "nosniff")]
    {
        let (name, value): (HeaderName, HeaderValue) = (name, HeaderValue::from_static(value));
        response.headers_mut().insert(name, value);
    }
    response
}

/// The whole body, or the answer to one that is too large or does not come.
pub(crate) async fn body(request: Request, max_bytes: usize) -> Result<Bytes, Response> {
    let body = to_bytes(request.into_body(), max_bytes).await;
    body.map_err(|_| StatusCode::PAYLOAD_TOO_LARGE.into_response())
}

/// There is no room now.
pub(crate) fn come_again() -> Response {
    (StatusCode::SERVICE_UNAVAILABLE, [(RETRY_AFTER, COME_AGAIN_S)]).into_response()
}
