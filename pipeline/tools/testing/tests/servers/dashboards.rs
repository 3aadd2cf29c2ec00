//! What Grafana shows and what it raises: every dashboard and alert rule as its user asks them, on a real ClickHouse that
//! the real pipeline filled. There is no Grafana here: what it makes of the files is in [`grafana`].

use std::collections::BTreeSet;

use crate::grafana::{
    Dashboard, View,
    alerts::{self, State},
    ask, dashboards, sql,
};
use anyhow::{Context, Result, ensure};
use async_nats::jetstream;
use chasqui_schemas::{Channel, ReceiptKind, subject};
use chasqui_testing::{TestInstall, compose, oracle, settings::IMPATIENT, submissions};
use clickhouse::Client;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use uuid::Uuid;

/// Recipients of the campaign.
const READERS: usize = 30;
/// Whose text messages fail: with three attempts each, more calls than a provider's error rate needs.
const UNLUCKY: usize = 8;
const KEY: &str = "order-1042-shipped";

#[tokio::test(flavor = "multi_thread")]
async fn the_dashboards_show_what_happened_and_the_alerts_tell_what_is_wrong() -> Result<()> {
    let install = start().await?;
    let client = install.clickhouse.clone().with_user("grafana").with_password("chasqui");
    // As Grafana's plugin asks: with its time limit.
    let client = client.with_setting("max_execution_time", "60");
    for rule in alerts::rules()? {
        // Nobody looks at the queues yet; all else is calm.
        let answer = ask(&client, &rule.sql(Timestamp::now().as_second())?).await?;
        ensure!(answer.rows.is_empty(), "{}: {:?}", rule.uid, answer.rows);
        ensure!((rule.no_data_state == State::Alerting) == (rule.uid == "chasqui-no-consumer"), rule.uid);
    }

    let order = play(&install).await?;
    sample_queues(&install).await?;
    oracle::traces_are_trees(&install).await?;
    let dashboards = dashboards()?;
    ensure!(dashboards.len() == 5);
    for dashboard in &dashboards {
        every_panel_shows_something(&client, dashboard, &order).await?;
    }
    let notification = dashboards.iter().find(|dashboard| dashboard.name == "notification").context("missing")?;
    it_is_found_by_whatever_is_known_of_it(&client, notification, &order).await?;
    every_trace_is_drawn(&install, &client, notification).await?;
    what_is_wrong_is_raised(&client).await
}

/// A notification that went everywhere, and the numbers that lead to it.
struct Order {
    request_id: String,
    notification_id: String,
    delivery_id: String,
    trace_id: String,
}

/// Everything that a panel tells apart: all channels, a campaign in two variants with opens and clicks, retries, dead
/// letters, suppressions, deferrals, rejections, a repeated key; and at the end somebody who is still on the way.
async fn play(install: &TestInstall) -> Result<Order> {
    let ada = json!({
        "emails": ["ada@example.com"], "phones": ["+447700900101"], "locale": "es",
        "devices": [{ "id": "d", "platform": "android", "token": "ada", "registered_at": "2026-01-10T08:00:00Z" }],
    });
    install.run(&["contacts", "put", "ada", &ada.to_string()]).await?;
    install.run(&["contacts", "put", "bob", r#"{"emails": ["bob@example.com"]}"#]).await?;
    install.run(&["preferences", "put", "bob", r#"{"enabled": false}"#]).await?;
    let mail =
        json!({ "default": { "title": "Spring", "body": "Sale" }, "es": { "title": "Primavera", "body": "Rebajas" } });
    let spring = json!({
        "channels": { "email": mail },
        "variants": { "plain": { "weight": 1, "channels": {} }, "urgent": { "weight": 1, "channels": { "email": mail } } },
    });
    install.run(&["templates", "put", "spring", &spring.to_string()]).await?;
    let endless = "{% for a in range(10000) %}{% for b in range(10000) %}x{% endfor %}{% endfor %}";
    let endless = json!({ "channels": { "email": { "default": { "body": endless } } } });
    install.run(&["templates", "put", "endless", &endless.to_string()]).await?;
    let worker = install.worker("")?;

    let send = async |lane: &str, mut submission: Value| -> Result<Uuid> {
        let id = Uuid::now_v7();
        submission["id"] = json!(id);
        install.publish(&format!("notify.submit.{lane}.shop"), &id.to_string(), &submission).await?;
        Ok(id)
    };
    let content = json!({ "title": "Order", "body": "On its way", "html": "<p>On its way</p>" });
    let locales = ["en", "es"];
    let readers = (0..READERS).map(|i| json!({ "email": format!("reader-{i}@example.com"), "locale": locales[i % 2] }));
    let readers: Vec<Value> = readers.collect();
    send("bulk", json!({ "category": "news", "recipients": readers, "channels": ["email"], "template": "spring" }))
        .await?;
    let order = json!({
        "category": "order", "recipients": ["ada"], "channels": ["push", "sms", "email", "in_app"], "content": content,
        "transaction_id": "o'hara-1042", "idempotency_key": KEY,
    });
    let request_id = send("high", order.clone()).await?;
    let sent = "SELECT count() AS n FROM deliveries WHERE state = 'delivered' AND category = 'order'";
    oracle::until(install, "the order", sent, 4).await?;
    send("high", order).await?;
    for user in ["bob", "nobody"] {
        send("normal", json!({ "category": "news", "recipients": [user], "content": content })).await?;
    }
    for mailbox in ["bounces", "dead-endpoint", "refused", "fails-1-times"] {
        send("normal", submissions::mail(Uuid::nil(), mailbox)).await?;
    }
    for _ in 0..UNLUCKY {
        let unlucky = json!([{ "phone": "+15550000001" }]);
        send("critical", json!({ "category": "otp", "recipients": unlucky, "channels": ["sms"], "content": content }))
            .await?;
    }
    let cat = json!([{ "email": "cat@example.com" }]);
    send("normal", json!({ "category": "news", "recipients": cat, "channels": ["email"], "template": "endless" }))
        .await?;
    // Further away than a busy machine takes to see that it has to wait.
    let later = Timestamp::now() + SignedDuration::from_secs(10);
    send(
        "normal",
        json!({ "category": "news", "recipients": cat, "channels": ["email"], "content": content, "send_at": later }),
    )
    .await?;
    send("normal", json!({ "category": "news", "recipients": cat, "colour": "red" })).await?;

    // All but the one that is rejected.
    let ended = "SELECT count() AS n FROM notifications WHERE state != 'pending'";
    oracle::until(install, "notifications that ended", ended, (READERS + UNLUCKY + 10) as u64).await?;
    engage(install).await?;
    worker.terminate().await?;

    let _worker = install.worker("validate,writer")?;
    for _ in 0..3 {
        send("normal", submissions::mail(Uuid::nil(), "stuck")).await?;
    }
    oracle::until(install, "stuck", "SELECT count() AS n FROM notifications WHERE state = 'pending'", 3).await?;

    let found = format!(
        "SELECT notification_id, delivery_id FROM deliveries WHERE request_id = '{request_id}' AND channel = 'sms'"
    );
    let found: Vec<Value> = oracle::query(install, &found).await?;
    let text = |name: &str| anyhow::Ok(found.first().context("no order")?[name].as_str().context("no id")?.to_owned());
    Ok(Order {
        request_id: request_id.to_string(),
        trace_id: text("notification_id")?.replace('-', ""),
        notification_id: text("notification_id")?,
        delivery_id: text("delivery_id")?,
    })
}

/// Half of the readers open, a third of these click, one of them leaves and one complains.
async fn engage(install: &TestInstall) -> Result<()> {
    let sql = "SELECT delivery_id, notification_id FROM deliveries WHERE template = 'spring' ORDER BY delivery_id";
    let readers: Vec<Value> = oracle::query(install, sql).await?;
    let context = jetstream::new(install.nats.clone());
    for (kind, step) in [
        (ReceiptKind::Opened, 2),
        (ReceiptKind::Clicked, 6),
        (ReceiptKind::Unsubscribed, READERS),
        (ReceiptKind::Complained, READERS),
    ] {
        let mut receipts: Vec<Value> = readers.iter().step_by(step).cloned().collect();
        for receipt in &mut receipts {
            receipt["by"] = json!("human");
        }
        let payload = serde_json::to_vec(&receipts)?;
        context.publish(subject::receipt(kind, Channel::Email), payload.into()).await?.await?;
    }
    let engaged = "SELECT countIf(opened_human_at IS NOT NULL) + countIf(clicked_human_at IS NOT NULL)
        + countIf(unsubscribed_at IS NOT NULL) + countIf(complained_at IS NOT NULL) AS n FROM deliveries";
    oracle::until(install, "opens and clicks", engaged, (READERS / 2 + READERS / 6 + 2) as u64).await
}

/// Samples as the monitor takes them, beside its own, because no test can wait until a queue is really an hour old: one
/// queue that is well, and one in each kind of trouble. From two minutes ago to
/// five ahead, so that they are the latest at any moment of the test.
async fn sample_queues(install: &TestInstall) -> Result<()> {
    let sql = "INSERT INTO queue_metrics
            (sampled_at, stage, lane, channel, stream, consumer, pending, oldest_ms, waiting, out_per_s, bytes, max_bytes)
        SELECT now64(3) - INTERVAL ago SECOND, q.1, q.2, q.3, q.4, q.5, q.6, q.7, q.8, q.9, q.10, q.11
        FROM (SELECT number * 5 - 300 AS ago FROM numbers(84))
        ARRAY JOIN
        [
            ('enrich', 'high', '', 'STAGE_ENRICH_HIGH', 'enrich_high', 3, 40, 1, 10.5, 40, 100),
            ('send', 'critical', 'sms', 'STAGE_SEND_CRITICAL', 'send_critical_sms', 900, 60000, 1, 2., 0, 100),
            ('send', 'bulk', 'email', 'STAGE_SEND_BULK', 'send_bulk_email', 50, 200000, 0, 0., 0, 100),
            ('traces', '', '', 'TRACES', 'writer', 5000, 90000, 1, 100., 0, 0),
            ('dead', '', '', 'DEAD', '', 8, 86400000, 0, 0., 71, 100)
        ] AS q";
    Ok(install.clickhouse.query(sql).execute().await?)
}

async fn every_panel_shows_something(client: &Client, dashboard: &Dashboard, order: &Order) -> Result<()> {
    let now = Timestamp::now().as_second();
    // A minute ahead: who has been on the way for seconds is late then.
    let (from, to) = (now - 3_600, now + 60);
    let all = [("app", "*"), ("channel", "*"), ("stage", "*"), ("lane", "*"), ("template", "*")];
    let all = [all.as_slice(), &[("id", ""), ("trace_id", order.trace_id.as_str())]].concat();
    for (name, query) in dashboard.variables() {
        let answer = ask(client, &View { variables: &all, from, to }.expand(query)?).await?;
        ensure!(!answer.rows.is_empty() && answer.columns.len() == 1, "{}: {name} cannot be chosen", dashboard.name);
    }
    let chosen = [("app", "shop"), ("channel", "sms"), ("stage", "send"), ("lane", "critical"), ("template", "spring")];
    let nothing = [("app", "nobody"), ("channel", ""), ("stage", ""), ("lane", ""), ("template", "")];
    for panel in dashboard.panels() {
        let place = || format!("{}: {}", dashboard.name, panel["title"]);
        let answer = ask(client, &View { variables: &all, from, to }.expand(sql(panel)?)?).await.with_context(place)?;
        answer.suits(panel).with_context(|| format!("{}: {:?}", place(), answer.rows.first()))?;
        for choice in [chosen, nothing] {
            let variables = &[choice.as_slice(), &[("id", "nobody"), ("trace_id", "")]].concat();
            ask(client, &View { variables, from, to }.expand(sql(panel)?)?).await.with_context(place)?;
        }
    }
    Ok(())
}

async fn it_is_found_by_whatever_is_known_of_it(client: &Client, dashboard: &Dashboard, order: &Order) -> Result<()> {
    let found = sql(dashboard.panel("Found")?)?;
    let now = Timestamp::now().as_second();
    let Order { request_id, notification_id, delivery_id, trace_id } = order;
    let ids = [notification_id, request_id, delivery_id, trace_id].map(|id| (id.as_str(), 1));
    // The second with this key was suppressed, and is found too; without a word, the latest are.
    for (needle, count) in ids.into_iter().chain([("ada", 2), ("o'hara-1042", 2), (KEY, 2), ("", READERS + UNLUCKY)]) {
        let view = View { variables: &[("id", needle)], from: now - 3_600, to: now + 60 };
        let answer = ask(client, &view.expand(found)?).await?;
        let traces = answer.texts("trace_id")?;
        ensure!(traces.contains(&trace_id.as_str()), "{needle} does not find it");
        ensure!(traces.len() == count || needle.is_empty() && traces.len() > count, "{needle}: {}", traces.len());
    }
    // Ids whatever their age; users only in the time shown.
    for (needle, count) in [(notification_id.as_str(), 1), ("ada", 0)] {
        let view = View { variables: &[("id", needle)], from: now - 7_200, to: now - 3_600 };
        ensure!(ask(client, &view.expand(found)?).await?.rows.len() == count, "{needle}");
    }
    // Without a click, the id alone shows its trace.
    for panel in ["Trace", "Deliveries", "Steps"] {
        let view = View { variables: &[("id", notification_id), ("trace_id", "")], from: now, to: now };
        ensure!(!ask(client, &view.expand(sql(dashboard.panel(panel)?)?)?).await?.rows.is_empty(), "{panel}");
    }
    Ok(())
}

async fn every_trace_is_drawn(install: &TestInstall, client: &Client, dashboard: &Dashboard) -> Result<()> {
    let panel = dashboard.panel("Trace")?;
    let traces: Vec<Value> = oracle::query(install, "SELECT DISTINCT trace_id FROM trace_events").await?;
    let mut names = BTreeSet::new();
    let mut tags = String::new();
    for trace in &traces {
        let trace = trace["trace_id"].as_str().context("trace_id")?;
        let view = View { variables: &[("id", ""), ("trace_id", trace)], from: 0, to: 0 };
        let answer = ask(client, &view.expand(sql(panel)?)?).await?;
        answer.suits(panel).with_context(|| trace.to_owned())?;
        names.extend(answer.texts("operationName")?.into_iter().map(str::to_owned));
        let column = answer.position("tags")?;
        tags.extend(answer.rows.iter().map(|row| row[column].to_string()));
    }
    for name in ["notification order", "filter", "send email via sandbox #2", "delivered email", "clicked email"] {
        ensure!(names.contains(name), "{name} is not drawn: {names:?}");
    }
    for tag in ["attempt", "reason", "queued_ms", "original", "until", "detail"] {
        ensure!(tags.contains(&format!(r#""key":"{tag}""#)), "{tag} is not told");
    }
    Ok(())
}

async fn what_is_wrong_is_raised(client: &Client) -> Result<()> {
    for rule in alerts::rules()? {
        let answer = ask(client, &rule.sql(Timestamp::now().as_second() + 20)?).await?;
        let expected: &[&str] = match rule.uid.as_str() {
            "chasqui-within-10-s" | "chasqui-trace-lag" => &[""],
            "chasqui-dead-letters" => &["render render_failed", "send provider_refused", "send retries_exhausted"],
            "chasqui-provider-errors" => &["sms sandbox"],
            "chasqui-queue-age" => &["send critical sms"],
            "chasqui-stream-full" => &["DEAD"],
            "chasqui-no-consumer" => &["send bulk email send_bulk_email"],
            other => anyhow::bail!("{other} is not tried"),
        };
        let raised = rule.raised_by(&answer).with_context(|| rule.title.clone())?;
        ensure!(raised == expected, "{}: {raised:?}", rule.title);
    }
    Ok(())
}

/// Servers where ClickHouse has the readers of `compose.yaml`, with `chasqui` as their password.
async fn start() -> Result<TestInstall> {
    // Those who fail here shall not take the provider out of service for the others.
    let settings = format!("{IMPATIENT}\n[send.breaker]\nmin_calls = 1000000\n");
    TestInstall::start_with_users(&settings, &compose::readers("chasqui")?).await
}
