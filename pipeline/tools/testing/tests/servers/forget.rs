//! A user is forgotten: what is left is what the report names.

use anyhow::{Context, ensure};
use async_nats::jetstream::{self, stream::DirectGetErrorKind};
use chasqui_schemas::{
    clickhouse::STORED,
    record::{Record, Suppression},
    stream,
};
use chasqui_testing::{TestInstall, oracle, settings::IMPATIENT, submissions};
use futures::TryStreamExt;
use serde_json::{Value, json};
use uuid::Uuid;

/// Words that lead to the user who is forgotten, and occur nowhere else.
const USER: &str = "zora-quimby";
const WORDS: [&str; 3] = ["zora-quimby", "+15550137531", "z.quimby@"];

/// Streams that hold one of the words, by name; also where a subject or a header does.
async fn holding(install: &TestInstall) -> anyhow::Result<Vec<String>> {
    let context = jetstream::new(install.nats.clone());
    let mut holding = Vec::new();
    let names: Vec<String> = context.stream_names().try_collect().await?;
    for name in names {
        let stream = context.get_stream(&name).await?;
        let mut next = 1;
        loop {
            let message = match stream.direct_get_next_for_subject(">", Some(next)).await {
                Ok(message) => message,
                Err(error) if error.kind() == DirectGetErrorKind::NotFound => break,
                Err(error) => return Err(error).context(name),
            };
            next = message.sequence + 1;
            let payload = String::from_utf8_lossy(&message.payload).to_lowercase();
            let rest = format!("{} {:?}", message.subject, message.headers).to_lowercase();
            if WORDS.iter().any(|word| payload.contains(word) || rest.contains(word)) {
                holding.push(name.clone());
            }
        }
    }
    holding.sort();
    holding.dedup();
    Ok(holding)
}

/// The same once what was acknowledged is released, and its traces are written.
async fn holding_at_rest(install: &TestInstall, expected: &[&str]) -> anyhow::Result<()> {
    let mut found = Vec::new();
    for _ in 0..300 {
        found = holding(install).await?;
        if found == expected {
            return Ok(());
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    anyhow::bail!("the words are in {found:?}, not in {expected:?} alone")
}

/// Rows of ClickHouse, its record of mutations included, that hold one of the words.
async fn rows_holding(install: &TestInstall) -> anyhow::Result<u64> {
    let mut rows = 0;
    for table in STORED.into_iter().chain(["system.mutations", "system.parts_columns"]) {
        for word in WORDS {
            let sql = format!("SELECT count() AS n FROM {table} WHERE toString(tuple(*)) ILIKE '%{word}%'");
            rows += oracle::number(install, &sql).await?;
        }
    }
    Ok(rows)
}

async fn publish(install: &TestInstall, lane: &str, submission: Value) -> anyhow::Result<()> {
    install.publish(&format!("notify.submit.{lane}.test"), &Uuid::now_v7().to_string(), &submission).await
}

async fn forget(install: &TestInstall, more: &str) -> anyhow::Result<Value> {
    Ok(serde_json::from_str(&install.run(&["forget", USER, "--json", more]).await?)?)
}

#[tokio::test(flavor = "multi_thread")]
async fn after_forget_only_what_the_report_names_is_left() -> anyhow::Result<()> {
    let install = TestInstall::start(IMPATIENT).await?;
    let _worker = install.worker("")?;
    let contacts = json!({
        "emails": ["Z.Quimby@example.com", "dead@example.com"], "phones": ["+15550137531"], "locale": "en",
        "devices": [{ "id": "zora-quimby-phone", "platform": "android", "token": "t" }],
    });
    // What it was before is kept for a while, and goes too.
    install.run(&["contacts", "put", USER, r#"{"emails":["zora-quimby@example.org"]}"#]).await?;
    install.run(&["contacts", "put", USER, &contacts.to_string()]).await?;
    install.run(&["contacts", "put", "bob", r#"{"emails":["bob@example.com"]}"#]).await?;
    install
        .run(&["preferences", "put", USER, r#"{"channels":{"sms":false},"devices":{"zora-quimby-phone":false}}"#])
        .await?;
    install.run(&["suppressions", "put", "dead@example.com", r#"{"reason":"bounce"}"#]).await?;
    let content = json!({ "title": "A test", "body": "For you" });
    let to = |recipient: Value, channels: &[&str]| json!({ "category": "test", "recipients": [recipient], "channels": channels, "content": content });
    // Delivered: two mails, in-app and push, where a device is switched off; one to the address itself.
    let mut labelled = to(json!(USER), &["email", "in_app", "push", "sms"]);
    labelled["metadata"] = json!({ "said": "zora-quimby" });
    labelled["transaction_id"] = json!("of-zora-quimby");
    publish(&install, "normal", labelled).await?;
    publish(&install, "normal", to(json!({ "email": "z.quimby@example.com" }), &["email"])).await?;
    publish(&install, "normal", to(json!("bob"), &["email", "in_app"])).await?;
    // Dead letters: the user's, the address's, a rejected submission's, and bob's.
    for recipient in [json!(USER), json!({ "email": "z.quimby@example.com" }), json!("bob")] {
        let mut dead = to(recipient, &["email"]);
        dead.as_object_mut().context("object")?.remove("content");
        dead["template"] = json!("there-is-none");
        publish(&install, "normal", dead).await?;
    }
    publish(&install, "normal", json!({ "recipients": [{ "userId": USER }] })).await?;
    oracle::until(
        &install,
        "ended",
        "SELECT count() AS n FROM notifications WHERE state NOT IN ('pending', 'sent')",
        6,
    )
    .await?;
    ensure!(rows_holding(&install).await? > 0, "the test looks for nothing");
    let rates = "SELECT sum(deliveries) + 1000 * sum(delivered) AS n FROM delivery_stats";
    let before = oracle::number(&install, rates).await?;

    let foretold = forget(&install, "--dry-run").await?;
    let counts =
        json!({ "contacts": true, "preferences": true, "inbox_messages": 1, "dead_letters": 3, "notifications": 2 });
    ensure!(foretold["erased"] == counts, "{foretold}");
    let held = ["DEAD", "INBOX", "KV_contacts", "KV_owners", "KV_preferences", "REJECTED"];
    holding_at_rest(&install, &held).await?;

    let report = forget(&install, "--yes").await?;
    ensure!(report["erased"] == counts, "{report}");
    holding_at_rest(&install, &[]).await?;
    ensure!(rows_holding(&install).await? == 0, "ClickHouse knows the user");
    ensure!(oracle::number(&install, rates).await? == before, "the rates of the past have changed");
    ensure!(install.stored(stream::DEAD).await? == 1 && install.stored(stream::INBOX).await? == 1, "bob's are gone");
    ensure!(install.stored(stream::REJECTED).await? == 0, "the user's rejection stays");
    oracle::traces_are_trees(&install).await?;
    // The suppression list outlives it, and says so.
    ensure!(report["remains"].to_string().contains("suppression list"), "{report}");
    install.run(&[Suppression::BUCKET, "get", "dead@example.com"]).await?;
    // Nothing is left to be forgotten.
    let nothing =
        json!({ "contacts": false, "preferences": false, "inbox_messages": 0, "dead_letters": 0, "notifications": 0 });
    ensure!(forget(&install, "--yes").await?["erased"] == nothing);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_for_its_time_is_reported_and_never_sent() -> anyhow::Result<()> {
    let install = TestInstall::start(IMPATIENT).await?;
    let _worker = install.worker("")?;
    install.run(&["contacts", "put", USER, r#"{"emails":["z.quimby@example.com"]}"#]).await?;
    install.run(&["preferences", "put", USER, r#"{"channels":{"sms":false}}"#]).await?;
    // Waits at enrich for its time.
    let mut mail = submissions::mail(Uuid::now_v7(), "unused");
    mail["recipients"] = json!([USER]);
    mail["send_at"] = json!((jiff::Timestamp::now() + jiff::SignedDuration::from_secs(20)).to_string());
    publish(&install, "normal", mail).await?;
    oracle::until(&install, "waiting", "SELECT count() AS n FROM notifications WHERE reason = 'scheduled'", 1).await?;

    let report = forget(&install, "--yes").await?;
    ensure!(report["remains"].to_string().contains("1 messages that wait"), "{report}");
    let history: Value = serde_json::from_str(&install.run(&["preferences", "history", USER, "--json"]).await?)?;
    let records: Vec<&Value> = history["revisions"].as_array().context("array")?.iter().map(|r| &r["record"]).collect();
    ensure!(
        records.len() == 1 && records[0]["enabled"] == json!(false),
        "what the user wanted is still there: {history}"
    );
    holding_at_rest(&install, &["DEFERRED", "KV_preferences"]).await?;
    let ended = "SELECT count() AS n FROM notifications WHERE state = 'suppressed' AND reason = 'unknown_user'";
    oracle::until(&install, "suppressed", ended, 1).await?;
    let report = forget(&install, "--yes").await?;
    ensure!(report["erased"]["preferences"] == json!(true), "{report}");
    holding_at_rest(&install, &[]).await?;
    ensure!(rows_holding(&install).await? == 0, "ClickHouse knows the user");
    Ok(())
}
