//! The queries of `dashboards/queries/` on a real ClickHouse, as the users of `compose.yaml` and with the rights that these
//! have: what Chasqui's user writes, Grafana's and the analysts' users can read. What Grafana asks is tried in
//! `pipeline/tools/testing/tests/servers/dashboards.rs`.

#![allow(clippy::expect_used, reason = "a test may fail")]

use std::path::{Path, PathBuf};

use super::bench::{
    Bench,
    story::{Story, delivery, notification, receipt, stories, submitted_at},
};
use anyhow::{Context as _, Result, ensure};
use chasqui_contract::Verdict;
use chasqui_schemas::{
    Delivery, Notification, ReceiptKind, delivery::Address, id, notification::Recipient, receipt::Actor,
    trace::TraceEvent,
};
use chasqui_testing::{compose, pages};
use clickhouse::Client;
use jiff::SignedDuration;
use serde_json::Value;

/// What ClickHouse answered.
struct Answer {
    columns: Vec<String>,
    rows: Vec<Vec<Value>>,
}

#[tokio::test(flavor = "multi_thread")]
async fn every_query_runs_as_the_analysts_user() -> Result<()> {
    let bench = start().await?;
    let queries = queries()?;
    assert!(queries.len() > 5);
    // Before there is anything, and after.
    for filled in [false, true] {
        if filled {
            fill(&bench, &stories(24)).await?;
        }
        for (name, sql) in &queries {
            let answer = ask(&analyst(&bench), sql).await.with_context(|| name.clone())?;
            assert!(!filled || !answer.rows.is_empty(), "{name} finds nothing");
        }
    }
    for page in pages::all()? {
        for sql in page.blocks("sql") {
            ask(&analyst(&bench), &sql).await.with_context(|| format!("{}: {sql}", page.path.display()))?;
        }
    }
    Ok(())
}

/// Mailings in two variants, and the receipts that came: of every five of `a`, one was opened; of every twenty of `b`,
/// seven, and one was clicked.
fn mailings(each: usize) -> Result<Vec<TraceEvent>> {
    let at = submitted_at();
    let mut events = Vec::new();
    for i in 0..2 * each {
        let variant = if i < each { "a" } else { "b" };
        let user = format!("reader-{}", i % 50);
        let wanted = notification(at, id::request("test", at, 1_000 + i as u64), &format!("{user}-{i}"), None);
        let wanted = Notification { recipient: Recipient::User(user), ..wanted };
        let mail = delivery(&wanted, Address::Mailbox(format!("{i}@example.com")));
        let mail = Delivery { variant: variant.into(), template: "mailing".into(), provider: "smtp".into(), ..mail };
        let mut story = Story::begin(wanted.clone()).rendered(std::slice::from_ref(&mail));
        story.attempt(&mail, 1, Verdict::Sent);
        events.extend(story.events);
        let hits: &[ReceiptKind] = match (variant, i % 20) {
            ("a", n) if n % 5 == 0 => &[ReceiptKind::Opened],
            ("b", 0) => &[ReceiptKind::Opened, ReceiptKind::Clicked],
            ("b", 1..7) => &[ReceiptKind::Opened],
            _ => &[],
        };
        for &kind in [ReceiptKind::Delivered].iter().chain(hits) {
            events.push(receipt(&mail, kind, at + SignedDuration::from_secs(100), Actor::Human)?);
        }
    }
    Ok(events)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_analysts_queries_answer_what_happened() -> Result<()> {
    let bench = start().await?;
    fill(&bench, &mailings(100)?).await?;
    let queries = queries()?;
    let answer = async |name: &str| {
        let (_, sql) = queries.iter().find(|(file, _)| file == name).with_context(|| name.to_owned())?;
        ask(&analyst(&bench), sql).await
    };
    let row = |answer: &Answer, columns: &[&str], values: &[&str]| -> Result<Vec<Value>> {
        let places: Vec<usize> = columns.iter().map(|column| answer.position(column)).collect::<Result<_>>()?;
        let is = |row: &&Vec<Value>| places.iter().zip(values).all(|(&place, value)| row[place] == *value);
        answer.rows.iter().find(is).cloned().with_context(|| format!("{values:?} in {:?}", answer.rows))
    };
    let number = |answer: &Answer, row: &[Value], column: &str| -> Result<f64> {
        let value = &row[answer.position(column)?];
        // 64 bits are a text in JSON.
        value.as_f64().or_else(|| value.as_str()?.parse().ok()).with_context(|| format!("{column}: {value}"))
    };

    let variants = answer("variants.sql").await?;
    let opened = row(&variants, &["metric", "variant"], &["opened by people", "b"])?;
    for (column, expected) in
        [("rate", 0.35), ("at_least", 0.2636), ("at_most", 0.4475), ("z_score", 2.375), ("p_value", 0.0175)]
    {
        assert_eq!(number(&variants, &opened, column)?, expected, "{column}");
    }
    let control = row(&variants, &["metric", "variant"], &["opened by people", "a"])?;
    for (column, expected) in [("rate", 0.2), ("at_least", 0.1334), ("at_most", 0.2888), ("p_value", 1.0)] {
        assert_eq!(number(&variants, &control, column)?, expected, "{column}");
    }

    let funnel = answer("funnel.sql").await?;
    for (step, expected) in [
        ("1 submitted", 200.0),
        ("2 rendered", 200.0),
        ("3 sent", 200.0),
        ("4 delivered", 200.0),
        ("5 opened", 55.0),
        ("6 clicked", 5.0),
    ] {
        let found = row(&funnel, &["step"], &[step])?;
        assert_eq!(number(&funnel, &found, "notifications")?, expected, "{step}");
    }

    let rates = answer("rates_by_dimension.sql").await?;
    for (dimension, value, deliveries, open_rate) in
        [("variant", "a", 100.0, 0.2), ("variant", "b", 100.0, 0.35), ("template", "mailing", 200.0, 0.275)]
    {
        let found = row(&rates, &["dimension", "value"], &[dimension, value])?;
        assert_eq!(number(&rates, &found, "deliveries")?, deliveries, "{value}");
        assert_eq!(number(&rates, &found, "open_rate_human")?, open_rate, "{value}");
        assert_eq!(number(&rates, &found, "delivery_rate")?, 1.0, "{value}");
    }
    let hours = answer("rates_by_hour.sql").await?;
    assert_eq!(number(&hours, &hours.rows[0], "sent")?, 200.0);
    let users = answer("users.sql").await?;
    assert_eq!(users.rows.len(), 50);
    assert_eq!(number(&users, &users.rows[0], "deliveries_sent")?, 4.0);
    let days = answer("within_10_s.sql").await?;
    assert_eq!(number(&days, &days.rows[0], "share")?, 1.0);
    let opening = answer("time_to_open.sql").await?;
    assert_eq!(number(&opening, &opening.rows[0], "opened_human_p95")?, 100.0);
    let providers = answer("providers.sql").await?;
    assert_eq!(number(&providers, &row(&providers, &["provider"], &["smtp"])?, "attempts_each")?, 1.0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_can_only_read() -> Result<()> {
    let bench = start().await?;
    let refused = async |client: Client, sql: &str| {
        let answer = client.query(sql).execute().await.err().map(|error| error.to_string());
        let answer = answer.with_context(|| format!("allowed: {sql}"))?;
        ensure!(answer.contains("ACCESS_DENIED") || answer.contains("READONLY"), "{sql}: {answer}");
        Ok(())
    };
    for reader in [analyst(&bench), grafana(&bench)] {
        refused(reader.clone(), "INSERT INTO trace_events (trace_id) VALUES ('x')").await?;
        refused(reader.clone(), "DROP TABLE trace_events").await?;
        refused(reader, "CREATE DATABASE other").await?;
    }
    refused(user(&bench, "chasqui", "w"), "CREATE DATABASE other").await?;
    let slow = grafana(&bench).with_setting("max_threads", "1");
    refused(slow, "SELECT 1").await?;
    analyst(&bench).with_setting("max_threads", "1").query("SELECT 1").execute().await?;
    let greedy = analyst(&bench).with_setting("max_memory_usage", "0").query("SELECT 1").execute().await;
    ensure!(greedy.is_err_and(|error| error.to_string().contains("SETTING_CONSTRAINT_VIOLATION")));
    ensure!(user(&bench, "grafana", "wrong").query("SELECT 1").execute().await.is_err());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_statements_that_make_readers_can_be_read() -> Result<()> {
    // ClickHouse as a library has no place to keep users; what compose.yaml has of them is tried above.
    let bench = Bench::start().await?;
    let sql = std::fs::read_to_string(folder().join("users.sql"))?;
    let code: Vec<&str> = sql.lines().filter(|line| !line.starts_with("--")).collect();
    let code = code.join("\n");
    let statements: Vec<&str> = code.split(';').map(str::trim).filter(|statement| !statement.is_empty()).collect();
    assert_eq!(statements.len(), 8);
    for statement in statements {
        let query = bench.clickhouse.clone().with_database("system").query("SELECT formatQuery(?)").bind(statement);
        query.fetch_one::<String>().await.with_context(|| statement.to_owned())?;
    }
    Ok(())
}

/// ClickHouse with the users of `compose.yaml`, streams, and tables made by Chasqui's user.
async fn start() -> Result<Bench> {
    let passwords = ["WRITER_PASSWORD=w", "ANALYST_PASSWORD=a", "GRAFANA_PASSWORD=g"];
    let mut bench = Bench::start_with_users(&compose::users()?, &passwords).await?;
    bench.clickhouse = user(&bench, "chasqui", "w");
    bench.prepare().await?;
    Ok(bench)
}

fn user(bench: &Bench, name: &str, password: &str) -> Client {
    bench.clickhouse.clone().with_user(name).with_password(password)
}

fn analyst(bench: &Bench) -> Client {
    user(bench, "analyst", "a")
}

/// As Grafana's plugin asks: with its time limit.
fn grafana(bench: &Bench) -> Client {
    user(bench, "grafana", "g").with_setting("max_execution_time", "60")
}

async fn fill(bench: &Bench, events: &[TraceEvent]) -> Result<()> {
    let writer = bench.writer(&bench.clickhouse_url);
    bench.trace(events, 50).await?;
    bench.drained().await?;
    writer.stop().await
}

async fn ask(client: &Client, sql: &str) -> Result<Answer> {
    let sql = sql.trim().trim_end_matches(';');
    // Question marks would be parameters to the client.
    let bytes = client.query(&sql.replace('?', "??")).fetch_bytes("JSONCompact")?.collect().await?;
    let answer: Value = serde_json::from_slice(&bytes)?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let meta = answer["meta"].as_array().context("meta")?;
    let columns = meta.iter().map(|column| text(&column["name"])).collect();
    Ok(Answer { columns, rows: serde_json::from_value(answer["data"].clone())? })
}

impl Answer {
    fn position(&self, column: &str) -> Result<usize> {
        self.columns.iter().position(|name| name == column).with_context(|| format!("no column {column}"))
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn folder() -> PathBuf {
    root().join("dashboards")
}

/// What analysts start from, by file. Each begins with the question it answers.
fn queries() -> Result<Vec<(String, String)>> {
    let mut queries = Vec::new();
    for entry in std::fs::read_dir(folder().join("queries"))? {
        let path = entry?.path();
        let name = path.file_name().context("name")?.to_string_lossy().into_owned();
        let sql = std::fs::read_to_string(&path)?;
        let first = sql.lines().next().unwrap_or_default();
        ensure!(first.starts_with("-- ") && first.ends_with('?'), "{name} does not say what it answers");
        queries.push((name, sql));
    }
    Ok(queries)
}
