//! Messages that no client library can read, in every stream that Chasqui reads: each ends as a rejection or a dead letter with
//! its bytes, no connection drops, and the others pass.

use anyhow::{Context, ensure};
use async_nats::jetstream;
use base64::{Engine, engine::general_purpose::STANDARD};
use chasqui_testing::{
    RawProducer, TestInstall, oracle, raw::BLOCKS, servers::eventually, settings::IMPATIENT, submissions,
};
use serde_json::Value;
use uuid::Uuid;

/// A reader each: validate, render, send, receipts, the writer and the exporter, the service that returns what is due, and who reads
/// dead letters.
const WHERE: &[&str] = &[
    "notify.submit.normal.bad",
    "notify.render.normal",
    "notify.send.normal.email",
    "notify.receipt.opened.email",
    "notify.trace",
    "notify.due.normal",
    PLANTED,
];
/// A dead letter that Chasqui did not write.
const PLANTED: &str = "notify.dead.filter";

#[tokio::test(flavor = "multi_thread")]
async fn no_headers_stop_a_reader_or_a_process() -> anyhow::Result<()> {
    let install = TestInstall::start(IMPATIENT).await?;
    let worker = install.worker("")?;
    install.until_running(1).await?;
    let mut producer = RawProducer::connect(install.servers().nats_url().context("embedded")?).await;
    let payload = |to: &str, n: usize| format!("{{\"to\":\"{to}\",\"n\":{n}}}").into_bytes();
    for (n, (_, block)) in BLOCKS.iter().enumerate() {
        // A block of one byte makes nats-server 2.15 unavailable when `dead list` asks for headers only.
        for to in WHERE.iter().filter(|to| **to != PLANTED || block.len() > 1) {
            producer.publish(to, block, &payload(to, n)).await;
        }
        let id = Uuid::now_v7();
        install.publish("notify.submit.normal.good", &id.to_string(), &submissions::mail(id, "ada")).await?;
    }
    // Subjects too: not UTF-8, and one that is nearly as long as the server takes.
    let good = submissions::mail(Uuid::now_v7(), "ada").to_string().into_bytes();
    let long = format!("notify.submit.normal.{}", "a".repeat(3_900));
    for subject in [&b"notify.submit.normal.\xff"[..], "notify.submit.normal.\u{a0}".as_bytes(), long.as_bytes()] {
        producer.publish(subject, b"NATS/1.0\r\n\r\n", &good).await;
    }

    let short = BLOCKS.iter().filter(|(_, block)| block.len() == 1).count();
    let (of_headers, of_subjects) = (BLOCKS.len() * WHERE.len() - short, 3);
    let expected = (of_headers + of_subjects) as u64;
    eventually("each is kept", async || {
        let kept = futures::try_join!(install.stored("DEAD"), install.stored("REJECTED"));
        kept.is_ok_and(|(letters, rejections)| letters + rejections >= expected)
    })
    .await;
    let delivered = "SELECT count() AS n FROM deliveries WHERE state = 'delivered' AND app = 'good'";
    oracle::until(&install, "the good ones", delivered, BLOCKS.len() as u64).await?;

    let mut letters = Vec::new();
    for name in ["DEAD", "REJECTED"] {
        let kept = jetstream::new(install.nats.clone()).get_stream(name).await?;
        for sequence in 1..=kept.cached_info().state.last_sequence {
            letters.push(kept.get_raw_message(sequence).await?);
        }
    }
    ensure!(letters.len() as u64 == expected, "{} letters", letters.len());
    for to in WHERE.iter().filter(|to| **to != PLANTED) {
        for (n, (what, block)) in BLOCKS.iter().enumerate() {
            let letter = letters
                .iter()
                .find(|letter| letter.payload == payload(to, n))
                .with_context(|| format!("{to}: {what}"))?;
            let header = |name: &str| letter.headers.get(name).map(|value| value.as_str()).unwrap_or_default();
            ensure!(header("Chasqui-Reason") == "unreadable_headers", "{to}, {what}: {:?}", letter.headers);
            ensure!(STANDARD.decode(header("Chasqui-Raw-Headers"))? == *block, "{to}: {what}");
        }
    }
    let of = |subject: &str| letters.iter().filter(|letter| letter.subject.as_str() == subject).count();
    ensure!(of("notify.rejected.bad") == BLOCKS.len() && of("notify.rejected.~") == of_subjects, "rejections");

    let listed = install.run(&["dead", "list", "--json", "--limit", "9999"]).await?;
    ensure!(listed.lines().count() as u64 == expected, "the list has all");
    let planted =
        letters.iter().find(|letter| letter.subject.as_str() == PLANTED).context("planted")?.sequence.to_string();
    let shown: Value = serde_json::from_str(&install.run(&["dead", "show", &planted, "--reveal", "--json"]).await?)?;
    ensure!(shown["headers"].is_string(), "{shown}");
    ensure!(install.run(&["dead", "replay", &planted]).await.is_err(), "it says not where to");
    let rejected =
        letters.iter().find(|letter| letter.subject.as_str() == "notify.rejected.bad").context("rejected")?.sequence;
    let shown = install.run(&["dead", "show", &format!("r{rejected}"), "--reveal"]).await?;
    ensure!(shown.contains("unreadable_headers") && shown.contains("as they came"), "{shown}");

    let log = install.worker_log();
    ensure!(!log.contains("disconnected") && !log.contains("begin anew"), "{log}");
    worker.terminate().await?;
    Ok(())
}
