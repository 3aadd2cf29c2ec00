//! What a notification costs the processor before and after the servers: every step that is pure, one by one.
//!
//! The message is the one of `chasqui bench`: a template, one push, a user with a device and preferences. Each stage
//! gets what the stage before it really made.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a benchmark that cannot set up must fail")]

use std::{hint::black_box, sync::Arc, time::Duration};

use bytes::Bytes;
use chasqui_contract::{
    Context, Decide, Decision, IncomingMessage, ManualClock, Output, StageInput, Submitted, Verdict,
};
use chasqui_enrich::Enrich;
use chasqui_filter::Filter;
use chasqui_render::Render;
use chasqui_rules::{Apps, Schemes, Vendors};
use chasqui_schemas::{
    Delivery, Notification, Pepper, envelope,
    record::{Category, Contacts, Preferences, Template},
    trace::{self, TraceEvent},
};
use chasqui_stores::memory::{MemoryDirectory, MemoryNewest};
use chasqui_trace::span::{self, Timing};
use chasqui_validate::{Allowed, Validate};
use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use futures::FutureExt;
use jiff::{SignedDuration, Timestamp};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// As in the worker.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const TEMPLATES: &str = include_str!("../../../../schemas/fixtures/templates.json");
const CATEGORIES: &str = include_str!("../../../../schemas/fixtures/categories.json");
/// Events in one message of the trace stream, at most.
const EVENTS: usize = 500;

fn record<T: DeserializeOwned>(records: &str, key: &str) -> T {
    let mut records: Value = serde_json::from_str(records).unwrap();
    serde_json::from_value(records[key].take()).unwrap()
}

fn directory() -> Arc<MemoryDirectory> {
    let contacts: Contacts = serde_json::from_value(json!({
        "locale": "en-US", "timezone": "America/Lima", "emails": ["user-1@example.com"], "phones": ["+51900000001"],
        "devices": [{ "id": "phone", "platform": "android", "token": format!("token-of-user-1-{:032x}", 1) }],
    }))
    .unwrap();
    let preferences: Preferences = serde_json::from_value(json!({
        "categories": { "marketing": false }, "quiet_hours": { "start": "22:00", "end": "07:00" },
    }))
    .unwrap();
    Arc::new(
        MemoryDirectory::new()
            .with("user-1", contacts)
            .with("user-1", preferences)
            .with("order", record::<Category>(CATEGORIES, "order"))
            .with("order.shipped", record::<Template>(TEMPLATES, "order.shipped")),
    )
}

fn submission(channels: &[&str]) -> Value {
    json!({
        "id": "0199f3a0-0000-7000-8000-000000000001",
        "category": "order",
        "recipients": ["user-1"],
        "channels": channels,
        "template": "order.shipped",
        "data": { "order": "A-1042", "arrives": "2026-03-05", "name": "Ada", "total": 41.5, "currency": "USD",
                  "items": [{ "name": "Coca tea & honey", "count": 2 }, { "name": "Alpaca scarf", "count": 1 }] },
        "transaction_id": "A-1042",
        "metadata": { "team": "checkout" },
    })
}

fn submitted(payload: Vec<u8>, content_type: Option<&str>) -> Submitted {
    let incoming = IncomingMessage {
        subject: "notify.submit.normal.shop".into(),
        payload: Bytes::from(payload),
        content_type: content_type.map(Into::into),
        message_id: Some("0199f3a0-0000-7000-8000-000000000001".into()),
        traceparent: None,
        door: None,
        unreadable_headers: None,
        stored_at: noon(),
        sequence: 1,
        index: 0,
    };
    Submitted::read(&incoming).unwrap()
}

/// Not in anybody's quiet hours.
fn noon() -> Timestamp {
    "2026-03-01T17:00:00Z".parse().unwrap()
}

fn decide<S: Decide>(stage: &S, input: S::Input) -> Decision {
    stage.decide(input).now_or_never().unwrap().unwrap()
}

fn only(decision: Decision) -> Output {
    match decision.verdict {
        Verdict::Forward(outputs) => outputs.into_iter().next().unwrap(),
        other => panic!("{other:?}"),
    }
}

fn notification(decision: Decision) -> Notification {
    match only(decision) {
        Output::Notification(notification) => notification,
        Output::Delivery(_) => panic!("only render makes deliveries"),
    }
}

fn delivery(decision: Decision) -> Delivery {
    match only(decision) {
        Output::Delivery(delivery) => delivery,
        Output::Notification(_) => panic!("render makes deliveries"),
    }
}

fn step<S: Decide>(c: &mut Criterion, name: &str, stage: &S, input: &S::Input)
where
    S::Input: Clone,
{
    c.bench_function(name, |b| b.iter_batched(|| input.clone(), |input| decide(stage, input), BatchSize::SmallInput));
}

fn hot(c: &mut Criterion) {
    let directory = directory();
    let clock = Arc::new(ManualClock::new(noon()));
    let pepper = Pepper::new(b"a benchmark's");
    let allowed = Allowed {
        apps: Apps::default(),
        vendors: Vendors::default(),
        schemes: Schemes::default(),
        send_at_horizon: SignedDuration::from_hours(24),
    };
    let validate = Validate::new(allowed, directory.clone(), pepper.clone());
    let enrich = Enrich { directory: directory.clone(), clock: clock.clone(), apps: Apps::default() };
    let filter = Filter {
        directory: directory.clone(),
        clock,
        pepper: pepper.clone(),
        newest: Arc::new(MemoryNewest::default()),
    };
    let render = Render::new(directory, None, pepper, Schemes::default());

    let push = submission(&["push"]);
    let json = submitted(serde_json::to_vec(&push).unwrap(), None);
    let packed = submitted(rmp_serde::to_vec_named(&push).unwrap(), Some("application/msgpack"));
    let accepted = decide(&validate, json.clone());
    let validated = notification(accepted.clone());
    let enriched = notification(decide(&enrich, validated.clone()));
    let allowed = decide(&filter, enriched.clone());
    let filtered = notification(allowed.clone());
    let delivery = delivery(decide(&render, filtered.clone()));
    step(c, "validate, JSON", &validate, &json);
    step(c, "validate, MessagePack", &validate, &packed);
    step(c, "enrich", &enrich, &validated);
    step(c, "filter, one channel", &filter, &enriched);
    step(c, "render, one channel", &render, &filtered);

    let everywhere = submitted(serde_json::to_vec(&submission(&["push", "email", "in_app"])).unwrap(), None);
    let enriched_everywhere = notification(decide(&enrich, notification(decide(&validate, everywhere))));
    let filtered_everywhere = notification(decide(&filter, enriched_everywhere.clone()));
    step(c, "filter, three channels", &filter, &enriched_everywhere);
    step(c, "render, three channels", &render, &filtered_everywhere);

    let notification_bytes = envelope::encode(&filtered).unwrap();
    let delivery_bytes = envelope::encode(&delivery).unwrap();
    c.bench_function("encode a notification", |b| b.iter(|| envelope::encode(black_box(&filtered))));
    c.bench_function("decode a notification", |b| {
        b.iter(|| envelope::decode::<Notification>(black_box(&notification_bytes)));
    });
    c.bench_function("encode a delivery", |b| b.iter(|| envelope::encode(black_box(&delivery))));
    c.bench_function("decode a delivery", |b| b.iter(|| envelope::decode::<Delivery>(black_box(&delivery_bytes))));

    let timing = Timing { stored_at: noon(), started_at: noon(), took: Duration::from_micros(50) };
    let of = |stage, context: &Context, decision: &Decision| span::of_decision(stage, context, &timing, decision);
    let (root, further) = (json.context(), enriched.context());
    c.bench_function("build the root span", |b| b.iter(|| of(Validate::STAGE, black_box(&root), &accepted)));
    c.bench_function("build a stage's span", |b| b.iter(|| of(Filter::STAGE, black_box(&further), &allowed)));

    let event = of(Filter::STAGE, &further, &allowed);
    let events: Vec<TraceEvent> = event.into_iter().cycle().take(EVENTS).collect();
    let events_bytes = trace::encode(&events);
    c.bench_function("encode 500 trace events", |b| b.iter(|| trace::encode(black_box(&events))));
    c.bench_function("decode 500 trace events", |b| b.iter(|| trace::decode(black_box(&events_bytes))));
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
        .without_plots();
    targets = hot
}
criterion_main!(benches);
