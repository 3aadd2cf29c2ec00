//! Measures what tracing costs and how fast queries are: the core of `bench --traces`.
//!
//! It inserts synthetic notifications as the stages trace them and as the writer inserts them, then looks traces up and
//! asks queries. The database should be empty, because rows that are there already are measured too.

use std::time::{Duration, Instant};

use chasqui_contract::{Context, Decision, Output, StageInput as _, Verdict};
use chasqui_schemas::{
    Channel, Lane, Notification, Reason, Receipt, ReceiptKind, Stage,
    clickhouse::STORED,
    id,
    notification::{Message, Recipient},
    receipt::{Actor, IdCheck},
    sample, subject,
    trace::{self, Attributes, TraceEvent},
};
use chasqui_services::receipts;
use chasqui_trace::span::{self, Timing};
use chasqui_warehouse::{
    WarehouseError,
    read::reconstruct,
    write::{
        insert::{Sorted, insert},
        rows::Rows,
    },
};
use clickhouse::Client;
use jiff::Timestamp;
use serde::Serialize;
use uuid::Uuid;

use super::{median, percentile};

/// Rows of an insert: as many as the writer inserts under load.
const ROWS: usize = 100_000;
/// Number of traces that are looked up.
const LOOK_UPS: usize = 200;
/// How many times each query is asked. The median counts.
const ASKED: usize = 3;

/// The result. Times are in milliseconds.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Measured {
    /// Steps written.
    pub(crate) spans: u64,
    /// Steps written per second of inserting, states included.
    pub(crate) rows_per_s: f64,
    /// A whole trace by its id: median and 95th percentile.
    pub(crate) trace_p50_ms: f64,
    #[allow(missing_docs, reason = "documented at the median")]
    pub(crate) trace_p95_ms: f64,
    /// Each query, by name.
    pub(crate) queries_ms: Vec<(String, f64)>,
    /// Bytes on disk of a step, and of everything per notification.
    pub(crate) span_bytes: f64,
    #[allow(missing_docs, reason = "documented at a step's")]
    pub(crate) notification_bytes: f64,
}

/// Writes `spans` steps of the last three days, looks traces up, and asks `queries` (name and SQL). It calls
/// `progress` with the number of steps written so far.
///
/// # Errors
/// ClickHouse refused a statement or did not answer.
pub(crate) async fn measure(
    client: &Client,
    spans: u64,
    queries: &[(String, String)],
    mut progress: impl FnMut(u64),
) -> Result<Measured, WarehouseError> {
    let began = Timestamp::now();
    let run = began.as_nanosecond();
    let (mut written, mut number, mut inserting) = (0, 0, Duration::ZERO);
    while written < spans {
        let mut rows = Rows::with_capacity(ROWS);
        while rows.rows.len() < ROWS.min((spans - written) as usize) {
            // In order of time, as in operation: the first are three days old.
            let age_ms = 3 * 86_400_000 * (spans - written) as i64 / spans as i64;
            let at = Timestamp::from_millisecond(began.as_millisecond() - age_ms + (number % 1_000) as i64);
            // It was encoded here, so it can be read.
            _ = rows.read(&trace::encode(&steps(number, at.unwrap_or(began))));
            number += 1;
        }
        let count = rows.rows.len() as u64;
        let asked = Instant::now();
        let rows = Sorted::new(rows);
        for piece in rows.pieces() {
            let token = format!("measure:{run}:{number}:{}", piece.start);
            let inserting = insert(client, &rows.encode(&piece), &token).await;
            inserting.map_err(WarehouseError::clickhouse("writing synthetic traces"))?;
        }
        inserting += asked.elapsed();
        written += count;
        progress(written);
    }
    let sql = "SELECT toString(notification_id) FROM notification_states WHERE known = 1 ORDER BY rand() LIMIT ?";
    let ids: Vec<String> =
        client.query(sql).bind(LOOK_UPS).fetch_all().await.map_err(WarehouseError::clickhouse("choosing traces"))?;
    let mut look_ups = Vec::with_capacity(ids.len());
    for id in &ids {
        let asked = Instant::now();
        reconstruct::load(client, id).await?;
        look_ups.push(ms(asked.elapsed()));
    }
    look_ups.sort_by(f64::total_cmp);
    let mut queries_ms = Vec::with_capacity(queries.len());
    for (name, sql) in queries {
        let mut took = Vec::with_capacity(ASKED);
        for _ in 0..ASKED {
            let asked = Instant::now();
            let sql = sql.trim().trim_end_matches(';');
            let answer = client.query_raw(sql).fetch_bytes("JSONCompact");
            let answer = async { answer?.collect().await }.await;
            answer.map_err(WarehouseError::clickhouse("asking a query"))?;
            took.push(ms(asked.elapsed()));
        }
        queries_ms.push((name.clone(), median(took)));
    }
    let bytes = "SELECT toFloat64(sum(bytes_on_disk)) FROM system.parts
                 WHERE active AND database = currentDatabase() AND table IN ?";
    let bytes = async |tables: &[&str]| {
        let sum: Result<f64, _> = client.query(bytes).bind(tables).fetch_one().await;
        sum.map_err(WarehouseError::clickhouse("reading sizes"))
    };
    Ok(Measured {
        spans: written,
        rows_per_s: written as f64 / inserting.as_secs_f64().max(f64::MIN_POSITIVE),
        trace_p50_ms: percentile(&look_ups, 0.5),
        trace_p95_ms: percentile(&look_ups, 0.95),
        queries_ms,
        span_bytes: bytes(&STORED[..1]).await? / written.max(1) as f64,
        notification_bytes: bytes(&STORED).await? / f64::from(number.max(1)),
    })
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// Makes the trace events of notification `number`, submitted `at`, as the runtime and the receipts' service make them.
/// It has one delivery and seven steps. One of ten is suppressed, one of fifty bounces, one of two hundred becomes a
/// dead letter. A fifth of those that arrive are opened.
fn steps(number: u32, at: Timestamp) -> Vec<TraceEvent> {
    let notification = notification(number, at);
    let channel = Channel::ALL[number as usize % 4];
    let delivery_id = sample::pepper().delivery(&notification.app, notification.id, channel, "device");
    let whole = notification.context();
    let of_delivery = Context {
        delivery_id: Some(delivery_id),
        channel: Some(channel),
        provider: ["apns", "twilio", "smtp", "inbox"][number as usize % 4].into(),
        variant: ["a", "b"][number as usize / 20 % 2].into(),
        locale: ["en", "ko", "es"][number as usize % 3].into(),
        attempt: 1,
        ..whole.clone()
    };
    let request = Context { app: whole.app.clone(), lane: whole.lane, ..Context::default() };
    let mut steps = Vec::with_capacity(9);
    let mut stored_at = at;
    for stage in Stage::ALL {
        let (context, verdict) = match (stage, number) {
            (Stage::Validate, _) => (&request, Verdict::Forward(vec![Output::Notification(notification.clone())])),
            (Stage::Filter, n) if n % 10 == 9 => (&whole, Verdict::Suppress(Reason::OptedOut)),
            (Stage::Send, n) if n % 50 == 1 => (&of_delivery, Verdict::Bounce(Reason::DeadEndpoint)),
            (Stage::Send, n) if n % 200 == 2 => {
                (&of_delivery, Verdict::Dead { reason: Reason::RetriesExhausted, detail: "no answer".to_owned() })
            }
            (Stage::Send, _) => (&of_delivery, Verdict::Sent),
            (Stage::Prioritize, _) => (&of_delivery, Verdict::Forward(Vec::new())),
            _ => (&whole, Verdict::Forward(Vec::new())),
        };
        // Times differ from step to step, as real ones do; equal ones would compress better.
        let jitter =
            u64::from(number.wrapping_mul(2_654_435_761) >> 8).wrapping_add(stage as u64 * 104_729) % 1_000_003;
        let timing = Timing {
            stored_at,
            started_at: stored_at + Duration::from_nanos(400_000 + jitter),
            took: Duration::from_nanos(20_000 + jitter / 9),
        };
        stored_at = timing.started_at + timing.took;
        let has_ended = matches!(verdict, Verdict::Suppress(_) | Verdict::Bounce(_) | Verdict::Dead { .. });
        let decision = Decision { attributes: attributes(stage, notification.request.id), ..Decision::new(verdict) };
        steps.extend(span::of_decision(stage, context, &timing, &decision));
        if has_ended {
            return steps;
        }
    }
    let mut report = |kind: ReceiptKind, seconds: u64, by: Actor| {
        let at = stored_at + Duration::from_secs(seconds);
        let receipt = Receipt {
            at: Some(at),
            provider: Some(of_delivery.provider.to_string()),
            ..Receipt::new(notification.id, delivery_id, by)
        };
        let check = IdCheck { now: at, kept: jiff::SignedDuration::MAX, pepper: Some(&sample::pepper()) };
        // It was encoded here, so it can be read.
        let payload = serde_json::to_vec(&receipt).unwrap_or_default();
        steps.extend(receipts::read(&subject::receipt(kind, channel), &payload, &check).unwrap_or_default());
    };
    report(ReceiptKind::Delivered, 30, Actor::Unknown);
    if number.is_multiple_of(5) {
        report(ReceiptKind::Opened, 900, Actor::Human);
    }
    steps
}

fn notification(number: u32, at: Timestamp) -> Notification {
    let request_id = id::request("measure", at, u64::from(number));
    let user = format!("user-{}", number % 10_000);
    let labels = [("campaign", "none"), ("region", "eu-west-1"), ("service", "orders")];
    let notification = Notification {
        id: id::notification(at, request_id, &user),
        app: ["shop", "bank", "forum"][number as usize % 3].into(),
        lane: Lane::ALL[number as usize % 4],
        submitted_at: at,
        recipient: Recipient::User(user),
        ..sample::notification()
    };
    notification.with_request(|request| {
        request.id = request_id;
        request.idempotency_key = request_id.to_string();
        request.category = ["order", "otp", "digest", "alert"][number as usize % 4].into();
        request.message =
            Message::Template { key: format!("template-{}", number % 20), data: (&serde_json::Map::new()).into() };
        request.transaction_id = Some(format!("order-{number}"));
        request.metadata = labels.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
    })
}

/// The attributes that each stage adds to a usual notification.
fn attributes(stage: Stage, request_id: Uuid) -> Attributes {
    let message_id = request_id.to_string();
    let explained: &[(&str, &str)] = match stage {
        Stage::Enrich => &[("policy", "bucket"), ("devices", "1"), ("emails", "1"), ("phones", "1"), ("locale", "en")],
        Stage::Validate | Stage::Filter | Stage::Dedupe => &[],
        Stage::Render => &[("locale.push", "en"), ("deliveries", "1")],
        Stage::Prioritize => &[("provider", "apns")],
        Stage::Send => &[("code", "200"), ("provider_message_id", &message_id)],
    };
    explained.iter().map(|&(key, value)| (key.into(), value.into())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_notification_is_one_tree_in_the_state_it_ended_in() {
        let at = Timestamp::from_second(1_790_000_000).unwrap();
        for (number, state, count) in
            [(9, "suppressed", 3), (1, "bounced", 7), (2, "dead", 7), (4, "delivered", 8), (5, "delivered", 9)]
        {
            let trees = reconstruct::trees(steps(number, at));
            let [tree] = &trees[..] else { panic!("{trees:?}") };
            assert_eq!((tree.state.as_str(), tree.roots.len(), tree.orphans.len()), (state, 1, 0), "{number}");
            assert_eq!(steps(number, at).len(), count, "{number}");
        }
    }
}
