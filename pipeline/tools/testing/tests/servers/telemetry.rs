//! Chasqui's own spans and metrics reach an OTLP collector, and a collector that is away does no harm.

use std::time::Duration;

use anyhow::ensure;
use chasqui_testing::{Collector, TestInstall, oracle, settings::IMPATIENT, submissions};
use tokio::net::TcpListener;
use uuid::Uuid;

async fn deliver_one(install: &TestInstall, endpoint: &str) -> anyhow::Result<()> {
    let settings = [("CHASQUI_TELEMETRY__OTLP_ENDPOINT", endpoint), ("CHASQUI_MONITOR__SAMPLE_MS", "500")];
    let worker = install.worker_with("", &settings)?;
    let id = Uuid::now_v7();
    install.publish("notify.submit.normal.test", &id.to_string(), &submissions::mail(id, "ada")).await?;
    let delivered = format!("SELECT count() AS n FROM deliveries WHERE state = 'delivered' AND request_id = '{id}'");
    oracle::until(install, "delivered", &delivered, 1).await?;
    // What is left is sent when the worker ends.
    let took = worker.terminate().await?;
    ensure!(took < Duration::from_secs(30), "ending took {took:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_gets_batch_spans_and_metrics() -> anyhow::Result<()> {
    let install = TestInstall::start(IMPATIENT).await?;
    let collector = Collector::start().await?;
    deliver_one(&install, &collector.endpoint).await?;
    let received = collector.requests();
    for (path, word) in [
        ("/v1/traces", "messaging.batch.message_count"),
        ("/v1/traces", "STAGE_RENDER_NORMAL"),
        ("/v1/metrics", "chasqui_messages"),
        ("/v1/metrics", "chasqui_queue_oldest_ms"),
    ] {
        let holds = |body: &[u8]| body.windows(word.len()).any(|window| window == word.as_bytes());
        let found = received.iter().any(|(at, body)| at == path && holds(body));
        ensure!(found, "{path} was not sent `{word}`, in {} exports", received.len());
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_is_away_does_no_harm() -> anyhow::Result<()> {
    let install = TestInstall::start(IMPATIENT).await?;
    // A port that nobody listens on any more.
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let endpoint = format!("http://{}", listener.local_addr()?);
    drop(listener);
    deliver_one(&install, &endpoint).await
}
