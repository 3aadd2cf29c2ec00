//! `POST /v1/notifications`: one submission, stored before it is answered.
//!
//! In order: whose key it is (before the body is read), the checks, the app's rate, the idempotency key, the outbox. What is
//! refused on the way has changed nothing, but for the rate's tokens.
//!
//! After a crash the client has no answer and repeats. With an `Idempotency-Key`, or an `id` of its own, that is a repeat.

use std::sync::Arc;

use axum::{
    Extension, Json,
    body::Bytes,
    extract::State,
    http::{
        HeaderMap, HeaderName, HeaderValue, StatusCode,
        header::{CONTENT_TYPE, LOCATION},
    },
    response::{IntoResponse, Response},
};
use chasqui_http::request::is_encoded;
use chasqui_schemas::{
    api::{Accepted, Refusal, RequestStatus},
    app::Scope,
    door::Door,
    header, id,
};
use uuid::Uuid;

use super::judge::{Judged, judge};
use crate::{
    App,
    caller::Caller,
    idempotency::{self, Request},
    outbox::{Entry, NotTaken},
    problem::Problem,
};

/// Says that the answer is that of a request before.
const REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");
/// When to come again where there is no room, in seconds.
const COME_AGAIN_S: u64 = 5;

/// A submission that is stored.
pub(super) struct Taken {
    pub(super) accepted: Accepted,
    replayed: bool,
    limits: HeaderMap,
}

/// What all submissions of one request share.
pub(super) struct Asked<'a> {
    pub(super) app: &'a App,
    pub(super) caller: &'a Caller,
    pub(super) key: Option<String>,
    traceparent: Option<String>,
}

pub(crate) async fn submit_one(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Problem> {
    let asked = Asked::of(&app, &caller, &headers)?;
    let id = asked.new_id(None);
    let taken = asked.take(&body, id).await?;
    let location = format!("/v1/notifications/{}", taken.accepted.id);
    let answer = (StatusCode::ACCEPTED, [(LOCATION, location)], Json(&taken.accepted));
    Ok(answered(answer, taken.limits, taken.replayed))
}

/// An answer that says what is left of the app's rate, and whether the request had been answered before.
pub(super) fn answered(answer: impl IntoResponse, limits: HeaderMap, replayed: bool) -> Response {
    let mut response = answer.into_response();
    response.headers_mut().extend(limits);
    if replayed {
        response.headers_mut().insert(REPLAYED, HeaderValue::from_static("true"));
    }
    response
}

impl<'a> Asked<'a> {
    pub(super) fn of(app: &'a App, caller: &'a Caller, headers: &HeaderMap) -> Result<Self, Problem> {
        caller.may(Scope::Send)?;
        let kind = headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        let kind = kind.split(';').next().unwrap_or_default().trim();
        if is_encoded(headers) || !kind.eq_ignore_ascii_case("application/json") {
            let detail = "send `Content-Type: application/json`, and no `Content-Encoding`";
            return Err(Problem::new(Refusal::UnsupportedMediaType, detail));
        }
        let traceparent = headers.get(header::TRACEPARENT).and_then(|value| value.to_str().ok());
        let traceparent = traceparent.and_then(header::traceparent).map(str::to_owned);
        Ok(Asked { app, caller, key: idempotency::key(headers)?, traceparent })
    }

    /// The id of a submission that names none. `place` is its place in a batch.
    pub(super) fn new_id(&self, place: Option<usize>) -> Uuid {
        match (&self.key, place) {
            (None, _) => Uuid::now_v7(),
            (Some(key), None) => id::idempotent(&self.caller.app.name, key),
            // A line break cannot stand in a key.
            (Some(key), Some(place)) => id::idempotent(&self.caller.app.name, &format!("{key}\n{place}")),
        }
    }

    /// Judges and stores one submission.
    async fn take(&self, body: &[u8], id: Uuid) -> Result<Taken, Problem> {
        let judged = judge(&self.app.checks, self.caller, body, id, self.app.clock.now())?;
        let limits = self.app.limits.take(&self.caller.app, judged.recipients)?;
        let name = &self.caller.app.name;
        let request = self.key.as_ref().map(|key| Request::of(name, key, judged.lane, &judged.fields));
        let replayed = match (&request, self.app.ledger()) {
            (Some(request), Some(ledger)) => request.claim(&*ledger).await?,
            _ => false,
        };
        let accepted = self.store(judged, request).await?;
        Ok(Taken { accepted, replayed, limits })
    }

    /// Stores a submission that was judged, and counted.
    pub(super) async fn store(&self, judged: Judged, request: Option<Request>) -> Result<Accepted, Problem> {
        let Judged { lane, id, recipients, payload, .. } = judged;
        let door = Door {
            key: self.caller.key.to_string(),
            idempotency_key: self.key.clone(),
            received_at: self.app.clock.now(),
            spooled_ms: None,
        };
        let (app, traceparent) = (self.caller.app.name.clone(), self.traceparent.clone());
        let entry = Entry { app, lane, id, payload: payload.into(), traceparent, door, request };
        let durability = self.app.outbox.submit(entry).await.map_err(problem)?;
        self.app.recent.insert(id, (self.caller.app.name.clone(), recipients));
        // Both are accepted; `durability` says where it is.
        let status = RequestStatus::Accepted;
        Ok(Accepted { id, status, recipients, durability })
    }
}

fn problem(not_taken: NotTaken) -> Problem {
    match not_taken {
        NotTaken::Full => {
            let detail = "nothing of it was taken: come again a little later, and more slowly";
            Problem::new(Refusal::QueueFull, detail).again_after(COME_AGAIN_S)
        }
        NotTaken::TooLarge => Problem::new(Refusal::BodyTooLarge, "the broker takes no message of this size"),
        NotTaken::Unavailable => {
            let detail = "it is not known to be stored: send it again, with the same `Idempotency-Key` or `id`";
            Problem::new(Refusal::Unavailable, detail).again_after(COME_AGAIN_S)
        }
        NotTaken::Conflict => idempotency::conflict(),
    }
}
