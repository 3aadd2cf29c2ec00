//! What tracing costs and how fast it answers: the core of `chasqui bench --traces`.
//!
//! Synthetic notifications, as the stages would trace them, go the writer's way into ClickHouse; then traces are looked
//! up and queries asked. Meant for an empty database: what is there already is measured with it.

use std::time::{Duration, Instant};

use chasqui_schemas::{
    Channel, Reason, ReceiptKind, Stage,
    clickhouse::STORED,
    id,
    receipt::Actor,
    trace::{self, Attributes, State, Status, TraceEvent, event},
};
use clickhouse::Client;
use jiff::Timestamp;
use serde::Serialize;
use uuid::Uuid;

use chasqui_trace::span;
use chasqui_warehouse::{
    WarehouseError,
    read::reconstruct,
    write::{
        insert::{encode, insert},
        rows::Rows,
    },
};

/// Rows in an insert, as the writer's under load.
const ROWS: usize = 100_000;
/// Look-ups of a trace.
const LOOK_UPS: usize = 200;
/// How often each query is asked; the median counts.
const ASKED: usize = 3;

/// What was measured. Times in milliseconds.
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

/// Writes `spans` steps of the last three days, looks traces up, and asks `queries` (name and SQL). `progress` hears how
/// many steps are written.
///
/// # Errors
/// What ClickHouse said.
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
            // As they come: at first those of three days ago.
            let age_ms = 3 * 86_400_000 * (spans - written) as i64 / spans as i64;
            let at = Timestamp::from_millisecond(began.as_millisecond() - age_ms + (number % 1_000) as i64);
            // Written here, so it can be read.
            _ = rows.read(&trace::encode(&steps(number, at.unwrap_or(began))));
            number += 1;
        }
        let count = rows.rows.len() as u64;
        let asked = Instant::now();
        let inserts = encode(rows);
        let token = format!("measure:{run}:{number}");
        insert(client, &inserts, &token).await.map_err(WarehouseError::clickhouse("writing synthetic traces"))?;
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
        queries_ms.push((name.clone(), percentile(took, 0.5)));
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
        trace_p50_ms: percentile(look_ups.clone(), 0.5),
        trace_p95_ms: percentile(look_ups, 0.95),
        queries_ms,
        span_bytes: bytes(&STORED[..1]).await? / written.max(1) as f64,
        notification_bytes: bytes(&STORED).await? / f64::from(number.max(1)),
    })
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// 0 of nothing.
fn percentile(mut all: Vec<f64>, share: f64) -> f64 {
    all.sort_by(f64::total_cmp);
    all.get((all.len().saturating_sub(1) as f64 * share) as usize).copied().unwrap_or(0.0)
}

/// Everything that happened to the notification `number`, submitted `at`: one delivery and seven steps; of ten one is
/// suppressed, of fifty one bounces, of two hundred one is given up; of what arrives, a fifth is opened.
pub(crate) fn steps(number: u32, at: Timestamp) -> Vec<TraceEvent> {
    let request_id = id::request("measure", at, u64::from(number));
    let user = format!("user-{}", number % 10_000);
    let trace_id = id::notification(at, request_id, &user);
    let channel = Channel::ALL[number as usize % 4];
    let delivery_id = id::delivery(trace_id, channel, &user);
    let provider = ["apns", "twilio", "smtp", "inbox"][number as usize % 4];
    let mut ns = i64::try_from(at.as_nanosecond()).unwrap_or(0);
    let common = TraceEvent {
        trace_id,
        notification_id: trace_id,
        request_id,
        app: ["shop", "bank", "forum"][number as usize % 3].into(),
        category: ["order", "otp", "digest", "alert"][number as usize % 4].into(),
        template: format!("template-{}", number % 20).into(),
        lane: ["critical", "high", "normal", "bulk"][number as usize % 4].into(),
        event: event::STAGE.into(),
        status: Status::Ok.as_str().into(),
        ..TraceEvent::default()
    };
    let mut steps = Vec::with_capacity(9);
    for stage in Stage::ALL {
        // Differs from step to step as real times do.
        let jitter =
            u64::from(number.wrapping_mul(2_654_435_761) >> 8).wrapping_add(stage as u64 * 104_729) % 1_000_003;
        let (queued_ns, duration_ns) = (400_000 + jitter, 20_000 + jitter / 9);
        ns += (queued_ns + duration_ns) as i64;
        let of_delivery = matches!(stage, Stage::Prioritize | Stage::Send);
        let named = |stage: Stage| id::span(trace_id, stage.as_str(), None, 0);
        let mut step = TraceEvent {
            stage: stage.as_str().into(),
            span_id: id::span(
                trace_id,
                stage.as_str(),
                of_delivery.then_some(delivery_id),
                u32::from(stage == Stage::Send),
            ),
            parent_span_id: match stage {
                Stage::Validate => 0,
                Stage::Prioritize => named(Stage::Render),
                Stage::Send => span::delivery_anchor(trace_id, delivery_id),
                _ => named(Stage::Validate),
            },
            started_at: ns,
            queued_ns,
            duration_ns,
            attributes: attributes(stage, &user, number, request_id),
            ..common.clone()
        };
        if of_delivery {
            step.delivery_id = delivery_id;
            step.channel = channel.as_str().into();
            step.provider = provider.into();
            step.variant = ["a", "b"][number as usize / 20 % 2].into();
            step.locale = ["en", "ko", "es"][number as usize % 3].into();
        }
        let end = match (stage, number) {
            (Stage::Validate, _) => {
                step.event = event::NOTIFICATION.into();
                None
            }
            (Stage::Filter, n) if n % 10 == 9 => Some((Status::Suppressed, State::Suppressed, Some(Reason::OptedOut))),
            (Stage::Send, n) if n % 50 == 1 => Some((Status::Error, State::Bounced, Some(Reason::DeadEndpoint))),
            (Stage::Send, n) if n % 200 == 2 => Some((Status::Dead, State::Dead, Some(Reason::RetriesExhausted))),
            (Stage::Send, _) => Some((Status::Ok, State::Sent, None)),
            _ => None,
        };
        if stage == Stage::Send {
            step.event = event::ATTEMPT.into();
            step.attempt = 1;
        }
        if let Some((status, state, reason)) = end {
            step.status = status.as_str().into();
            step.state = state.as_str().into();
            step.reason = reason.map_or("", Reason::as_str).into();
        }
        let (ended, sent) = (end.is_some(), step.state == State::Sent.as_str());
        steps.push(step);
        if sent {
            steps.push(receipt(&common, channel, delivery_id, provider, ReceiptKind::Delivered, ns + 30_000_000_000));
            if number.is_multiple_of(5) {
                steps.push(receipt(&common, channel, delivery_id, provider, ReceiptKind::Opened, ns + 900_000_000_000));
            }
        }
        if ended {
            break;
        }
    }
    steps
}

fn receipt(
    common: &TraceEvent,
    channel: Channel,
    delivery_id: Uuid,
    provider: &str,
    kind: ReceiptKind,
    ns: i64,
) -> TraceEvent {
    let trace_id = common.trace_id;
    TraceEvent {
        trace_id,
        notification_id: trace_id,
        delivery_id,
        span_id: id::span(trace_id, kind.as_str(), Some(delivery_id), 0),
        parent_span_id: span::delivery_anchor(trace_id, delivery_id),
        channel: channel.as_str().into(),
        provider: provider.into(),
        stage: "receipt".into(),
        event: kind.as_str().into(),
        status: Status::Ok.as_str().into(),
        state: if kind == ReceiptKind::Delivered { State::Delivered.as_str() } else { "" }.into(),
        started_at: ns,
        attributes: match kind {
            ReceiptKind::Opened => vec![("by".into(), Actor::Human.as_str().into())],
            _ => Vec::new(),
        },
        ..TraceEvent::default()
    }
}

/// What the stages tell of a usual notification.
fn attributes(stage: Stage, user: &str, number: u32, request_id: Uuid) -> Attributes {
    let (key, transaction) = (request_id.to_string(), format!("order-{number}"));
    let told: &[(&str, &str)] = match stage {
        Stage::Validate => &[
            ("idempotency_key", &key),
            ("user", user),
            ("transaction_id", &transaction),
            ("metadata.campaign", "none"),
            ("metadata.region", "eu-west-1"),
            ("metadata.service", "orders"),
        ],
        Stage::Enrich => &[("policy", "bucket"), ("devices", "1"), ("emails", "1"), ("phones", "1"), ("locale", "en")],
        Stage::Filter | Stage::Dedupe => &[],
        Stage::Render => &[("locale.push", "en"), ("deliveries", "1")],
        Stage::Prioritize => &[("provider", "apns")],
        Stage::Send => &[("code", "200"), ("provider_message_id", &key)],
    };
    told.iter().map(|&(key, value)| (key.into(), value.into())).collect()
}
