//! Chasqui's own spans and metrics reach an OTLP collector, and a collector that is away does no harm.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use anyhow::{Context, ensure};
use chasqui_harness::{House, oracle, settings::IMPATIENT, submissions};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
};
use uuid::Uuid;

/// What a collector was sent: path and body.
type Received = Arc<Mutex<Vec<(String, Vec<u8>)>>>;

/// Takes OTLP over HTTP as a collector does, and keeps it.
async fn collector() -> anyhow::Result<(String, Received)> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let endpoint = format!("http://{}", listener.local_addr()?);
    let received = Received::default();
    let keep = Arc::clone(&received);
    tokio::spawn(async move {
        while let Ok((connection, _)) = listener.accept().await {
            let keep = Arc::clone(&keep);
            // A connection that breaks is the exporter's to repeat.
            tokio::spawn(async move { exports(connection, &keep).await.ok() });
        }
    });
    Ok((endpoint, received))
}

async fn exports(connection: TcpStream, keep: &Mutex<Vec<(String, Vec<u8>)>>) -> anyhow::Result<()> {
    let mut connection = BufReader::new(connection);
    loop {
        let mut line = String::new();
        if connection.read_line(&mut line).await? == 0 {
            return Ok(());
        }
        let path = line.split(' ').nth(1).context("not a request")?.to_owned();
        let mut length = 0;
        loop {
            let mut header = String::new();
            connection.read_line(&mut header).await?;
            match header.trim_end().to_ascii_lowercase().split_once(": ") {
                Some(("content-length", value)) => length = value.parse()?,
                Some(_) => {}
                None => break,
            }
        }
        let mut body = vec![0; length];
        connection.read_exact(&mut body).await?;
        keep.lock().map_err(|_| anyhow::anyhow!("poisoned"))?.push((path, body));
        connection.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await?;
    }
}

async fn deliver_one(house: &House, endpoint: &str) -> anyhow::Result<()> {
    let worker = house.worker_with("", &[("CHASQUI_TELEMETRY__OTLP_ENDPOINT", endpoint)])?;
    let id = Uuid::now_v7();
    house.publish("notify.submit.normal.test", &id.to_string(), &submissions::mail(id, "ada")).await?;
    let delivered = format!("SELECT count() AS n FROM deliveries WHERE state = 'delivered' AND request_id = '{id}'");
    oracle::until(house, "delivered", &delivered, 1).await?;
    // What is left is sent when the worker ends.
    let took = worker.terminate().await?;
    ensure!(took < Duration::from_secs(30), "ending took {took:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_gets_batch_spans_and_metrics() -> anyhow::Result<()> {
    let house = House::start(IMPATIENT).await?;
    let (endpoint, received) = collector().await?;
    deliver_one(&house, &endpoint).await?;
    let received = received.lock().expect("not poisoned");
    for (path, word) in [
        ("/v1/traces", "messaging.batch.message_count"),
        ("/v1/traces", "STAGE_RENDER"),
        ("/v1/metrics", "chasqui_messages"),
    ] {
        let holds = |body: &[u8]| body.windows(word.len()).any(|window| window == word.as_bytes());
        let found = received.iter().any(|(at, body)| at == path && holds(body));
        ensure!(found, "{path} was not sent `{word}`, in {} exports", received.len());
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_is_away_does_no_harm() -> anyhow::Result<()> {
    let house = House::start(IMPATIENT).await?;
    // A port that nobody listens on any more.
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let endpoint = format!("http://{}", listener.local_addr()?);
    drop(listener);
    deliver_one(&house, &endpoint).await
}
