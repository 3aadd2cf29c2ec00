//! Whatever is published: a clear answer each, and the rest of the flow unharmed.

use std::time::Duration;

use anyhow::{Context, ensure};
use async_nats::jetstream::{self, message::PublishMessage};
use bytes::Bytes;
use chasqui_testing::{TestInstall, oracle, settings::IMPATIENT, submissions};
use futures::StreamExt;
use serde_json::json;
use uuid::Uuid;

/// What is published, and the reason code and words that its producer must be told.
fn bad_submissions() -> Vec<(&'static str, Vec<u8>, &'static str, &'static str)> {
    let json = "application/json";
    let msgpack = "application/msgpack";
    let good = submissions::mail(Uuid::now_v7(), "ada");
    let with = |key: &str, value: serde_json::Value| {
        let mut bad = good.clone();
        bad[key] = value;
        bad.to_string().into_bytes()
    };
    let mut not_utf8 = good.to_string().into_bytes();
    not_utf8[20] = 0xff;
    let deep = "[".repeat(100_000);
    vec![
        (json, good.to_string().into_bytes()[..60].to_vec(), "malformed", "EOF"),
        (json, not_utf8, "malformed", ""),
        (json, b"".to_vec(), "malformed", ""),
        (json, b"\"just text\"".to_vec(), "", ""),
        (json, with("category", json!(7)), "invalid", "category"),
        (json, with("recipients", json!("ada")), "invalid", "recipients"),
        (json, with("colour", json!("red")), "invalid", "colour"),
        (json, with("send_at", json!("tomorrow")), "invalid", "send_at"),
        (json, with("data", json!({ "huge": "x".repeat(70_000) })), "invalid", "data"),
        (json, with("recipients", json!(vec!["ada"; 1_001])), "invalid", "recipients"),
        (json, with("recipients", json!([{ "email": "a@example.com\r\nBcc: b@example.com" }])), "invalid", "email"),
        (json, with("content", json!({ "body": "x".repeat(1_100_000) })), "too_large", ""),
        (json, format!("{{\"data\":{deep}").into_bytes(), "malformed", ""),
        // MessagePack that claims four thousand million elements, and that nests without end.
        (msgpack, vec![0xdd, 0xff, 0xff, 0xff, 0xff], "malformed", ""),
        (msgpack, vec![0x81, 0xa4, b'd', b'a', b't', b'a', 0xdb, 0xff, 0xff, 0xff, 0xff], "malformed", ""),
        (msgpack, vec![0x91; 100_000], "malformed", ""),
        ("text/plain", b"hello".to_vec(), "malformed", "text/plain"),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_submissions_are_rejected_with_reasons_and_good_ones_pass() -> anyhow::Result<()> {
    let install = TestInstall::start(IMPATIENT).await?;
    let worker = install.worker("")?;
    let context = jetstream::new(install.nats.clone());
    // As a producer listens: no consumer, no stream, a plain subscription.
    let mut rejections = install.nats.subscribe("notify.rejected.bad").await?;
    let bad = bad_submissions();
    for (content_type, payload, reason, words) in &bad {
        let message =
            PublishMessage::build().payload(Bytes::from(payload.clone())).header("Content-Type", *content_type);
        context.send_publish("notify.submit.normal.bad", message).await?.await?;
        let rejected = tokio::time::timeout(Duration::from_secs(30), rejections.next()).await;
        let rejected = rejected.with_context(|| format!("no rejection: {reason} {words}"))?.context("closed")?;
        let headers = rejected.headers.context("no headers")?;
        let header = |name: &str| headers.get(name).map(|value| value.as_str().to_owned()).unwrap_or_default();
        ensure!(header("Chasqui-Reason").contains(reason), "{reason} wanted: {headers:?}");
        let detail = header("Chasqui-Detail");
        ensure!(detail.contains(words) && detail.len() > 10, "{words} wanted: {detail}");
        let kept = &rejected.payload;
        ensure!(payload.starts_with(kept) && kept.is_empty() == payload.is_empty(), "{reason} {words}");
        ensure!(
            rejected.payload.len() == payload.len() || header("Chasqui-Cut") == payload.len().to_string(),
            "it does not say that it was cut: {reason} {words}"
        );

        let id = Uuid::now_v7();
        install.publish("notify.submit.normal.good", &id.to_string(), &submissions::mail(id, "ada")).await?;
    }
    let count = bad.len() as u64;
    let rejected = "SELECT count() AS n FROM trace_events FINAL WHERE state = 'rejected' AND app = 'bad'";
    oracle::until(&install, "rejected traces", rejected, count).await?;
    let delivered = "SELECT count() AS n FROM deliveries WHERE state = 'delivered' AND app = 'good'";
    oracle::until(&install, "good ones", delivered, count).await?;
    ensure!(install.stored("REJECTED").await? == count, "every rejection is kept");
    ensure!(install.stored("DEAD").await? == 0, "a rejection is no dead letter");
    // What the bombs declared is thousands of times this.
    let peak = worker.peak_memory()?;
    ensure!(peak < 300 << 20, "the worker took {} MiB", peak >> 20);
    worker.terminate().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_megabytes_are_refused_at_the_door() -> anyhow::Result<()> {
    let install = TestInstall::start(IMPATIENT).await?;
    let context = jetstream::new(install.nats.clone());
    let refused = context.publish("notify.submit.normal.bad", Bytes::from(vec![b'x'; 10_000_000])).await;
    ensure!(refused.is_err(), "the client sends what the server said it would not take");
    // A client that does not look is cut off by the server, and nobody else.
    let address = install.servers().nats_url().context("embedded")?.trim_start_matches("nats://").to_owned();
    let cut = tokio::task::spawn_blocking(move || -> anyhow::Result<String> {
        use std::io::{Read, Write};
        let mut socket = std::net::TcpStream::connect(address)?;
        socket.set_read_timeout(Some(Duration::from_secs(10)))?;
        let hello = b"CONNECT {\"verbose\":false}\r\nPUB notify.submit.normal.bad 10000000\r\n";
        socket.write_all(hello)?;
        let mut answer = String::new();
        // Cut off is how it ends, cleanly or not.
        _ = socket.read_to_string(&mut answer);
        Ok(answer)
    });
    let answer = cut.await??;
    ensure!(answer.contains("Maximum Payload Violation"), "{answer}");
    ensure!(install.stored("STAGE_VALIDATE_NORMAL").await? == 0, "nothing of it is stored");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_data_stays_data() -> anyhow::Result<()> {
    let install = TestInstall::start(IMPATIENT).await?;
    let template = json!({ "channels": { "email": { "default": {
        "title": "Hi {{ name }}", "body": "{{ name }}", "html": "<p>{{ name }}</p>" } } } });
    install.run(&["templates", "put", "greeting", &template.to_string()]).await?;
    let endless = json!({ "channels": { "email": { "default": {
        "body": "{% for a in range(10000) %}{% for b in range(10000) %}x{% endfor %}{% endfor %}" } } } });
    install.run(&["templates", "put", "endless", &endless.to_string()]).await?;
    let worker = install.worker("")?;
    for (name, template) in [("{{ 7 * 191 }}{% include 'x' %}", "greeting"), ("<script>", "greeting"), ("x", "endless")]
    {
        let id = Uuid::now_v7();
        let mut mail = submissions::mail(id, "ada");
        mail["template"] = json!(template);
        mail["data"] = json!({ "name": name });
        mail.as_object_mut().context("an object")?.remove("content");
        install.publish("notify.submit.normal.test", &id.to_string(), &mail).await?;
    }
    oracle::until(&install, "sent", "SELECT count() AS n FROM deliveries WHERE state = 'delivered'", 2).await?;
    let failed = "SELECT count() AS n FROM notifications WHERE state = 'dead' AND reason = 'render_failed'";
    oracle::until(&install, "the endless one ends", failed, 1).await?;
    worker.terminate().await?;
    Ok(())
}
