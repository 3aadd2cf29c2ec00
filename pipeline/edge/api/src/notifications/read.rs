//! `GET /v1/notifications/{id}` and `GET /v1/notifications`: what became of what an app has submitted.
//!
//! Guarantee: an app sees its own and nothing else; of others' it does not even learn that they exist. What this process has
//! taken is known from that moment on: it is `accepted`, `spooled` or `held` until ClickHouse has its notifications. What
//! another process took in the last seconds is not known here yet.
//!
//! Reading changes nothing.

use std::sync::Arc;

use axum::{
    Extension, Json,
    extract::{Path, Query, State, rejection::QueryRejection},
};
use chasqui_schemas::{
    api::{
        DEFAULT_PAGE, DeliveryView, MAX_PAGE, NotificationPage, NotificationView, Refusal, RequestStatus, RequestView,
    },
    app::Scope,
    clickhouse::{DELIVERIES, NOTIFICATION_STATES},
    trace::State as Ended,
};
use clickhouse::Row;
use jiff::Timestamp;
use serde::Deserialize;
use uuid::Uuid;

use crate::{App, caller::Caller, problem::Problem};

/// Maximum notifications that a request is shown with.
const MAX_SHOWN: usize = 100;
/// Maximum notifications of one user or transaction that are looked through: the newest.
const MAX_MATCHES: usize = 10_000;
/// Maximum deliveries that are shown of them; most have one or two.
const MAX_DELIVERIES: usize = 2_000;

/// Columns of the view `traces`.
const COLUMNS: &str =
    "toString(notification_id) AS id, toString(request_id) AS request, user, toString(category) AS category,
    lane, state, reason, transaction_id, toUnixTimestamp64Milli(submitted_at) AS submitted_ms,
    toUnixTimestamp64Milli(ended_at) AS ended_ms";

#[derive(Debug, Row, Deserialize)]
struct Found {
    id: String,
    request: String,
    user: String,
    category: String,
    lane: String,
    state: String,
    reason: String,
    transaction_id: String,
    submitted_ms: i64,
    ended_ms: Option<i64>,
}

#[derive(Debug, Row, Deserialize)]
struct FoundDelivery {
    id: String,
    notification: String,
    channel: String,
    provider: String,
    state: String,
    reason: String,
    attempts: u32,
    sent_ms: Option<i64>,
    delivered_ms: Option<i64>,
    opened_ms: Option<i64>,
    clicked_ms: Option<i64>,
}

pub(crate) async fn one(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Json<RequestView>, Problem> {
    caller.may(Scope::Read)?;
    let missing = || Problem::new(Refusal::NotFound, "the app has no request of this id");
    let id: Uuid = id.parse().map_err(|_| missing())?;
    let name = &caller.app.name;
    if let Some(place) = app.outbox.place(id).filter(|place| place.app == *name) {
        return Ok(Json(RequestView { id, status: place.status, notifications: Vec::new(), more: false }));
    }
    let recent = app.recent.get(&id).is_some_and(|(of, _)| of == *name);
    let accepted = || RequestView { id, status: RequestStatus::Accepted, notifications: Vec::new(), more: false };
    let found = match load(&app, name, id).await {
        Ok(found) => found,
        Err(_) if recent => return Ok(Json(accepted())),
        Err(error) => return Err(unreachable(&error)),
    };
    if found.is_empty() {
        return if recent { Ok(Json(accepted())) } else { Err(missing()) };
    }
    let more = found.len() > MAX_SHOWN;
    let mut notifications: Vec<NotificationView> = found.into_iter().take(MAX_SHOWN).filter_map(view).collect();
    deliveries(&app, &mut notifications).await.map_err(|error| unreachable(&error))?;
    Ok(Json(RequestView { id, status: RequestStatus::Processed, notifications, more }))
}

/// What is asked for; all of it must hold.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Asked {
    user: Option<String>,
    transaction_id: Option<String>,
    state: Option<String>,
    after: Option<String>,
    limit: Option<usize>,
}

pub(crate) async fn list(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    asked: Result<Query<Asked>, QueryRejection>,
) -> Result<Json<NotificationPage>, Problem> {
    caller.may(Scope::Read)?;
    let wrong = |what: String| Problem::new(Refusal::BadRequest, what);
    let Query(asked) = asked.map_err(|error| wrong(error.body_text()))?;
    let limit = asked.limit.unwrap_or(DEFAULT_PAGE);
    if !(1..=MAX_PAGE).contains(&limit) {
        return Err(wrong(format!("limit: 1 to {MAX_PAGE}")));
    }
    let is_state = |state: &str| state == "pending" || state.parse::<Ended>().is_ok();
    if asked.state.as_deref().is_some_and(|state| !is_state(state)) {
        return Err(wrong("state: there is no such state".to_owned()));
    }
    let after = match asked.after.as_deref().map(cursor) {
        Some(None) => return Err(wrong("after: it is no `next` of a page before".to_owned())),
        after => after.flatten(),
    };
    let (mut conditions, mut binds) =
        (vec!["app = ?".to_owned(), "is_notification".to_owned()], vec![caller.app.name.clone()]);
    // The states have indexes of users and transactions. Not FINAL, which would merge all to find one.
    let mut keys = Vec::new();
    for (column, value) in [("user", &asked.user), ("transaction_id", &asked.transaction_id)] {
        keys.extend(value.as_ref().map(|value| (column, value.clone())));
    }
    if !keys.is_empty() {
        let matches = keys.iter().map(|(column, _)| format!("{column} = ?")).collect::<Vec<_>>().join(" AND ");
        conditions.push(format!(
            "(submitted_at, notification_id) IN (SELECT submitted_at, notification_id FROM {NOTIFICATION_STATES}
             WHERE {matches} ORDER BY submitted_at DESC LIMIT {MAX_MATCHES})"
        ));
        binds.extend(keys.into_iter().map(|(_, value)| value));
    }
    if let Some(state) = asked.state {
        conditions.push("state = ?".to_owned());
        binds.push(state);
    }
    if let Some((ms, id)) = after {
        conditions.push(format!(
            "submitted_at <= fromUnixTimestamp64Milli({ms}) AND
             (submitted_at, notification_id) < (fromUnixTimestamp64Milli({ms}), toUUID('{id}'))"
        ));
    }
    let sql = format!(
        "SELECT {COLUMNS} FROM traces WHERE {} ORDER BY submitted_at DESC, notification_id DESC LIMIT {}",
        conditions.join(" AND "),
        limit + 1
    );
    let query = binds.iter().fold(app.clickhouse.query(&sql), |query, value| query.bind(value));
    let mut found: Vec<Found> = query.fetch_all().await.map_err(|error| unreachable(&error))?;
    let more = found.len() > limit;
    found.truncate(limit);
    let next = found.last().filter(|_| more).map(|last| format!("{}.{}", last.submitted_ms, last.id));
    Ok(Json(NotificationPage { items: found.into_iter().filter_map(view).collect(), next }))
}

/// The place in the list that a page ended at.
fn cursor(text: &str) -> Option<(i64, Uuid)> {
    let (ms, id) = text.split_once('.')?;
    Some((ms.parse().ok().filter(|ms| (0..=4_102_444_800_000).contains(ms))?, Uuid::parse_str(id).ok()?))
}

/// The notifications of a request, or the one of this id; a request that was rejected is one of them.
async fn load(app: &App, name: &str, id: Uuid) -> Result<Vec<Found>, clickhouse::error::Error> {
    let sql = format!(
        "SELECT {COLUMNS} FROM traces
         WHERE app = ? AND (is_notification OR state = 'rejected') AND (submitted_at, notification_id) IN
         (SELECT submitted_at, notification_id FROM {NOTIFICATION_STATES}
          WHERE request_id = toUUID(?) OR notification_id = toUUID(?) LIMIT {MAX_MATCHES})
         ORDER BY submitted_at DESC, notification_id LIMIT {}",
        MAX_SHOWN + 1
    );
    let id = id.to_string();
    app.clickhouse.query(&sql).bind(name).bind(&id).bind(&id).fetch_all().await
}

async fn deliveries(app: &App, notifications: &mut [NotificationView]) -> Result<(), clickhouse::error::Error> {
    let keys = notifications.iter().map(|each| {
        format!("(fromUnixTimestamp64Milli({}), toUUID('{}'))", each.submitted_at.as_millisecond(), each.id)
    });
    let keys = keys.collect::<Vec<_>>().join(", ");
    let sql = format!(
        "SELECT toString(delivery_id) AS id, toString(notification_id) AS notification, toString(channel) AS channel, provider,
                state, reason, attempts, toUnixTimestamp64Milli(sent_at) AS sent_ms,
                toUnixTimestamp64Milli(delivered_at) AS delivered_ms, toUnixTimestamp64Milli(opened_at) AS opened_ms,
                toUnixTimestamp64Milli(clicked_at) AS clicked_ms
         FROM {DELIVERIES} WHERE (submitted_at, notification_id) IN ({keys}) ORDER BY first_at, delivery_id
         LIMIT {MAX_DELIVERIES}"
    );
    for found in app.clickhouse.query(&sql).fetch_all::<FoundDelivery>().await? {
        let (Ok(id), Ok(notification)) = (found.id.parse(), found.notification.parse::<Uuid>()) else { continue };
        if let Some(of) = notifications.iter_mut().find(|each| each.id == notification) {
            of.deliveries.push(DeliveryView {
                id,
                channel: found.channel,
                provider: found.provider,
                state: found.state,
                reason: found.reason,
                attempts: found.attempts,
                sent_at: found.sent_ms.and_then(moment),
                delivered_at: found.delivered_ms.and_then(moment),
                opened_at: found.opened_ms.and_then(moment),
                clicked_at: found.clicked_ms.and_then(moment),
            });
        }
    }
    Ok(())
}

fn view(found: Found) -> Option<NotificationView> {
    Some(NotificationView {
        id: found.id.parse().ok()?,
        request_id: found.request.parse().ok()?,
        user: found.user,
        category: found.category,
        lane: found.lane,
        state: found.state,
        reason: found.reason,
        transaction_id: found.transaction_id,
        submitted_at: moment(found.submitted_ms)?,
        ended_at: found.ended_ms.and_then(moment),
        deliveries: Vec::new(),
    })
}

fn moment(ms: i64) -> Option<Timestamp> {
    Timestamp::from_millisecond(ms).ok()
}

fn unreachable(error: &clickhouse::error::Error) -> Problem {
    tracing::warn!(error = error as &dyn std::error::Error, "ClickHouse did not answer a request of the API");
    Problem::new(Refusal::Unavailable, "what became of it cannot be read now").again_after(5)
}
