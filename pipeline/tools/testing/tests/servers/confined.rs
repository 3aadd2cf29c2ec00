//! Producers whom the operator does not own, and processes of ours that may do no more than their roles need.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context, ensure};
use async_nats::{
    Client, HeaderMap,
    jetstream::{self, message::PublishMessage},
};
use chasqui_schemas::{Channel, Lane, OptOut, ReceiptKind, Stage, header, permission::Role, stream, subject};
use chasqui_testing::{
    Collector, Deliveries, TestInstall, install::PATIENCE, oracle, settings::IMPATIENT, submissions,
};
use futures::{StreamExt, TryStreamExt};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout};
use uuid::Uuid;

const STAGES: &str = "validate,enrich,filter,dedupe,render,prioritize,send";

/// A producer as any is: a NATS client, and the seed that its operator gave it.
async fn producer(install: &TestInstall, key: &str) -> anyhow::Result<Client> {
    let url = install.servers().nats_url().context("no NATS")?;
    let options = async_nats::ConnectOptions::with_nkey(install.seed_of(key)?);
    Ok(options.request_timeout(Some(Duration::from_secs(10))).connect(url).await?)
}

/// Publishes, and waits until it is stored.
async fn submit(producer: &Client, subject: &str, submission: &Value) -> anyhow::Result<()> {
    let message = PublishMessage::build()
        .payload(submission.to_string().into())
        .message_id(submission["id"].as_str().unwrap_or_default());
    jetstream::new(producer.clone()).send_publish(subject.to_owned(), message).await?.await?;
    Ok(())
}

async fn eventually(what: &str, mut done: impl AsyncFnMut() -> anyhow::Result<bool>) -> anyhow::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while !done().await? {
        ensure!(Instant::now() < deadline, "not in time: {what}");
        sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_role_does_its_work_with_exactly_its_permissions() -> anyhow::Result<()> {
    const MANY: usize = 60;
    let collector = Collector::start().await?;
    let dir = tempfile::tempdir()?;
    let settings = format!(
        "{IMPATIENT}\n[export]\nendpoint = '{}'\n[engagement]\nspool_dir = '{}'\n",
        collector.endpoint,
        dir.path().join("spool").display()
    );
    let install = TestInstall::start_confined(&settings, &[("shop", "")]).await?;
    let order = json!({"channels": ["email"], "ttl_s": 3600}).to_string();
    install.run(&["categories", "put", "test", &order]).await?;
    let device = json!({"devices": [{"id": "d1", "platform": "ios", "token": "dead-endpoint-1"}]}).to_string();
    install.run(&["contacts", "put", "ada", &device]).await?;
    let worker = install.worker_as(Role::Stages, STAGES, &[])?;
    let _services = install.worker_as(Role::Services, "deferred,receipts,owners,writer,exporter,monitor", &[])?;
    let gateway = format!("127.0.0.1:{}", chasqui_embedded::free_port()?);
    let _gateway = install.worker_as(Role::Gateway, "gateway", &[("CHASQUI_GATEWAY__BIND", &gateway)])?;
    install.until_running(3).await?;

    let shop = producer(&install, "shop").await?;
    let mut rejected = shop.subscribe(subject::rejected("shop")).await?;
    let mut inboxes = shop.subscribe(subject::app_inboxes("shop")).await?;
    let mut sent = 0;
    let mut mails = async |lane: Lane, mailbox: &str, more: Value| {
        let mut mail = submissions::mail(Uuid::now_v7(), mailbox);
        mail.as_object_mut().context("no object")?.extend(more.as_object().cloned().unwrap_or_default());
        sent += 1;
        submit(&shop, &subject::submit(lane, "shop"), &mail).await
    };
    // Enough that they travel in batches, on every lane.
    for number in 0..MANY {
        mails(Lane::ALL[number % 4], &format!("person-{number}"), json!({})).await?;
    }
    let soon = jiff::Timestamp::now() + Duration::from_secs(3);
    mails(Lane::Normal, "later", json!({"send_at": soon})).await?;
    for ending in ["fails-1-times-a", "bounces-a", "refused-a", "no-answer-a"] {
        mails(Lane::Normal, ending, json!({})).await?;
    }
    for _ in 0..2 {
        mails(Lane::Normal, "twice", json!({"idempotency_key": "once"})).await?;
    }
    mails(Lane::Normal, "in-app", json!({"recipients": ["ada"], "channels": ["in_app", "push"]})).await?;
    submit(&shop, "notify.submit.high.shop", &json!({"category": "test", "recipients": []})).await?;
    timeout(PATIENCE, rejected.next()).await?.context("no rejection came")?;
    let message = timeout(PATIENCE, inboxes.next()).await?.context("no inbox message came")?;
    ensure!(message.subject.as_str() == "inbox.shop.ada", "{}", message.subject);

    // Whoever takes over an attempt that another began records its end.
    for number in 0..8 {
        mails(Lane::Normal, &format!("slow-1500-{number}"), json!({})).await?;
    }
    let begun = "SELECT count() AS n FROM deliveries WHERE state != 'pending'";
    eventually("most are sent", async || Ok(oracle::number(&install, begun).await? >= MANY as u64)).await?;
    worker.kill().await?;
    let worker = install.worker_as(Role::Stages, STAGES, &[])?;
    let ended = "SELECT count() AS n FROM notifications WHERE state != 'pending'";
    oracle::until(&install, "notifications that ended", ended, sent).await?;
    oracle::traces_are_trees(&install).await?;

    // A receipt with an opt-out, as the gateway publishes one.
    let off = OptOut::Category { app: "shop".into(), user: "bob".into(), category: "test".into() };
    let deliveries = Deliveries::read(&install).await?;
    let known = deliveries.0.first().context("no delivery")?;
    let receipt = json!([{"delivery_id": known.delivery_id, "notification_id": known.notification_id}]);
    let message = PublishMessage::build()
        .payload(receipt.to_string().into())
        .header(header::OPT_OUT, serde_json::to_string(&off)?.as_str());
    let at_gateway = jetstream::new(install.connect_as(Role::Gateway.as_str()).await?);
    let receipts = subject::receipt(ReceiptKind::Unsubscribed, Channel::Email);
    at_gateway.send_publish(receipts, message).await?.await?;
    at_gateway.publish(subject::receipt(ReceiptKind::Opened, Channel::Push), "noise".into()).await?.await?;
    eventually("the opt-out is stored", async || Ok(install.run(&["preferences", "get", "bob"]).await.is_ok())).await?;

    // What is acknowledged is removed, so every queue is empty in the end.
    for name in stream::of_stages().chain([stream::RECEIPTS, stream::TRACES, stream::DEFERRED]) {
        eventually(name, async || Ok(install.stored(name).await? == 0)).await?;
    }
    ensure!(!collector.spans()?.is_empty(), "nothing was exported");
    let letters = install.run(&["dead", "list", "--json"]).await?;
    let letter: Value = serde_json::from_str(letters.lines().next().context("no dead letter")?)?;
    install.run(&["dead", "show", &letter["sequence"].to_string()]).await?;
    install.run(&["dead", "replay", "--all"]).await?;
    install.run(&["queues"]).await?;
    install.run(&["contacts", "list"]).await?;
    install.run(&["stats"]).await?;
    install.run(&["forget", "ada", "--yes"]).await?;
    let file = dir.path().join("mail.json");
    std::fs::write(&file, submissions::mail(Uuid::now_v7(), "last").to_string())?;
    install.run(&["send", &file.to_string_lossy(), "--wait"]).await?;

    worker.terminate().await?;
    let refused = install.refused()?;
    ensure!(refused.is_empty(), "{refused:#?}\n{}", install.worker_log());
    Ok(())
}

/// What every stream holds: messages, and the last sequence.
async fn held(operator: &Client) -> anyhow::Result<BTreeMap<String, (u64, u64)>> {
    let context = jetstream::new(operator.clone());
    let streams: Vec<_> = context.streams().try_collect().await?;
    Ok(streams
        .into_iter()
        .map(|stream| (stream.config.name, (stream.state.messages, stream.state.last_sequence)))
        .collect())
}

/// Everything that a producer could want to reach. The message itself is a submission of its own app, or goes where the
/// producer has no business.
async fn try_to_escape(evil: &Client) -> anyhow::Result<()> {
    let own = "notify.submit.normal.evil";
    let stolen = [
        "$KV.contacts.ada",
        "$KV.secrets.recipients",
        "$KV.templates.order",
        "notify.submit.normal.shop",
        "notify.submit.critical.shop",
        "notify.submit.critical.evil",
        "notify.enrich.normal",
        "notify.send.critical.sms",
        "notify.due.normal",
        "notify.deferred.x",
        "notify.receipt.opened.email",
        "notify.rejected.shop",
        "notify.dead.send",
        "notify.trace",
        "notify.ledger",
        "notify.attempts.ended",
        "inbox.shop.ada",
        "$JS.API.STREAM.PURGE.STAGE_VALIDATE_NORMAL",
        "$JS.API.STREAM.DELETE.DEAD",
        "$JS.API.STREAM.MSG.DELETE.STAGE_VALIDATE_NORMAL",
        "$JS.API.CONSUMER.DELETE.TRACES.clickhouse",
        "$JS.API.DIRECT.GET.KV_contacts.$KV.contacts.ada",
        "$JS.API.CONSUMER.MSG.NEXT.STAGE_VALIDATE_NORMAL.normal",
        "$JS.ACK.STAGE_VALIDATE_NORMAL.normal.1.1.1.1.0",
        "$SYS.REQ.SERVER.PING",
    ];
    for target in stolen {
        evil.publish_with_reply(own, target, "{}".into()).await?;
        evil.publish(target, "{}".into()).await?;
        // What has nobody to answer says so, or is silent; nothing may answer with what is another's.
        let answer = timeout(Duration::from_millis(500), evil.request(target, "".into())).await;
        if let Ok(Ok(answer)) = answer {
            let text = String::from_utf8_lossy(&answer.payload).into_owned();
            let refused = text.contains("JetStream not enabled for account") || text.is_empty();
            let stored = target == "notify.submit.critical.evil";
            ensure!(refused || stored, "{target} answers {text}");
        }
    }
    let asks = |headers: &[(&'static str, &'static str)]| {
        let mut map = HeaderMap::new();
        headers.iter().for_each(|(name, value)| map.insert(*name, *value));
        map
    };
    for headers in [
        asks(&[
            ("Nats-Trace-Dest", "$KV.contacts.ada"),
            ("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
        ]),
        asks(&[("Nats-Schedule", "@at 2030-01-01T00:00:00Z"), ("Nats-Schedule-Target", "notify.enrich.normal")]),
        asks(&[("Nats-Rollup", "all")]),
        asks(&[("Nats-TTL", "1s")]),
        asks(&[("Nats-Subject", "notify.enrich.normal"), ("Nats-Stream", "DEAD")]),
    ] {
        evil.publish_with_headers(own, headers, "{}".into()).await?;
    }
    evil.flush().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_producer_reaches_and_sees_nothing_but_its_own_app() -> anyhow::Result<()> {
    const HONEST: u64 = 200;
    let lanes = "lanes = ['normal', 'bulk']";
    let install = TestInstall::start_confined(IMPATIENT, &[("shop", ""), ("evil", lanes)]).await?;
    install.run(&["contacts", "put", "ada", r#"{"emails":["ada@example.com"]}"#]).await?;
    let url = install.servers().nats_url().context("no NATS")?;
    ensure!(async_nats::connect(url).await.is_err(), "without a key nobody gets in");

    let evil = producer(&install, "evil").await?;
    let mut heard = Vec::new();
    for wildcard in [">", "*.>", "_INBOX.>", "_INBOX_chasqui.>", "_R_.>", "notify.>", "inbox.>", "$KV.>", "$JS.>"] {
        heard.push(evil.subscribe(wildcard).await?);
    }
    evil.flush().await?;
    let before = held(&install.nats).await?;
    try_to_escape(&evil).await?;
    let after = held(&install.nats).await?;
    let own = stream::of_stage(Stage::Validate, Lane::Normal);
    for (name, was) in &before {
        // What it stored as its own submissions is its own affair.
        ensure!(name == own || after[name] == *was, "{name} was {was:?} and is {:?}", after[name]);
    }
    let contacts = install.run(&["contacts", "get", "ada"]).await?;
    ensure!(contacts.contains("ada@example.com"), "{contacts}");

    // While it tries on, another app publishes, singly and in an atomic batch, and an operator and workers work.
    let shop = producer(&install, "shop").await?;
    let again = tokio::spawn({
        let evil = evil.clone();
        async move { try_to_escape(&evil).await }
    });
    for number in 0..HONEST {
        let mail = submissions::mail(Uuid::now_v7(), &format!("for-shop-{number}"));
        submit(&shop, "notify.submit.normal.shop", &mail).await?;
    }
    let batch = chasqui_testing::servers::batch("notify.submit.bulk.shop", 20, |number| {
        submissions::mail(Uuid::now_v7(), &format!("for-shop-batch-{number}")).to_string()
    });
    let stored = chasqui_nats::Publisher::new(jetstream::new(shop.clone())).publish(&batch).await?;
    ensure!(stored.windows(2).all(|two| two[1].sequence == two[0].sequence + 1), "the batch is stored whole");
    again.await??;
    let in_app = json!({
        "category": "test", "recipients": ["ada"], "channels": ["in_app"], "content": {"title": "for-shop"},
    });
    submit(&shop, "notify.submit.normal.shop", &in_app).await?;
    submit(&shop, "notify.submit.normal.shop", &json!({"category": "for-shop"})).await?;
    let _stages = install.worker_as(Role::Stages, STAGES, &[])?;
    let _services = install.worker_as(Role::Services, "deferred,receipts,writer,monitor", &[])?;
    let delivered = "SELECT count() AS n FROM deliveries WHERE app = 'shop' AND state = 'delivered'";
    oracle::until(&install, "what the honest app sent", delivered, HONEST + 21).await?;

    // An app has no subject of another app, nor a lane that it may not use.
    let context = jetstream::new(evil.clone());
    for other in ["notify.submit.normal.shop", "notify.submit.critical.evil"] {
        ensure!(context.publish(other, "{}".into()).await?.await.is_err(), "{other}");
    }
    for mut subscription in heard {
        while let Ok(Some(message)) = timeout(Duration::from_millis(100), subscription.next()).await {
            let text = format!("{} {}", message.subject, String::from_utf8_lossy(&message.payload));
            let foreign = ["for-shop", "ada@example.com", "_INBOX_chasqui", "STAGE_ENRICH"];
            ensure!(!foreign.iter().any(|word| text.contains(word)), "it heard {text}");
        }
    }
    Ok(())
}

/// What waits at the front is counted in messages. How large they are, the account says.
#[tokio::test(flavor = "multi_thread")]
async fn the_largest_messages_of_one_app_leave_room_for_those_of_another() -> anyhow::Result<()> {
    const FRONT_BYTES: u64 = 32 << 20;
    let settings = format!("{IMPATIENT}\n[streams]\napp_messages = 250\nfront_bytes = {FRONT_BYTES}");
    let install =
        TestInstall::start_confined(&settings, &[("evil", "max_payload_bytes = 65536"), ("shop", "")]).await?;
    let (evil, shop) = (producer(&install, "evil").await?, producer(&install, "shop").await?);
    let offer = async |producer: &Client, app: &str, bytes: usize| {
        let context = jetstream::new(producer.clone());
        let subject = subject::submit(Lane::Normal, app);
        let stored = async { anyhow::Ok(context.publish(subject, vec![b'x'; bytes].into()).await?.await?) };
        timeout(Duration::from_secs(10), stored).await?
    };
    // No worker takes anything away.
    let mut taken = 0;
    while offer(&evil, "evil", 65_000).await.is_ok() {
        taken += 1;
    }
    ensure!(taken == 250, "{taken} of the flood are taken");
    ensure!(offer(&evil, "evil", 1_000_000).await.is_err(), "the server takes more than the account may publish");
    for _ in 0..10 {
        offer(&shop, "shop", 1_000_000).await?;
    }
    let held = install.stored(stream::of_stage(Stage::Validate, Lane::Normal)).await?;
    ensure!(held == 260, "{held} messages");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_producers_key_is_rotated_without_a_gap() -> anyhow::Result<()> {
    let install = TestInstall::start_confined(IMPATIENT, &[("shop", "")]).await?;
    let settings = install.settings()?;
    let first = producer(&install, "shop").await?;
    let publish = async |producer: &Client, count: u32| {
        for number in 0..count {
            submit(producer, "notify.submit.normal.shop", &submissions::mail(Uuid::now_v7(), &number.to_string()))
                .await?;
        }
        anyhow::Ok(())
    };
    publish(&first, 20).await?;

    let key = install.make_key("shop-new").await?;
    let both = settings.replace("[apps.shop]\nnats_keys = [", &format!("[apps.shop]\nnats_keys = ['{key}', "));
    // It publishes while the server changes its accounts.
    let (published, changed) = tokio::join!(publish(&first, 200), install.change_accounts(&both));
    changed?;
    published?;
    let second = producer(&install, "shop-new").await?;
    publish(&second, 20).await?;
    publish(&first, 20).await?;

    let old = install.seed_of("shop").map(|seed| chasqui_nats::key::public_key(&seed.as_str().into(), "shop"))??;
    let only_new = both.replace(&format!(", '{old}'"), "");
    let (published, changed) = tokio::join!(publish(&second, 200), install.change_accounts(&only_new));
    changed?;
    published?;
    ensure!(producer(&install, "shop").await.is_err(), "the old key still lets in");
    let stored = install.stored(stream::of_stage(Stage::Validate, Lane::Normal)).await?;
    ensure!(stored == 460, "{stored} stored");
    Ok(())
}
