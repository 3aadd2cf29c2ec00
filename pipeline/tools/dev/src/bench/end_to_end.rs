//! Measures the pipeline, from a producer's publish to the provider's call and the traces in ClickHouse.

use std::{
    collections::HashMap,
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use async_nats::{
    Client,
    jetstream::{self, message::PublishMessage},
};
use bytes::Bytes;
use chasqui::settings::Settings;
use chasqui_nats::{Outgoing, Publisher};
use chasqui_schemas::{
    Lane, Stage,
    clickhouse::STORED,
    record::{Bucket, Category, Contacts, Preferences, Template},
    subject,
};
use chasqui_stores::Records;
use chasqui_warehouse::{stats, write::writer::backlog};
use futures::{StreamExt, stream};
use indicatif::ProgressBar;
use jiff::Timestamp;
use serde_json::{Map, Value, json};
use tokio::{
    task::JoinSet,
    time::{MissedTickBehavior, interval},
};
use uuid::Uuid;

use super::{
    per_s, percentile,
    process::{Cost, Worker},
    scenarios::stranger,
};
use chasqui::servers::Addresses;

/// The app that publishes.
const APP: &str = "bench";
/// Number of users that it publishes to.
const USERS: u32 = 1_000;
/// Maximum submissions whose acknowledgement the producer awaits at a time.
const BATCH: usize = 1_000;
/// Seconds of the run at rest.
const AT_REST_S: u32 = 10;
/// Time between two looks whether all has arrived, and so the error of a run's duration. Far less than the time for
/// which the writer gathers.
const POLL: Duration = Duration::from_millis(50);
/// Time between two queries for the progress bar, which must not become the load.
const LOOK: Duration = Duration::from_secs(2);
/// Maximum time without progress, after which the pipeline counts as broken.
const PATIENCE: Duration = Duration::from_secs(30);
/// A category without a lane of its own: deliveries stay on the submission's lane.
const CATEGORY: &str = "bench";
const TEMPLATES: &str = include_str!("../../../../../schemas/fixtures/templates.json");

/// A producer, and where it reads how its notifications ended.
pub(super) struct Bench {
    client: Client,
    pub(super) context: jetstream::Context,
    publisher: Publisher,
    clickhouse: clickhouse::Client,
    /// The file where the sandbox writes every provider call: delivery, attempt, Unix time in nanoseconds, process.
    pub(super) log: PathBuf,
}

/// The result of one run at full speed.
pub(super) struct Throughput {
    pub(super) notifications_per_s: f64,
    pub(super) calls_per_s: f64,
    pub(super) cpu_us: Option<Cost>,
}

/// What had been done and spent before a run.
pub(super) struct Before {
    servers: [Option<u32>; 2],
    calls: usize,
    cost: Option<Cost>,
    since: Timestamp,
    at: Instant,
}

/// The result of one run at a steady rate.
pub(super) struct Latency {
    pub(super) p50_ms: f64,
    pub(super) p99_ms: f64,
    pub(super) max_ms: f64,
}

impl Bench {
    pub(super) async fn open(settings: &Settings, addresses: &Addresses, calls: PathBuf) -> anyhow::Result<Self> {
        let client = addresses.nats(&settings.nats).await?;
        let context = jetstream::new(client.clone());
        let publisher = chasqui::worker::publisher(&context, &settings.nats);
        Ok(Bench { client, context, publisher, clickhouse: addresses.clickhouse(&settings.clickhouse)?, log: calls })
    }

    /// Imports users with one device, a mailbox and preferences, and categories and templates.
    pub(super) async fn import(&self) -> anyhow::Result<()> {
        let contacts = (0..USERS).map(|n| {
            let device = json!({ "id": "phone", "platform": "android", "token": format!("token-of-{}-{:032x}", user(n), n) });
            let contacts = json!({ "locale": "en-US", "timezone": "America/Lima", "emails": [format!("{}@example.com", user(n))],
                "phones": [format!("+5190000{n:04}")], "devices": [device] });
            (user(n), contacts)
        });
        let preferences = (0..USERS).map(|n| (user(n), json!({ "categories": { "marketing": false } })));
        let categories = [(CATEGORY.to_owned(), json!({ "channels": ["push"] }))];
        let templates = serde_json::from_str::<Map<String, Value>>(TEMPLATES)?;
        self.import_into(Bucket::of::<Contacts>(), contacts).await?;
        self.import_into(Bucket::of::<Preferences>(), preferences).await?;
        self.import_into(Bucket::of::<Category>(), categories).await?;
        self.import_into(Bucket::of::<Template>(), templates).await
    }

    /// Imports users who have one device and nothing else.
    pub(super) async fn import_strangers(&self, count: u32) -> anyhow::Result<()> {
        let contacts = (0..count).map(|n| {
            let device =
                json!({ "id": "phone", "platform": "android", "token": format!("token-of-{}-{n:032x}", stranger(n)) });
            (stranger(n), json!({ "locale": "en-US", "timezone": "America/Lima", "devices": [device] }))
        });
        self.import_into(Bucket::of::<Contacts>(), contacts).await
    }

    async fn import_into(
        &self,
        bucket: Bucket,
        records: impl IntoIterator<Item = (String, Value)>,
    ) -> anyhow::Result<()> {
        let records: Vec<_> =
            records.into_iter().map(|(name, value)| Ok((name, Bytes::from(value.to_string())))).collect();
        let mut refused = None;
        let bucket = Records::open(&self.context, bucket).await?;
        bucket.import(stream::iter(records), |answer| refused = refused.take().or(answer.err())).await?;
        Ok(refused.map_or(Ok(()), Err)?)
    }

    /// Runs `count` notifications through, and returns how many bytes each has between stages on average.
    pub(super) async fn warm_up(&self, count: u32, worker: &mut Worker, bar: &ProgressBar) -> anyhow::Result<usize> {
        let mut listening = Vec::new();
        for stage in Stage::ALL.into_iter().filter(|stage| *stage != Stage::Validate) {
            listening.push(self.client.subscribe(subject::pattern(stage, Lane::Normal, None)).await?);
        }
        let hops = count as usize * listening.len();
        self.throughput(count, worker, [None; 2], bar).await?;
        let mut bytes = 0;
        for mut messages in listening {
            messages.unsubscribe().await?;
            while let Some(message) = messages.next().await {
                bytes += message.payload.len();
            }
        }
        Ok(bytes / hops.max(1))
    }

    /// Publishes `count` notifications as fast as possible, and waits until all are delivered and traced. `servers` are
    /// the process ids of NATS and ClickHouse.
    pub(super) async fn throughput(
        &self,
        count: u32,
        worker: &mut Worker,
        servers: [Option<u32>; 2],
        bar: &ProgressBar,
    ) -> anyhow::Result<Throughput> {
        let (before, began) = (self.before(worker, servers)?, Instant::now());
        self.measured(count, before, began, self.publish(Lane::Normal, count), worker, bar).await
    }

    /// What had been done and spent before a run.
    pub(super) fn before(&self, worker: &Worker, servers: [Option<u32>; 2]) -> anyhow::Result<Before> {
        let cost = Cost::so_far(worker, servers);
        Ok(Before { servers, calls: self.calls()?.len(), cost, since: Timestamp::now(), at: Instant::now() })
    }

    /// Waits until `count` notifications since `before`, some of which `publishing` may still publish, are delivered and
    /// traced; the time counts from `began`.
    pub(super) async fn measured(
        &self,
        count: u32,
        before: Before,
        began: Instant,
        publishing: impl Future<Output = anyhow::Result<()>>,
        worker: &mut Worker,
        bar: &ProgressBar,
    ) -> anyhow::Result<Throughput> {
        let Before { servers, calls: calls_before, cost, since, at } = before;
        let lead = began.saturating_duration_since(at);
        let ((), took) = tokio::try_join!(publishing, self.arrived(count, since, began, worker, bar))?;
        let cost = Cost::so_far(worker, servers).zip(cost).map(|(now, before)| now.us_since(before, count));

        let calls = self.calls()?;
        ensure!(
            calls.len() - calls_before == count as usize,
            "the provider was called {} times for {count} notifications",
            calls.len() - calls_before
        );
        let last_call = calls.values().max().copied().unwrap_or_default() - since.as_nanosecond();
        let last_call = Duration::from_nanos(u64::try_from(last_call).unwrap_or_default()).saturating_sub(lead);
        Ok(Throughput { notifications_per_s: per_s(count, took), calls_per_s: per_s(count, last_call), cpu_us: cost })
    }

    /// Publishes `count` notifications as fast as possible. Where each message alone would be an fsync, it uses atomic
    /// batches; else it publishes one by one and awaits all acknowledgements together, as the relay's producer does.
    pub(super) async fn publish(&self, lane: Lane, count: u32) -> anyhow::Result<()> {
        self.publish_all(count, |n| outgoing(lane, n)).await
    }

    /// Publishes `count` submissions so.
    pub(super) async fn publish_all(&self, count: u32, outgoing: impl Fn(u32) -> Outgoing) -> anyhow::Result<()> {
        for first in (0..count).step_by(BATCH) {
            let batch: Vec<_> = (first..count).take(BATCH).map(&outgoing).collect();
            self.publisher.publish(&batch).await?;
        }
        Ok(())
    }

    /// Measures the time from publish to the provider call at a steady rate.
    pub(super) async fn at_rest(&self, rate: u32, worker: &mut Worker, bar: &ProgressBar) -> anyhow::Result<Latency> {
        let count = rate * AT_REST_S;
        let (since, began) = (Timestamp::now(), Instant::now());
        let published = self.steadily(Lane::Normal, rate, count, bar).await?;
        self.arrived(count, since, began, worker, bar).await?;
        self.latency(&published, since).await
    }

    /// Publishes `count` notifications, `rate` a second, without waiting for earlier ones. Returns when each was
    /// published, by request, as Unix time in nanoseconds.
    pub(super) async fn steadily(
        &self,
        lane: Lane,
        rate: u32,
        count: u32,
        bar: &ProgressBar,
    ) -> anyhow::Result<HashMap<Uuid, i128>> {
        let mut ticks = interval(Duration::from_secs(1) / rate);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
        let mut published = HashMap::new();
        let mut acks = JoinSet::new();
        bar.set_length(u64::from(count));
        bar.set_position(0);
        for n in 0..count {
            let Outgoing { subject, message_id, payload, .. } = outgoing(lane, n);
            let id: Uuid = message_id.as_deref().unwrap_or_default().parse()?;
            let message = PublishMessage::build().payload(payload).message_id(id.to_string());
            ticks.tick().await;
            published.insert(id, Timestamp::now().as_nanosecond());
            let ack = self.context.send_publish(subject, message).await?;
            acks.spawn(ack.into_future());
            bar.inc(1);
        }
        while let Some(ack) = acks.join_next().await {
            ack?.context("a submission was not stored")?;
        }
        Ok(published)
    }

    /// Computes the time from publish to provider call, of everything `published` from `since` on.
    pub(super) async fn latency(&self, published: &HashMap<Uuid, i128>, since: Timestamp) -> anyhow::Result<Latency> {
        let sql = "SELECT toString(request_id), toString(delivery_id) FROM deliveries
                   WHERE submitted_at >= fromUnixTimestamp64Milli(?)";
        let deliveries =
            self.clickhouse.query(sql).bind(since.as_millisecond()).fetch_all::<(String, String)>().await?;
        let calls = self.calls()?;
        let mut took_ms = Vec::with_capacity(deliveries.len());
        for (request, delivery) in deliveries {
            let (request, delivery): (Uuid, Uuid) = (request.parse()?, delivery.parse()?);
            if let (Some(published), Some(called)) = (published.get(&request), calls.get(&delivery)) {
                took_ms.push((called - published) as f64 / 1e6);
            }
        }
        ensure!(
            took_ms.len() == published.len(),
            "only {} of {} calls can be matched with their publish",
            took_ms.len(),
            published.len()
        );
        took_ms.sort_by(f64::total_cmp);
        let [p50_ms, p99_ms, max_ms] = [0.5, 0.99, 1.0].map(|q| percentile(&took_ms, q));
        Ok(Latency { p50_ms, p99_ms, max_ms })
    }

    /// Waits until `count` notifications published from `since` on are delivered, and all traces are in ClickHouse.
    /// Returns the time since `began`.
    pub(super) async fn arrived(
        &self,
        count: u32,
        since: Timestamp,
        began: Instant,
        worker: &mut Worker,
        bar: &ProgressBar,
    ) -> anyhow::Result<Duration> {
        bar.set_length(u64::from(count));
        let (mut delivered, mut moved_at, mut asked_at) = (0, Instant::now(), Instant::now());
        loop {
            // Queries of ClickHouse must not become the load: until all is written they are only for the bar, and rare.
            let written = backlog(&self.context).await? == 0;
            if written || asked_at.elapsed() > LOOK {
                asked_at = Instant::now();
                let rates = stats::rates(&self.clickhouse, since, stats::Dimension::Channel, stats::MAX_ROWS).await?;
                let now: u64 = rates.iter().map(|channel| channel.delivered).sum();
                // The backlog is read again, because the event of one step may be stored after that of the next.
                if written && now >= u64::from(count) && backlog(&self.context).await? == 0 {
                    return Ok(began.elapsed());
                }
                if now > delivered {
                    (delivered, moved_at) = (now, Instant::now());
                    bar.set_position(delivered);
                }
            }
            worker.check()?;
            if moved_at.elapsed() > PATIENCE {
                bail!(
                    "{delivered} of {count} notifications were delivered, and for {} s no more; the worker's last words: {}",
                    PATIENCE.as_secs(),
                    worker.last_words()
                );
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Reads when the provider was first called, by delivery, as Unix time in nanoseconds.
    pub(super) fn calls(&self) -> anyhow::Result<HashMap<Uuid, i128>> {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let mut calls = HashMap::new();
        for line in log.lines() {
            let mut words = line.split(' ');
            let (delivery, at) = (words.next().unwrap_or_default(), words.nth(1).unwrap_or_default());
            calls.entry(delivery.parse()?).or_insert(at.parse()?);
        }
        Ok(calls)
    }

    /// Counts trace events and bytes on disk per notification, of all runs, after merging.
    pub(super) async fn stored(&self) -> anyhow::Result<(f64, f64)> {
        for table in STORED {
            self.clickhouse.query(&format!("OPTIMIZE TABLE {table} FINAL")).execute().await?;
        }
        let sql =
            "SELECT ifNull((SELECT count() FROM trace_events), 0), ifNull((SELECT count() FROM notifications), 0),
                          ifNull((SELECT sum(bytes_on_disk) FROM system.parts
                                  WHERE active AND database = currentDatabase()), 0)";
        let (events, notifications, bytes) = self.clickhouse.query(sql).fetch_one::<(u64, u64, u64)>().await?;
        let each = |sum: u64| sum as f64 / notifications.max(1) as f64;
        Ok((each(events), each(bytes)))
    }

    /// Bytes of a submission, without headers.
    pub(super) fn submission_bytes(&self) -> usize {
        outgoing(Lane::Normal, USERS).payload.len()
    }
}

fn user(n: u32) -> String {
    format!("user-{:04}", n % USERS)
}

/// Makes a submission that becomes one notification and one delivery. Its message id is its id.
pub(super) fn outgoing(lane: Lane, n: u32) -> Outgoing {
    outgoing_with(lane, n, json!({}))
}

/// The same with other fields; one that is null is left out.
pub(super) fn outgoing_with(lane: Lane, n: u32, changes: Value) -> Outgoing {
    let id = Uuid::now_v7();
    let mut submission = json!({
        "id": id,
        "category": CATEGORY,
        "template": "order.shipped",
        "recipients": [user(n)],
        "channels": ["push"],
        "data": {
            "order": 100_000 + n, "name": "Ada", "arrives": "2030-05-17", "total": 74.9, "currency": "EUR",
            "items": [{ "name": "Copper kettle", "count": 1 }, { "name": "Porcelain cup", "count": 6 }],
            "carrier": "Qhapaq Ñan Parcel", "tracking": format!("QN{n:012}PE"),
        },
        "transaction_id": format!("order-{}", 100_000 + n),
        "metadata": { "campaign": "none", "region": "eu-west-1", "service": "orders" },
    });
    if let (Some(fields), Value::Object(changes)) = (submission.as_object_mut(), changes) {
        fields.extend(changes);
        fields.retain(|_, value| !value.is_null());
    }
    Outgoing {
        subject: subject::submit(lane, APP),
        message_id: Some(id.to_string()),
        headers: Vec::new(),
        payload: submission.to_string().into(),
    }
}
