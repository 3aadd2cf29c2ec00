//! Every query of `dashboards/` on a real ClickHouse, as the users of `compose.yaml` and with the rights that these
//! have: what Chasqui's user writes, Grafana's and the analysts' users can read.

#![allow(clippy::expect_used, reason = "a test may fail")]

mod bench;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use bench::{
    Bench,
    story::{Story, delivery, notification, receipt, retry, stories, submitted_at},
};
use chasqui_contract::Verdict;
use chasqui_schemas::{
    Delivery, Notification, Reason, ReceiptKind, Stage, delivery::Address, id, notification::Recipient, receipt::Actor,
    trace::TraceEvent,
};
use clickhouse::Client;
use jiff::SignedDuration;
use serde_json::Value;

/// What ClickHouse answered.
struct Answer {
    columns: Vec<(String, String)>,
    rows: Vec<Vec<Value>>,
}

#[tokio::test(flavor = "multi_thread")]
async fn every_query_runs_as_the_user_who_asks_it() -> Result<()> {
    let bench = start().await?;
    let panels = panels()?;
    let queries = queries()?;
    assert!(panels.len() > 10 && queries.len() > 5);
    // Before there is anything, and after; all apps, and one that there is not.
    for filled in [false, true] {
        if filled {
            fill(&bench, &stories(24)).await?;
        }
        for (name, sql) in &queries {
            let answer = ask(&analyst(&bench), sql).await.with_context(|| name.clone())?;
            assert!(!filled || !answer.rows.is_empty(), "{name} finds nothing");
        }
        for (name, sql) in &panels {
            for (app, id) in [("*", "user-2"), ("nobody", "")] {
                let sql = expand(sql, &[("app", app), ("channel", "*"), ("id", id), ("trace_id", "")])?;
                ask(&grafana(&bench), &sql).await.with_context(|| format!("{name}\n{sql}"))?;
            }
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_panel_of_the_overview_shows_what_happened() -> Result<()> {
    let bench = start().await?;
    fill(&bench, &stories(24)).await?;
    for (name, sql) in panels()?.iter().filter(|(name, _)| name.starts_with("overview.json")) {
        let sql = expand(sql, &[("app", "shop"), ("channel", "*")])?;
        let answer = ask(&grafana(&bench), &sql).await.with_context(|| name.clone())?;
        // Rates of what was never sent are null; but not everywhere.
        let full = answer.rows.iter().any(|row| !row.contains(&Value::Null));
        assert!(full, "{name} shows nothing: {:?}", answer.rows);
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
        let wanted = notification(at, id::request(at, 1_000 + i as u64), &format!("{user}-{i}"), None);
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
    let opened = row(&variants, &["metric", "variant"], &["opened", "b"])?;
    for (column, expected) in
        [("rate", 0.35), ("at_least", 0.2636), ("at_most", 0.4475), ("z_score", 2.375), ("p_value", 0.0175)]
    {
        assert_eq!(number(&variants, &opened, column)?, expected, "{column}");
    }
    let control = row(&variants, &["metric", "variant"], &["opened", "a"])?;
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
    assert_eq!(number(&opening, &opening.rows[0], "opened_p95")?, 100.0);
    let providers = answer("providers.sql").await?;
    assert_eq!(number(&providers, &row(&providers, &["provider"], &["smtp"])?, "attempts_each")?, 1.0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_notification_is_found_by_whatever_is_known_of_it_and_drawn() -> Result<()> {
    let bench = start().await?;
    let at = submitted_at();
    let wanted = notification(at, id::request(at, 99), "o'hara", Some("tx-1"));
    let phone = delivery(&wanted, Address::Phone("+1".into()));
    let mut story = Story::begin(wanted.clone()).rendered(std::slice::from_ref(&phone));
    story.attempt(&phone, 1, retry(&phone));
    story.attempt(&phone, 2, Verdict::Sent);
    let other = notification(at, id::request(at, 98), "ada", None);
    let mut suppressed = Story::begin(other.clone());
    suppressed.stage(Stage::Enrich, Verdict::Suppress(Reason::UnknownUser));
    fill(&bench, &[story.events.clone(), suppressed.events].concat()).await?;

    let panels = panels()?;
    let panel = |title: &str| {
        panels.iter().find(|(name, _)| name == &format!("notification.json: {title}")).map(|(_, sql)| sql.clone())
    };
    let found = panel("Found").context("Found")?;
    let trace_id = wanted.id.simple().to_string();
    let ids = [wanted.id, wanted.request.id, phone.id].map(|id| id.to_string());
    for needle in [&ids[0], &ids[1], &ids[2], &trace_id, "o'hara", "tx-1"] {
        let sql = expand(&found, &[("id", needle)])?;
        let answer = ask(&grafana(&bench), &sql).await?;
        let states = answer.texts("state")?;
        assert_eq!((answer.texts("trace_id")?, states), (vec![trace_id.clone()], vec!["sent".to_owned()]), "{needle}");
    }
    // Both have this key; and without a word, the latest are shown.
    for needle in ["k", ""] {
        let answer = ask(&grafana(&bench), &expand(&found, &[("id", needle)])?).await?;
        assert_eq!(answer.rows.len(), 2, "{needle}");
    }

    // By the trace that was clicked on, or by the notification's id alone.
    for (id, trace) in [("", trace_id.as_str()), (ids[0].as_str(), "")] {
        let ask_panel = async |title: &str| {
            let sql = expand(&panel(title).context("no panel")?, &[("id", id), ("trace_id", trace)])?;
            ask(&grafana(&bench), &sql).await.with_context(|| title.to_owned())
        };
        let drawn = ask_panel("Trace").await?;
        for column in ["traceID", "spanID", "parentSpanID", "serviceName", "operationName"] {
            assert_eq!(drawn.texts(column)?.len(), story.events.len(), "{column}");
        }
        let spans = drawn.texts("spanID")?;
        assert!(spans.iter().all(|span| !span.is_empty()), "an empty span is not drawn");
        let orphans = drawn.texts("parentSpanID")?.into_iter().filter(|parent| !spans.contains(parent));
        assert_eq!(orphans.collect::<Vec<_>>(), [""], "only the root has no parent");
        assert_eq!(drawn.kind("duration")?, "Float64", "milliseconds and parts of them");
        assert!(drawn.kind("startTime")?.starts_with("DateTime64(9"));
        assert!(drawn.kind("tags")?.starts_with("Array(Map("));
        assert_eq!(ask_panel("Deliveries").await?.texts("state")?, ["sent"]);
        assert_eq!(ask_panel("Steps").await?.rows.len(), story.events.len());
    }
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

#[test]
fn panels_use_the_provisioned_data_source_and_links_lead_somewhere() -> Result<()> {
    let source = std::fs::read_to_string(folder().join("provisioning/datasources/clickhouse.yaml"))?;
    let dashboards = dashboards()?;
    let known: Vec<&str> = dashboards.iter().filter_map(|(_, dashboard)| dashboard["uid"].as_str()).collect();
    for (name, dashboard) in &dashboards {
        for used in collect(dashboard, &|value| value.get("datasource")?.get("uid")?.as_str()) {
            ensure!(source.contains(&format!("uid: {used}\n")), "{name}: no data source {used}");
        }
        for url in collect(dashboard, &|value| value.get("url")?.as_str()) {
            let target = url.strip_prefix("/d/").and_then(|path| path.split(['?', '/']).next());
            ensure!(target.is_some_and(|uid| known.contains(&uid)), "{name}: {url} leads nowhere");
        }
        let mut ids = collect(dashboard, &|value| value.get("gridPos").and(value["id"].as_u64()));
        ids.dedup();
        ensure!(ids == (1..=ids.len() as u64).collect::<Vec<_>>(), "{name}: panels are not numbered: {ids:?}");
    }
    Ok(())
}

/// ClickHouse with the users of `compose.yaml`, streams, and tables made by Chasqui's user.
async fn start() -> Result<Bench> {
    let compose = std::fs::read_to_string(root().join("compose.yaml"))?;
    let users = compose.split("<clickhouse>").find(|part| part.contains("<users>")).context("no users")?;
    let users = users.split_inclusive("</clickhouse>").next().context("no end")?;
    // As in the container: the server's own file, and ours beside it.
    let dir = tempfile::tempdir()?;
    let own = dir.path().join("users.xml");
    std::fs::write(&own, SERVERS_OWN_USERS)?;
    std::fs::create_dir(dir.path().join("users.d"))?;
    std::fs::write(dir.path().join("users.d/chasqui.xml"), format!("<clickhouse>{users}"))?;
    let passwords = ["WRITER_PASSWORD=w", "ANALYST_PASSWORD=a", "GRAFANA_PASSWORD=g"];
    let mut bench = Bench::start_with_users(&own, &passwords).await?;
    bench.clickhouse = user(&bench, "chasqui", "w");
    bench.prepare().await?;
    Ok(bench)
}

const SERVERS_OWN_USERS: &str = "<clickhouse>
    <profiles><default/></profiles>
    <quotas><default/></quotas>
    <users><default><password/><networks><ip>::/0</ip></networks><profile>default</profile></default></users>
</clickhouse>";

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
    let columns = meta.iter().map(|column| (text(&column["name"]), text(&column["type"]))).collect();
    Ok(Answer { columns, rows: serde_json::from_value(answer["data"].clone())? })
}

impl Answer {
    fn position(&self, column: &str) -> Result<usize> {
        self.columns.iter().position(|(name, _)| name == column).with_context(|| format!("no column {column}"))
    }

    fn kind(&self, column: &str) -> Result<&str> {
        Ok(&self.columns[self.position(column)?].1)
    }

    fn texts(&self, column: &str) -> Result<Vec<String>> {
        let at = self.position(column)?;
        self.rows.iter().map(|row| Ok(row[at].as_str().context("not a text")?.to_owned())).collect()
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn folder() -> PathBuf {
    root().join("dashboards")
}

/// The files of a folder, by name.
fn files(folder: &Path, ending: &str) -> Result<Vec<(String, String)>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == ending) {
            let name = path.file_name().context("name")?.to_string_lossy().into_owned();
            files.push((name, std::fs::read_to_string(&path)?));
        }
    }
    files.sort();
    Ok(files)
}

/// What analysts start from. Each begins with the question it answers.
fn queries() -> Result<Vec<(String, String)>> {
    let queries = files(&folder().join("queries"), "sql")?;
    for (name, sql) in &queries {
        let first = sql.lines().next().unwrap_or_default();
        ensure!(first.starts_with("-- ") && first.ends_with('?'), "{name} does not say what it answers");
    }
    Ok(queries)
}

fn dashboards() -> Result<Vec<(String, Value)>> {
    files(&folder(), "json")?.into_iter().map(|(name, text)| Ok((name, serde_json::from_str(&text)?))).collect()
}

/// The queries of all panels and variables of all dashboards, by dashboard and title.
fn panels() -> Result<Vec<(String, String)>> {
    let mut panels = Vec::new();
    for (file, dashboard) in dashboards()? {
        let queried = collect(&dashboard, &|value| {
            let sql = value.get("targets").and_then(|targets| targets[0].get("rawSql"));
            let sql = sql.or_else(|| value.get("query").filter(|_| value["type"] == "query"))?;
            Some((value.get("title").or(value.get("label"))?.as_str()?, sql.as_str()?))
        });
        panels.extend(queried.into_iter().map(|(title, sql)| (format!("{file}: {title}"), sql.to_owned())));
    }
    Ok(panels)
}

/// What `pick` finds, anywhere in a document.
fn collect<'a, T>(value: &'a Value, pick: &impl Fn(&'a Value) -> Option<T>) -> Vec<T> {
    let inside: Vec<&Value> = match value {
        Value::Array(values) => values.iter().collect(),
        Value::Object(fields) => fields.values().collect(),
        _ => Vec::new(),
    };
    pick(value).into_iter().chain(inside.into_iter().flat_map(|value| collect(value, pick))).collect()
}

/// What Grafana makes of a query: its variables, then the plugin's macros, for the last two days by the minute.
fn expand(sql: &str, variables: &[(&str, &str)]) -> Result<String> {
    let now = jiff::Timestamp::now().as_second();
    let (from, to) = (format!("toDateTime({})", now - 2 * 86_400), format!("toDateTime({now})"));
    let mut expanded = String::new();
    let mut rest = sql;
    while let Some((before, after)) = rest.split_once('$') {
        expanded.push_str(before);
        if let Some(variable) = after.strip_prefix('{') {
            let (variable, after) = variable.split_once('}').context("no }")?;
            let (name, format) = variable.split_once(':').unwrap_or((variable, ""));
            let found = variables.iter().find(|(known, _)| *known == name);
            let value = found.with_context(|| format!("no variable {name}"))?.1;
            expanded.push_str(&match format {
                "" => value.to_owned(),
                "sqlstring" => format!("'{}'", value.replace('\'', "''")),
                other => bail!("format {other}"),
            });
            rest = after;
            continue;
        }
        let name = after.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or_default();
        rest = &after[name.len()..];
        let mut argument = || {
            let inside = rest.strip_prefix('(').and_then(|inside| inside.split_once(')'));
            let (argument, after) = inside.with_context(|| format!("{name} without a column"))?;
            rest = after;
            anyhow::Ok(argument)
        };
        expanded.push_str(&match name {
            "__fromTime" => from.clone(),
            "__toTime" => to.clone(),
            "__interval_s" => "60".to_owned(),
            "__timeInterval" => format!("toStartOfInterval(toDateTime({}), INTERVAL 60 second)", argument()?),
            "__timeFilter" => {
                let column = argument()?;
                format!("{column} >= {from} AND {column} <= {to}")
            }
            other => bail!("unknown macro {other}"),
        });
    }
    Ok(expanded + rest)
}
