//! The way of traces into ClickHouse and back, on real servers.

#![allow(clippy::expect_used, reason = "a test may fail")]

use std::{collections::BTreeSet, time::Duration};

use super::bench::{
    Bench, Road, Traffic,
    story::{Story, delivery, notification, receipt, retry, stories, submitted_at},
};
use anyhow::Result;
use chasqui_contract::{Output, Verdict};
use chasqui_schemas::{
    Channel, Delivery, Reason, Receipt, ReceiptKind, Stage,
    clickhouse::STORED,
    consumer,
    delivery::Address,
    id,
    receipt::Actor,
    stream, subject,
    trace::{self, State, TraceEvent},
};
use chasqui_warehouse::{
    WriterSettings, load,
    read::{reconstruct::Node, waterfall},
    stats,
};
use jiff::{SignedDuration, Timestamp};
use tokio::time::sleep;
use uuid::Uuid;

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_of_clickhouse_loses_and_doubles_nothing() -> Result<()> {
    let bench = Bench::start().await?;
    // Long enough that what was read ahead does not come again on a slow machine.
    bench.prepare_with(Duration::from_secs(4)).await?;
    // Merging would hide what was inserted twice.
    bench.clickhouse.query("SYSTEM STOP MERGES trace_events").execute().await?;
    let road = Road::to(&bench.clickhouse_url, Traffic::Open).await?;
    let writer = bench.writer(&road.url);
    let events = stories(60);
    let (before, after) = events.split_at(7);
    bench.trace(before, 7).await?;
    bench.drained().await?;

    road.set(Traffic::Closed);
    let extensions = bench.extensions().await?;
    bench.trace(after, 7).await?;
    // A third of the deadline apart: after the fourth, the first deadline has passed.
    extensions.of_one_message(4).await?;
    let written = "SELECT count() FROM trace_events";
    assert_eq!(bench.number(written).await?, 7);

    // Now ClickHouse does what is asked, and its answers get lost.
    road.set(Traffic::OneWay);
    let first_batch = async {
        while bench.number(written).await? == 7 {
            sleep(Duration::from_millis(20)).await;
        }
        anyhow::Ok(())
    };
    tokio::time::timeout(super::bench::PATIENCE, first_batch).await??;
    let backlog = chasqui_warehouse::write::writer::backlog(&bench.nats).await?;
    assert_eq!(backlog, after.chunks(7).count() as u64, "nothing may be acknowledged without an answer");

    road.set(Traffic::Open);
    bench.drained().await?;
    writer.stop().await?;
    // Each row once although the first batch was inserted twice: the second time under the same token.
    assert_eq!(bench.number(written).await?, events.len() as u64);
    assert_eq!(bench.number("SELECT uniqExact(notification_id) FROM notifications").await?, 60);
    let states = bench.states().await?;

    // The same on a server without troubles.
    let calm = Bench::ready().await?;
    let writer = calm.writer(&calm.clickhouse_url);
    calm.trace(&events, 7).await?;
    calm.drained().await?;
    writer.stop().await?;
    assert_eq!(calm.states().await?, states);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clickhouse_that_dies_again_and_again_has_everything_in_the_end() -> Result<()> {
    let bench = Bench::ready().await?;
    let writer = bench.writer(&bench.clickhouse_url);
    let events = stories(600);
    for part in events.chunks(events.len() / 4 + 1) {
        bench.trace(part, 3).await?;
        bench.clickhouse_server.crash().await;
    }
    bench.drained().await?;
    writer.stop().await?;
    assert_eq!(bench.number("SELECT count() FROM trace_events FINAL").await?, events.len() as u64);
    let counted = bench.text("SELECT state, count() AS n FROM notifications GROUP BY state ORDER BY state").await?;
    assert_eq!(counted, "state\tn\nexpired\t100\npending\t200\nsent\t200\nsuppressed\t100\n");
    let attempts = "SELECT sum(attempts) FROM deliveries WHERE state = 'sent'";
    assert_eq!(bench.number(attempts).await?, 400);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_writer_that_stops_during_an_outage_gives_everything_back() -> Result<()> {
    let bench = Bench::ready().await?;
    let road = Road::to(&bench.clickhouse_url, Traffic::Closed).await?;
    let writer = bench.writer(&road.url);
    let events = stories(12);
    bench.trace(&events, 5).await?;
    bench.in_work(stream::TRACES, consumer::TRACES).await?;
    writer.stop().await?;
    let writer = bench.writer(&bench.clickhouse_url);
    bench.drained().await?;
    // Cancelled at once: what was gathered is written before the end.
    bench.trace(&events[..1], 1).await?;
    writer.stop().await?;
    assert_eq!(bench.number("SELECT count() FROM trace_events FINAL").await?, events.len() as u64);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_notification_is_reconstructed_with_its_late_receipts() -> Result<()> {
    let bench = Bench::ready().await?;
    let (writer, receipts) = (bench.writer(&bench.clickhouse_url), bench.receipts());
    let at = submitted_at();
    let request_id = id::request("test", at, 1);
    let first = notification(at, request_id, "ada", Some("order-17"));
    let phone = delivery(&first, Address::Phone("+15550001".into()));
    let mailbox = delivery(&first, Address::Mailbox("ada@example.com".into()));
    let mut story = Story::begin(first.clone());
    let until = story.at;
    let message = Box::new(Output::Notification(first.clone()));
    story.stage(Stage::Filter, Verdict::Defer { until, reason: Reason::QuietHours, message });
    let mut story = story.rendered(&[phone.clone(), mailbox.clone()]);
    story.attempt(&phone, 1, retry(&phone));
    story.attempt(&phone, 2, Verdict::Sent);
    story.attempt(&mailbox, 1, Verdict::Sent);

    // Receipts come before the trace, after it, twice, and for a notification that does not exist.
    let receipt = |of: &Delivery, seconds: i64, by: Actor| Receipt {
        at: Some(at + SignedDuration::from_secs(seconds)),
        provider: Some("twilio".into()),
        vendor: Some("twilio".into()),
        ..Receipt::new(of.notification_id, of.id, by)
    };
    let stranger = delivery(&notification(at, request_id, "nobody", None), Address::Phone("+1".into()));
    let publish = async |kind: ReceiptKind, channel: Channel, bytes: Vec<u8>| {
        anyhow::Ok(bench.nats.publish(subject::receipt(kind, channel), bytes.into()).await?.await?)
    };
    let json = |receipt: &Receipt| serde_json::to_vec(receipt).unwrap();
    publish(ReceiptKind::Opened, Channel::Email, json(&receipt(&mailbox, 50, Actor::Human))).await?;
    bench.drained().await?;
    bench.trace(&story.events, 4).await?;
    publish(ReceiptKind::Opened, Channel::Email, b"not a receipt".to_vec()).await?;
    publish(ReceiptKind::Opened, Channel::Email, json(&receipt(&mailbox, 40, Actor::Machine))).await?;
    publish(ReceiptKind::Opened, Channel::Email, json(&receipt(&mailbox, 60, Actor::Human))).await?;
    publish(ReceiptKind::Clicked, Channel::Email, json(&receipt(&mailbox, 61, Actor::Human))).await?;
    publish(ReceiptKind::Delivered, Channel::Sms, json(&receipt(&phone, 30, Actor::Unknown))).await?;
    publish(ReceiptKind::Delivered, Channel::Sms, json(&receipt(&stranger, 30, Actor::Unknown))).await?;
    bench.drained().await?;
    receipts.stop().await?;
    writer.stop().await?;
    assert_eq!(bench.dead_letters().await?, 1);

    let tree = load(&bench.clickhouse, &first.id.to_string()).await?.remove(0);
    assert_eq!((tree.orphans.len(), tree.duplicates.len(), tree.roots.len()), (0, 0, 1), "{tree:#?}");
    assert_eq!(tree.state, State::Delivered.as_str());
    assert_eq!(tree.request_id, request_id);
    let mut steps = Vec::new();
    collect(&tree.roots[0], 0, &mut steps);
    insta::assert_snapshot!(steps.iter().map(|(line, _)| line.as_str()).collect::<Vec<_>>().join("\n"), @"
    notification order ok
    . filter (deferred) deferred quiet_hours
    . enrich ok
    . filter ok
    . dedupe ok
    . render ok
    . . prioritize sms ok
    . . . send sms via twilio #1 retry provider_throttled
    . . . send sms via twilio #2 ok
    . . . delivered sms ok
    . . prioritize email ok
    . . . send email via twilio #1 ok
    . . . opened email ok
    . . . opened email ok
    . . . clicked email ok
    ");
    assert!(waterfall::render(&tree, 140, false).contains("send sms via twilio #2"));

    // Grafana sees the same steps under the same names.
    for (_, node) in &steps {
        let sql = "SELECT toUInt64(count()) FROM otel_traces WHERE TraceId = ? AND SpanId = ? AND SpanName = ?";
        let found: u64 = bench
            .clickhouse
            .query(sql)
            .bind(tree.trace_id.simple().to_string())
            .bind(&node.span_id)
            .bind(&node.name)
            .fetch_one()
            .await?;
        assert_eq!(found, 1, "{node:?}");
    }
    // Found by whatever id one has at hand.
    for id in [first.id.simple().to_string(), phone.id.to_string(), request_id.to_string(), "order-17".to_owned()] {
        let found = load(&bench.clickhouse, &id).await?;
        assert_eq!(found, std::slice::from_ref(&tree), "{id}");
    }
    assert_eq!(load(&bench.clickhouse, "unheard-of").await?, []);

    let milestones = bench
        .text(&format!(
            "SELECT channel, state, dateDiff('second', submitted_at, opened_at) AS opened,
                dateDiff('second', submitted_at, opened_human_at) AS human,
                dateDiff('second', submitted_at, clicked_human_at) AS clicked,
                dateDiff('second', submitted_at, delivered_at) AS delivered, attempts, stage
             FROM deliveries WHERE notification_id = toUUID('{}') ORDER BY channel",
            first.id
        ))
        .await?;
    insta::assert_snapshot!(milestones.replace('\t', " "), @r"
    channel state opened human clicked delivered attempts stage
    email sent 40 50 61 \N 1 send
    sms delivered \N \N \N 30 2 send
    ");

    // A receipt alone makes nothing: the stranger is not counted.
    let since = at;
    let accounted = stats::accounted(&bench.clickhouse, since).await?;
    assert_eq!((accounted.notifications, accounted.terminal, accounted.rejected_requests), (1, 1, 0));
    let rates = stats::rates(&bench.clickhouse, since, stats::Dimension::Channel, stats::MAX_ROWS).await?;
    let numbers: Vec<_> =
        rates.iter().map(|r| (r.key.as_str(), r.deliveries, r.sent, r.delivered, r.opened, r.opened_human)).collect();
    assert_eq!(numbers, [("email", 1, 1, 0, 1, 1), ("sms", 1, 1, 1, 0, 0)]);
    assert!(rates.iter().all(|rate| rate.sent_p50_ms > 0.0));
    for by in stats::Dimension::ALL {
        let rates = stats::rates(&bench.clickhouse, since, by, stats::MAX_ROWS).await?;
        assert_eq!(rates.iter().map(|rate| rate.deliveries).sum::<u64>(), 2, "{by:?}");
        let expected = match by {
            stats::Dimension::App => "shop",
            stats::Dimension::Category => "order",
            stats::Dimension::Template => "welcome",
            stats::Dimension::Variant => "b",
            stats::Dimension::Locale => "ko",
            stats::Dimension::Channel => "email",
            stats::Dimension::Provider | stats::Dimension::Vendor => "twilio",
            stats::Dimension::Lane => "high",
            stats::Dimension::State => "delivered",
            stats::Dimension::Hour => &at.strftime("%Y-%m-%dT%H:00Z").to_string(),
        };
        assert_eq!(rates[0].key, expected, "{by:?}");
    }
    Ok(())
}

fn collect<'a>(node: &'a Node, depth: usize, steps: &mut Vec<(String, &'a Node)>) {
    steps.push((format!("{}{} {} {}", ". ".repeat(depth), node.name, node.status, node.reason).trim().into(), node));
    for child in &node.children {
        collect(child, depth + 1, steps);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_decode_is_a_dead_letter_and_blocks_nobody() -> Result<()> {
    let bench = Bench::ready().await?;
    let writer = bench.writer(&bench.clickhouse_url);
    let events = stories(6);
    bench.nats.publish(subject::TRACES, "noise".into()).await?.await?;
    bench.trace(&events, 5).await?;
    bench.drained().await?;
    writer.stop().await?;
    assert_eq!(bench.number("SELECT count() FROM trace_events").await?, events.len() as u64);
    let dead = bench.nats.get_stream(stream::DEAD).await?.get_last_raw_message_by_subject(subject::DEAD_TRACE).await?;
    assert_eq!(dead.payload.as_ref(), b"noise");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_clickhouse_refuses_is_a_dead_letter_and_all_others_are_written() -> Result<()> {
    let bench = Bench::ready().await?;
    bench.clickhouse.query("ALTER TABLE trace_events ADD CONSTRAINT fit CHECK app != 'evil'").execute().await?;
    let mut events = stories(12);
    let (first, last) = (3, events.len() - 2);
    for bad in [first, last] {
        events[bad].app = "evil".into();
    }
    let writer = bench.writer(&bench.clickhouse_url);
    for _again in 0..2 {
        bench.trace(&events, 7).await?;
        bench.drained().await?;
    }
    writer.stop().await?;
    let identity = |event: &TraceEvent| (event.trace_id, event.span_id);
    let steps: BTreeSet<_> = events.iter().map(identity).collect();
    assert_eq!(bench.number("SELECT count() FROM trace_events FINAL").await?, steps.len() as u64 - 2);
    let mut dead = bench.nats.get_stream(stream::DEAD).await?;
    let mut refused = BTreeSet::new();
    for sequence in 1..=dead.info().await?.state.last_sequence {
        let letter = trace::decode(&dead.get_raw_message(sequence).await?.payload)?;
        assert_eq!(letter.len(), 1, "the row alone");
        refused.insert(identity(&letter[0]));
    }
    assert_eq!(refused, BTreeSet::from([identity(&events[first]), identity(&events[last])]));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_row_of_a_message_that_was_cut_off_holds_up_nothing() -> Result<()> {
    let bench = Bench::ready().await?;
    bench.clickhouse.query("ALTER TABLE trace_events ADD CONSTRAINT fit CHECK app != 'evil'").execute().await?;
    let mut events = stories(2);
    events[0].app = "evil".into();
    let mut cut_off = trace::encode(&events[..2]);
    cut_off.pop();
    let writer = bench.writer(&bench.clickhouse_url);
    bench.nats.publish(subject::TRACES, cut_off.clone().into()).await?.await?;
    bench.trace(&events[1..], 7).await?;
    bench.drained().await?;
    writer.stop().await?;
    assert_eq!(bench.number("SELECT count() FROM trace_events FINAL").await?, events.len() as u64 - 1);
    let dead = bench.nats.get_stream(stream::DEAD).await?;
    assert_eq!(dead.cached_info().state.messages, 1, "the message as a whole, and no row of it apart");
    assert_eq!(dead.get_raw_message(1).await?.payload, cut_off);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_of_more_days_than_an_insert_may_have_are_written() -> Result<()> {
    const DAYS: u64 = 230;
    let bench = Bench::ready().await?;
    // From today on, because what is older than it is kept would be gone.
    let day = |n: u64| submitted_at() + SignedDuration::from_hours(24 * n as i64);
    let event = |n: u64| {
        let trace_id = id::notification(day(n), Uuid::from_u128(n.into()), "ada");
        let delivery_id = Uuid::from_u128(n.into());
        TraceEvent { trace_id, notification_id: trace_id, delivery_id, span_id: n, ..TraceEvent::default() }
    };
    let events: Vec<_> = (1..=DAYS).map(event).collect();
    let writer =
        bench.writer_with(WriterSettings { max_wait: Duration::from_millis(500), ..WriterSettings::default() });
    bench.trace(&events, DAYS as usize).await?;
    bench.drained().await?;
    writer.stop().await?;
    for table in STORED {
        let days = format!("SELECT uniqExact(toDate(submitted_at)) FROM {table}");
        assert_eq!(bench.number(&days).await?, DAYS, "{table}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_ends_of_one_message_one_counts_and_the_trace_has_both() -> Result<()> {
    let bench = Bench::ready().await?;
    let (at, request_id) = (submitted_at(), id::request("two-ends", submitted_at(), 1));
    let mut events = Vec::new();
    for channel in [Address::Phone("+15551234567".into()), Address::Mailbox("ada@example.com".into())] {
        let of = notification(at, request_id, channel.text(), None);
        let way = delivery(&of, channel);
        let mut story = Story::begin(of).rendered(std::slice::from_ref(&way));
        story.attempt(&way, 1, Verdict::Sent);
        events.extend(story.events);
        let seconds = |seconds| at + SignedDuration::from_secs(seconds);
        events.push(receipt(&way, ReceiptKind::Delivered, seconds(60), Actor::Unknown)?);
        events.push(receipt(&way, ReceiptKind::Failed, seconds(90), Actor::Unknown)?);
    }
    let writer = bench.writer(&bench.clickhouse_url);
    bench.trace(&events, 5).await?;
    bench.drained().await?;
    writer.stop().await?;
    for (sql, expected) in [
        ("SELECT sum(sent) FROM delivery_stats", 2),
        ("SELECT sum(delivered) FROM delivery_stats", 0),
        ("SELECT sum(bounced) FROM delivery_stats", 2),
        ("SELECT count(delivered_at) + count(delivered_after_ms) FROM deliveries", 0),
        ("SELECT count(delivered_at) FROM notifications", 0),
        ("SELECT count() FROM notifications WHERE state = 'bounced' AND sent_at IS NOT NULL", 2),
        ("SELECT count() FROM trace_events FINAL WHERE event IN ('delivered', 'failed')", 4),
    ] {
        assert_eq!(bench.number(sql).await?, expected, "{sql}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn outcomes_and_dead_letters_are_counted_once() -> Result<()> {
    let bench = Bench::ready().await?;
    let writer = bench.writer(&bench.clickhouse_url);
    let events = stories(12);
    let mut rejected = events[0].clone();
    rejected.trace_id = id::request_trace(submitted_at(), Uuid::from_u128(1));
    rejected.notification_id = Uuid::nil();
    rejected.event = "request".into();
    (rejected.status, rejected.state) = ("rejected".into(), "rejected".into());
    for _ in 0..2 {
        bench.trace(&events, 4).await?;
        bench.trace(std::slice::from_ref(&rejected), 1).await?;
    }
    bench.drained().await?;
    writer.stop().await?;
    let since = Timestamp::UNIX_EPOCH;
    let accounted = stats::accounted(&bench.clickhouse, since).await?;
    assert_eq!((accounted.notifications, accounted.pending(), accounted.rejected_requests), (12, 4, 1));
    let outcomes = stats::outcomes(&bench.clickhouse, since).await?;
    let of = |state: &str, reason: &str| {
        outcomes.iter().find(|o| o.state == state && o.reason == reason).map_or(0, |o| o.notifications)
    };
    assert_eq!(of("suppressed", "unknown_user"), 2);
    // Half of these had a second delivery that bounced: what was sent outweighs it.
    assert_eq!(of("bounced", "dead_endpoint"), 0);
    let bounced = "SELECT count() FROM deliveries WHERE state = 'bounced' AND reason = 'dead_endpoint'";
    assert_eq!(bench.number(bounced).await?, 2);
    assert_eq!(of("pending", "provider_throttled"), 2);
    assert_eq!(of("sent", ""), 4);
    assert_eq!(outcomes.iter().map(|o| o.notifications).sum::<u64>(), 12);
    assert_eq!(bench.number("SELECT count() FROM dead_letters WHERE detail = 'no answer'").await?, 2);
    Ok(())
}
