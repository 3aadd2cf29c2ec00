//! The schema on a real ClickHouse: how it comes to be, on one server and as a cluster's, and that states and rates are
//! exact whatever is written twice, late, or in other batches.

#![allow(clippy::expect_used, reason = "a test may fail")]

use std::time::Duration;

use super::bench::{
    Bench,
    story::{Story, delivery, notification, receipt, stories, submitted_at},
};
use anyhow::{Context as _, Result};
use chasqui_contract::Verdict;
use chasqui_schemas::{
    ReceiptKind,
    clickhouse::{MIGRATIONS, STORED},
    delivery::Address,
    id,
    receipt::Actor,
    trace::TraceEvent,
};
use chasqui_testing::servers::{TESTER, TESTERS_PASSWORD};
use chasqui_warehouse::{
    MigrateSettings, WarehouseError, WriterSettings,
    schema::migrate::{self, migrate},
    stats,
};
use jiff::SignedDuration;
use uuid::Uuid;

#[tokio::test(flavor = "multi_thread")]
async fn migrations_run_twice_and_at_once_and_refuse_a_newer_schema() -> Result<()> {
    let bench = Bench::start().await?;
    let settings = MigrateSettings::default();
    let at_once = (0..4).map(|_| migrate(&bench.clickhouse, &settings));
    for done in futures::future::join_all(at_once).await {
        assert_eq!(done?, MIGRATIONS.len() as u32);
    }
    assert_eq!(migrate(&bench.clickhouse, &settings).await?, MIGRATIONS.len() as u32);
    assert_eq!(bench.number("SELECT count() FROM schema_migrations FINAL").await?, MIGRATIONS.len() as u64);

    let retained = |days: u32| {
        format!(
            "SELECT count() FROM system.tables WHERE database = 'chasqui' AND engine_full LIKE '%toIntervalDay({days}) %'"
        )
    };
    assert_eq!(bench.number(&retained(90)).await?, 3);
    let settings = MigrateSettings { retention_days: 7.try_into()?, insert_window: 77.try_into()?, ..settings };
    migrate(&bench.clickhouse, &settings).await?;
    assert_eq!(bench.number(&retained(7)).await?, 3);
    let remembering = "SELECT count() FROM system.tables WHERE database = 'chasqui'
        AND engine_full LIKE '% non_replicated_deduplication_window = 77,%'";
    assert_eq!(bench.number(remembering).await?, 3);

    let on_disk = "SELECT count() FROM system.tables WHERE database = 'chasqui'
        AND engine_full LIKE '% fsync_after_insert = 1%'";
    assert_eq!(bench.number(on_disk).await?, 3);

    let odd = "SELECT count() FROM system.columns WHERE database = 'chasqui' AND type LIKE '%LowCardinality%'
        AND type LIKE 'SimpleAggregateFunction%' AND table NOT LIKE '%_states'";
    assert_eq!(bench.number(odd).await?, 0);

    let undocumented = bench
        .text(
            "SELECT concat(table, '.', name) FROM system.columns WHERE database = 'chasqui' AND comment = ''
             UNION ALL SELECT name FROM system.tables WHERE database = 'chasqui' AND comment = ''",
        )
        .await?;
    assert_eq!(undocumented.lines().skip(1).collect::<Vec<_>>(), Vec::<&str>::new());

    bench.clickhouse.query("INSERT INTO schema_migrations (version, name) VALUES (99, 'later')").execute().await?;
    let refused = migrate(&bench.clickhouse, &settings).await;
    let known = MIGRATIONS.len() as u32;
    assert!(matches!(refused, Err(WarehouseError::NewerSchema { found: 99, known: k }) if k == known), "{refused:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_in_other_batches_changes_no_state() -> Result<()> {
    let bench = Bench::ready().await?;
    let writer = bench.writer(&bench.clickhouse_url);
    let events = stories(60);
    bench.trace(&events, 7).await?;
    bench.drained().await?;
    let before = bench.states().await?;
    let counted = bench.text("SELECT state, count() AS n FROM notifications GROUP BY state ORDER BY state").await?;
    assert_eq!(counted, "state\tn\nexpired\t10\npending\t20\nsent\t20\nsuppressed\t10\n");
    let attempts = "SELECT sum(attempts) FROM deliveries WHERE state = 'sent' AND reason = '' AND provider = 'twilio' AND lane = 'high'";
    assert_eq!(bench.number(attempts).await?, 40);

    // Parts of it once more, in other messages and other batches; and the whole backwards.
    let backwards: Vec<TraceEvent> = events.iter().rev().cloned().collect();
    let half = &events[events.len() / 3..events.len() * 5 / 6];
    let every_third: Vec<TraceEvent> = events.iter().step_by(3).cloned().collect();
    for (part, size) in [(half, 3), (&backwards[..], 11), (&every_third[..], 1), (&events[..20], 20)] {
        bench.trace(part, size).await?;
        bench.drained().await?;
        assert_eq!(bench.states().await?, before);
    }
    assert_eq!(bench.number("SELECT count() FROM trace_events FINAL").await?, events.len() as u64);

    // And after ClickHouse has merged everything. The writer is stopped before: on a slow machine it may be handed a
    // message again whose deadline passed, and write it again after the merge, which is its right.
    writer.stop().await?;
    for table in STORED {
        bench.merge(table).await?;
    }
    assert_eq!(bench.states().await?, before);
    assert_eq!(bench.number("SELECT count() FROM trace_events").await?, events.len() as u64);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_done_again_is_the_later_one_in_whatever_order_they_come() -> Result<()> {
    let bench = Bench::ready().await?;
    let writer = bench.writer(&bench.clickhouse_url);
    let first = stories(3);
    let mut again = first.clone();
    for event in &mut again {
        event.started_at += 1_000_000_000;
        event.duration_ns += 1;
    }
    let rows = "SELECT * FROM trace_events FINAL ORDER BY trace_id, span_id";
    let mut seen = Vec::new();
    // Then both in one message, in both orders.
    let (both, turned) = ([&first[..], &again[..]].concat(), [&again[..], &first[..]].concat());
    for part in [&first, &again, &first, &both, &turned] {
        bench.trace(part, 1_000).await?;
        bench.drained().await?;
        seen.push((bench.text(rows).await?, bench.states().await?));
    }
    assert_ne!(seen[0].0, seen[1].0);
    assert!(seen[1..].iter().all(|each| *each == seen[1]));
    writer.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_two_days_later_reaches_the_rates() -> Result<()> {
    let bench = Bench::ready().await?;
    let writer = bench.writer(&bench.clickhouse_url);
    let at = submitted_at() - SignedDuration::from_hours(48);
    let sent = notification(at, id::request("test", at, 1), "ada", None);
    let mail = delivery(&sent, Address::Mailbox("ada@example.com".into()));
    let mut story = Story::begin(sent).rendered(std::slice::from_ref(&mail));
    story.attempt(&mail, 1, Verdict::Sent);
    bench.trace(&story.events, 100).await?;
    bench.drained().await?;
    // Merged, and forgotten by every writer.
    for table in STORED {
        bench.merge(table).await?;
    }
    let opened = "SELECT sum(opened) FROM delivery_stats WHERE sent = 1";
    assert_eq!(bench.number(opened).await?, 0);
    let late = receipt(&mail, ReceiptKind::Opened, at + SignedDuration::from_hours(47), Actor::Human)?;
    bench.trace(&[late.clone(), late], 1).await?;
    bench.drained().await?;
    writer.stop().await?;
    assert_eq!(bench.number(opened).await?, 1);
    let rates = stats::rates(&bench.clickhouse, at, stats::Dimension::Channel, stats::MAX_ROWS).await?;
    assert_eq!((rates[0].deliveries, rates[0].opened, rates[0].opened_human), (1, 1, 1));
    let after = "SELECT toUInt64(assumeNotNull(opened_human_after_ms)) FROM deliveries";
    assert_eq!(bench.number(after).await?, 47 * 3_600_000);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_arrive_as_they_were_whatever_is_in_them() -> Result<()> {
    let bench = Bench::ready().await?;
    let writer = bench.writer_with(WriterSettings { max_rows: 200_000, ..WriterSettings::default() });
    // More different words than fit two bytes, of any kind and length; and attributes of any number.
    let id = id::request_trace(submitted_at(), Uuid::nil());
    let events: Vec<TraceEvent> = (0..70_000u64)
        .map(|n| TraceEvent {
            trace_id: id,
            span_id: n + 1,
            parent_span_id: u64::MAX - n,
            request_id: Uuid::from_u64_pair(7, n),
            reason: format!("reason-{n}").into(),
            locale: if n % 300 == 0 { "Ñ".repeat(n as usize / 300).into() } else { "".into() },
            attempt: n as u32,
            queued_ns: n << 20,
            started_at: -5 + n as i64,
            duration_ns: u64::MAX - n,
            attributes: (0..n % 4).map(|k| (format!("k{k}").into(), format!("\0'{n}").into())).collect(),
            ..TraceEvent::default()
        })
        .collect();
    bench.trace(&events, 5_000).await?;
    bench.drained().await?;
    writer.stop().await?;
    let right = format!(
        "SELECT countIf(trace_id = '{}' AND span_id = n + 1 AND parent_span_id = bitNot(n)
            AND request_id = toUUID(concat('00000000-0000-0007-0000-', leftPad(hex(n), 12, '0')))
            AND reason = concat('reason-', toString(n)) AND lengthUTF8(locale) = if(n % 300 = 0, intDiv(n, 300), 0)
            AND queued_ns = n * 1048576 AND toUnixTimestamp64Nano(started_at) = n - 5
            AND duration_ns = bitNot(n) AND length(attributes) = n % 4
            AND arrayAll(k -> attributes[concat('k', toString(k))] = concat(char(0), '\\'', toString(n)), range(n % 4))
            AND notification_id = toUUID('00000000-0000-0000-0000-000000000000'))
         FROM (SELECT *, notification_id, toUInt64(attempt) AS n FROM trace_events FINAL)",
        id.simple()
    );
    assert_eq!(bench.number(&right).await?, 70_000);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_gives_the_same_answers() -> Result<()> {
    let (one, two) = (Bench::start_unconfined().await?, Bench::start_unconfined().await?);
    let settings = MigrateSettings { cluster: Some("shards".into()), ..MigrateSettings::default() };
    let statements = migrate::statements(&settings);
    // ClickHouse as a library has neither Keeper nor DDL for clusters. So: it must be able to read the statements as
    // they are; and of their tables, made without replicas on two servers by hand, everything must work.
    let mut ports = Vec::new();
    for server in [&one, &two] {
        let port: u16 = server
            .clickhouse
            .clone()
            .with_database("system")
            .query("SELECT getServerPort('tcp_port')")
            .fetch_one()
            .await?;
        ports.push(format!("127.0.0.1:{port}"));
    }
    for statement in &statements {
        let read = "SELECT formatQuerySingleLine(?)";
        let client = one.clickhouse.clone().with_database("system");
        let read: String = client.query(read).bind(statement).fetch_one().await.with_context(|| statement.clone())?;
        assert!(read.contains("ON CLUSTER shards"), "{read}");
        assert!(!read.contains("MergeTree") || read.contains("ENGINE = Replicated"), "{read}");
        let alone = statement
            .replace(" ON CLUSTER 'shards'", "")
            .replace(
                "ReplicatedReplacingMergeTree('/clickhouse/tables/{database}/{table}', '{shard}-{replica}')",
                "ReplacingMergeTree",
            )
            .replace("ENGINE = Replicated", "ENGINE = ")
            .replace(" replicated_deduplication_window", " non_replicated_deduplication_window");
        let alone = match alone.split_once(" ENGINE = Distributed('shards', 'chasqui', ") {
            Some((create, rest)) => {
                let (local, key) = rest.split_once(", ").context("no key")?;
                let create = create.split(" AS ").next().context("no table")?;
                let key = key.strip_suffix(')').context("no end")?;
                let password = TESTERS_PASSWORD.as_str();
                format!(
                    "{create} AS remote('{}', 'chasqui', {local}, '{TESTER}', '{password}', {key})",
                    ports.join(",")
                )
            }
            None => alone,
        };
        for server in [&one, &two] {
            let database = if alone.starts_with("CREATE DATABASE") { "system" } else { "chasqui" };
            let client = server.clickhouse.clone().with_database(database);
            client.query_raw(&alone).execute().await.with_context(|| alone.clone())?;
        }
    }
    one.prepare_streams(Duration::from_secs(5)).await?;
    let events = stories(60);
    let writer = one.writer(&one.clickhouse_url);
    one.trace(&events, 7).await?;
    one.trace(&events[50..], 13).await?;
    one.drained().await?;
    writer.stop().await?;
    for server in [&one, &two] {
        let here = server.number("SELECT count() FROM delivery_states_local FINAL").await?;
        assert!((10..60).contains(&here), "{here} of 60 deliveries are on one shard");
    }
    let by_hand = (one.states().await?, one.text("SELECT * FROM trace_events FINAL ORDER BY trace_id, span_id").await?);
    let found = chasqui_warehouse::load(&two.clickhouse, &events[0].trace_id.to_string()).await?;
    assert_eq!(found.len(), 1);

    let single = Bench::ready().await?;
    let writer = single.writer(&single.clickhouse_url);
    single.trace(&events, 7).await?;
    single.drained().await?;
    writer.stop().await?;
    let expected = single.text("SELECT * FROM trace_events FINAL ORDER BY trace_id, span_id").await?;
    assert_eq!(by_hand, (single.states().await?, expected));
    Ok(())
}
