//! Traces of notifications reach a collector by OTLP, over both protocols: the spans that ClickHouse shows, whatever
//! happens on the way.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context, ensure};
use async_nats::jetstream;
use chasqui_schemas::{Channel, ReceiptKind, header, stream, subject};
use chasqui_testing::{
    Collector, Mood, TestInstall,
    install::PATIENCE,
    oracle::{self, DeliveryRow},
    settings::IMPATIENT,
    submissions,
};
use futures::TryStreamExt;
use opentelemetry_proto::tonic::{
    common::v1::any_value::Value,
    trace::v1::{Span, span::SpanKind, status::StatusCode},
};
use serde::Deserialize;
use serde_json::json;
use tokio::time::{Instant, sleep};
use uuid::Uuid;

const PRODUCER: [&str; 2] = ["0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"];

async fn install(collector: &Collector, more: &str) -> anyhow::Result<TestInstall> {
    TestInstall::start(&format!("{IMPATIENT}\n[export]\nendpoint = '{}'\n{more}", collector.endpoint)).await
}

/// As a producer that has a trace of its own.
async fn publish(install: &TestInstall, mailbox: &str) -> anyhow::Result<()> {
    let submission = submissions::mail(Uuid::now_v7(), mailbox);
    let message = jetstream::message::PublishMessage::build()
        .payload(submission.to_string().into())
        .header(header::TRACEPARENT, format!("00-{}-{}-01", PRODUCER[0], PRODUCER[1]).as_str());
    jetstream::new(install.nats.clone()).send_publish("notify.submit.normal.test", message).await?.await?;
    Ok(())
}

async fn delivered(install: &TestInstall, wanted: u64) -> anyhow::Result<()> {
    let delivered = "SELECT count() AS n FROM deliveries WHERE state = 'delivered'";
    oracle::until(install, "delivered", delivered, wanted).await
}

/// A span as both sides can tell it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
struct Told {
    span: String,
    trace: String,
    parent: String,
    name: String,
    kind: String,
    service: String,
    began: String,
    took: String,
    code: String,
    message: String,
    links: Vec<(String, String)>,
    attributes: BTreeMap<String, String>,
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn told((service, span): (String, Span)) -> anyhow::Result<Told> {
    let attributes = span.attributes.iter().map(|attribute| {
        let value = match attribute.value.clone().and_then(|value| value.value) {
            Some(Value::StringValue(text)) => text,
            Some(Value::IntValue(number)) => number.to_string(),
            other => anyhow::bail!("{other:?}"),
        };
        Ok((attribute.key.clone(), value))
    });
    let status = span.status.clone().context("no status")?;
    Ok(Told {
        attributes: attributes.collect::<anyhow::Result<_>>()?,
        kind: match span.kind() {
            SpanKind::Client => "Client",
            SpanKind::Consumer => "Consumer",
            SpanKind::Internal => "Internal",
            other => anyhow::bail!("{other:?}"),
        }
        .to_owned(),
        span: hex(&span.span_id),
        trace: hex(&span.trace_id),
        parent: hex(&span.parent_span_id),
        name: span.name,
        service,
        began: span.start_time_unix_nano.to_string(),
        took: (span.end_time_unix_nano - span.start_time_unix_nano).to_string(),
        code: match status.code() {
            StatusCode::Ok => "Ok",
            StatusCode::Error => "Error",
            StatusCode::Unset => "Unset",
        }
        .to_owned(),
        message: status.message,
        links: span.links.iter().map(|link| (hex(&link.trace_id), hex(&link.span_id))).collect(),
    })
}

/// What ClickHouse has, by span.
async fn in_clickhouse(install: &TestInstall) -> anyhow::Result<Vec<Told>> {
    let sql = "SELECT SpanId AS span, TraceId AS trace, ParentSpanId AS parent, SpanName AS name, SpanKind AS kind,
                      ServiceName AS service, toString(toUnixTimestamp64Nano(Timestamp)) AS began,
                      toString(Duration) AS took, StatusCode AS code, StatusMessage AS message,
                      arrayZip(`Links.TraceId`, `Links.SpanId`) AS links, SpanAttributes AS attributes
               FROM otel_traces ORDER BY span";
    oracle::query(install, sql).await
}

/// Waits until the collector was sent what ClickHouse has, but for what is `other` there.
async fn both_have_the_same(
    install: &TestInstall,
    collector: &Collector,
    other: impl Fn(&mut Told),
) -> anyhow::Result<Vec<Told>> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let spans = collector.spans()?;
        let exported: Vec<Told> = spans.into_values().map(told).collect::<anyhow::Result<_>>()?;
        let mut written = in_clickhouse(install).await?;
        written.iter_mut().for_each(&other);
        if exported == written {
            return Ok(exported);
        }
        ensure!(Instant::now() < deadline, "{exported:#?}\nand not\n{written:#?}\n{}", install.worker_log());
        sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_was_away_gets_what_clickhouse_has() -> anyhow::Result<()> {
    let collector = Collector::start().await?;
    collector.set(Mood::Away);
    let install = install(&collector, "").await?;
    let worker = install.worker("")?;
    for mailbox in ["ada", "bob", "fails-1-times"] {
        publish(&install, mailbox).await?;
    }
    delivered(&install, 3).await?;
    // All is in ClickHouse; whoever held it for the collector dies, and the next one meets a collector that is busy.
    worker.kill().await?;
    collector.set(Mood::Busy);
    let worker = install.worker("")?;
    publish(&install, "eve").await?;
    delivered(&install, 4).await?;
    collector.set(Mood::Takes);

    let exported = both_have_the_same(&install, &collector, |_| {}).await?;
    let roots = exported.iter().filter(|span| span.parent.is_empty());
    let producer = vec![(PRODUCER[0].to_owned(), PRODUCER[1].to_owned())];
    ensure!(roots.clone().count() == 4 && roots.clone().all(|root| root.links == producer), "{exported:#?}");

    // Both have all of it: the stream is freed.
    let deadline = Instant::now() + PATIENCE;
    while install.stored(stream::TRACES).await? > 0 {
        let traces = jetstream::new(install.nats.clone()).get_stream(stream::TRACES).await?;
        let consumers: Vec<_> = traces.consumers().try_collect().await?;
        ensure!(Instant::now() < deadline, "the stream is not freed: {consumers:?}\n{}", install.worker_log());
        sleep(Duration::from_millis(100)).await;
    }
    worker.terminate().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_collector_refuses_over_grpc_is_told_and_holds_nothing_up() -> anyhow::Result<()> {
    let collector = Collector::start().await?;
    let install = install(&collector, "protocol = 'grpc'").await?;
    let _worker = install.worker("")?;
    for (number, mood) in [Mood::Refuses, Mood::TakesWithout(1), Mood::Busy].into_iter().enumerate() {
        collector.set(mood);
        let before = collector.requests().len();
        publish(&install, "ada").await?;
        delivered(&install, number as u64 + 1).await?;
        let deadline = Instant::now() + PATIENCE;
        while collector.requests().len() == before {
            ensure!(Instant::now() < deadline, "nothing was sent: {mood:?}\n{}", install.worker_log());
            sleep(Duration::from_millis(50)).await;
        }
    }
    collector.set(Mood::Takes);
    publish(&install, "bounces").await?;
    oracle::until(&install, "bounced", "SELECT count() AS n FROM deliveries WHERE state = 'bounced'", 1).await?;
    both_have_the_same(&install, &collector, |_| {}).await?;
    let log = install.worker_log();
    ensure!(log.contains("refuses traces for good") && log.contains("too old") && log.contains("status 3"), "{log}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_producer_has_its_notifications_in_its_own_trace() -> anyhow::Result<()> {
    let collector = Collector::start().await?;
    let install = install(&collector, "parent = 'producer'").await?;
    let worker = install.worker("")?;
    publish(&install, "ada").await?;
    delivered(&install, 1).await?;
    let in_the_producers = |span: &mut Told| {
        span.trace = PRODUCER[0].to_owned();
        if span.parent.is_empty() {
            span.parent = PRODUCER[1].to_owned();
        }
    };
    both_have_the_same(&install, &collector, in_the_producers).await?;
    // Another process, which knows nothing of it, and a receipt that names no producer.
    worker.terminate().await?;
    let _worker = install.worker("receipts,writer,exporter")?;
    let sql = "SELECT delivery_id, notification_id, request_id, state, reason FROM deliveries";
    let delivery: DeliveryRow = oracle::query(&install, sql).await?.pop().context("no delivery")?;
    let receipt = json!({"delivery_id": delivery.delivery_id, "notification_id": delivery.notification_id});
    let subject = subject::receipt(ReceiptKind::Opened, Channel::Email);
    jetstream::new(install.nats.clone()).publish(subject, receipt.to_string().into()).await?.await?;
    oracle::until(&install, "opened", "SELECT count() AS n FROM deliveries WHERE opened_at IS NOT NULL", 1).await?;

    both_have_the_same(&install, &collector, in_the_producers).await?;
    Ok(())
}
