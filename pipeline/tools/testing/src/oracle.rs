//! What happened, seen from outside.

use std::{collections::BTreeMap, time::Instant};

use anyhow::{Context, ensure};
use serde::Deserialize;
use uuid::Uuid;

use crate::install::{PATIENCE, TestInstall};

/// Calls of the sandbox provider, by delivery and attempt, from its own log.
#[derive(Debug, Default)]
pub struct Calls(pub BTreeMap<(Uuid, u32), usize>);

impl Calls {
    /// Reads the log: one line a call, `delivery attempt unix_nanos pid`.
    ///
    /// # Errors
    /// Fails where a line is not one.
    pub fn read(install: &TestInstall) -> anyhow::Result<Self> {
        let log = std::fs::read_to_string(install.sandbox_log()).unwrap_or_default();
        let mut calls = BTreeMap::new();
        // The last line may be on its way: a write that crosses a page is seen in two parts.
        let (whole, _) = log.rsplit_once('\n').unwrap_or_default();
        for line in whole.lines() {
            let mut words = line.split(' ');
            let mut word = || words.next().with_context(|| format!("not a call: {line}"));
            *calls.entry((word()?.parse()?, word()?.parse()?)).or_default() += 1;
        }
        Ok(Calls(calls))
    }

    /// Calls by delivery, over all attempts.
    pub fn by_delivery(&self) -> BTreeMap<Uuid, usize> {
        let mut deliveries = BTreeMap::new();
        for ((delivery, _), calls) in &self.0 {
            *deliveries.entry(*delivery).or_default() += calls;
        }
        deliveries
    }
}

/// One row of `chasqui.deliveries`, as an analyst sees it.
#[derive(Debug, Clone, Deserialize)]
pub struct DeliveryRow {
    /// Its id.
    pub delivery_id: Uuid,
    /// The notification.
    pub notification_id: Uuid,
    /// The request.
    pub request_id: Uuid,
    /// Where it has got to.
    pub state: String,
    /// Why.
    pub reason: String,
}

/// All deliveries.
#[derive(Debug)]
pub struct Deliveries(pub Vec<DeliveryRow>);

/// Rows of a query, through ClickHouse's own JSON, so that no type of ours is on the way.
///
/// # Errors
/// Fails where the query does, or a row is not of the type.
pub async fn query<T: serde::de::DeserializeOwned>(install: &TestInstall, sql: &str) -> anyhow::Result<Vec<T>> {
    let mut lines = install.clickhouse.query(sql).fetch_bytes("JSONEachRow")?;
    let text = lines.collect().await?;
    let rows = text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    rows.map(|line| serde_json::from_slice(line).with_context(|| String::from_utf8_lossy(line).into_owned())).collect()
}

/// The one number that a query answers.
///
/// # Errors
/// Fails where the query does.
pub async fn number(install: &TestInstall, sql: &str) -> anyhow::Result<u64> {
    #[derive(Deserialize)]
    struct Row {
        n: serde_json::Value,
    }
    let rows: Vec<Row> = query(install, sql).await?;
    let value = &rows.first().context("no row")?.n;
    value.as_u64().or_else(|| value.as_str()?.parse().ok()).with_context(|| format!("not a number: {value}"))
}

/// Waits until a count in ClickHouse is reached; a count that stays wrong fails, with the workers' last words.
///
/// # Errors
/// Fails when patience ends.
pub async fn until(install: &TestInstall, what: &str, sql: &str, wanted: u64) -> anyhow::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        // ClickHouse may be the one that is down.
        let found = number(install, sql).await;
        if matches!(found, Ok(found) if found == wanted) {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "{what}: {found:?} and not {wanted}\n{}", install.worker_log());
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
}

impl Deliveries {
    /// Reads all.
    ///
    /// # Errors
    /// Fails where ClickHouse does not answer.
    pub async fn read(install: &TestInstall) -> anyhow::Result<Self> {
        let sql = "SELECT delivery_id, notification_id, request_id, state, reason FROM deliveries";
        Ok(Deliveries(query(install, sql).await?))
    }

    /// How many are in each state.
    pub fn by_state(&self) -> BTreeMap<&str, usize> {
        let mut states = BTreeMap::new();
        for row in &self.0 {
            *states.entry(row.state.as_str()).or_default() += 1;
        }
        states
    }
}

/// Every trace becomes one tree: one root, every parent present, no span twice. A step whose worker died between its
/// outputs and its trace is done again when its deadline has passed; only then is its span there.
///
/// # Errors
/// Fails with the first traces that are still none when patience ends.
pub async fn traces_are_trees(install: &TestInstall) -> anyhow::Result<()> {
    let sql = "
        WITH spans AS (SELECT trace_id, span_id, parent_span_id, event FROM trace_events FINAL)
        SELECT toString(trace_id) AS trace,
               countIf(parent_span_id = 0) AS roots,
               count() - uniqExact(span_id) AS repeats,
               length(arrayFilter(parent -> parent != 0 AND NOT has(groupArray(span_id), parent),
                                  groupArray(parent_span_id))) AS orphans
        FROM spans GROUP BY trace_id HAVING roots != 1 OR repeats != 0 OR orphans != 0 LIMIT 5";
    let deadline = Instant::now() + PATIENCE;
    loop {
        let broken: Vec<serde_json::Value> = query(install, sql).await?;
        if broken.is_empty() {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "traces that are no trees: {broken:?}\n{}", install.worker_log());
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    }
}

/// What must hold after any crash of `count` mails, every tenth of which fails once by intention. Returns how many calls
/// were repeated, less those that a crash forestalled: of an attempt that had begun and was never made there is none, and
/// where it would have failed the next one is the only call.
///
/// # Errors
/// Fails with what is lost, doubled or not in order.
pub async fn nothing_lost_nothing_doubled(install: &TestInstall, count: u64) -> anyhow::Result<usize> {
    // A producer whose acknowledgement was lost publishes again: that is another notification of the same request, which
    // ends as a duplicate of the first.
    let ended =
        "SELECT uniqExact(request_id) AS n FROM notifications WHERE state != 'pending' AND reason != 'duplicate'";
    until(install, "requests that ended", ended, count).await?;
    until(install, "pending", "SELECT count() AS n FROM notifications WHERE state = 'pending'", 0).await?;
    until(install, "delivered", "SELECT count() AS n FROM deliveries WHERE state = 'delivered'", count).await?;
    let all = number(install, "SELECT count() AS n FROM notifications WHERE reason != 'duplicate'").await?;
    ensure!(all == count, "{all} notifications of {count} submissions");
    let states = Deliveries::read(install).await?;
    ensure!(states.by_state() == BTreeMap::from([("delivered", count as usize)]), "{:?}", states.by_state());

    let false_duplicates = "SELECT count() AS n FROM trace_events FINAL WHERE reason = 'duplicate' AND
        (request_id, attributes['original']) NOT IN
            (SELECT request_id, toString(notification_id) FROM notifications WHERE reason != 'duplicate')";
    ensure!(number(install, false_duplicates).await? == 0, "the ledger took a redelivery for a duplicate");
    ensure!(install.stored("DEAD").await? == 0, "dead letters");
    traces_are_trees(install).await?;

    let calls = Calls::read(install)?;
    let twice: Vec<_> = calls.0.iter().filter(|(_, calls)| **calls > 1).collect();
    ensure!(twice.is_empty(), "attempts that called twice: {twice:?}");
    let deliveries = calls.by_delivery();
    ensure!(deliveries.len() == count as usize, "{} deliveries were called", deliveries.len());
    let expected = (count + count.div_ceil(10)) as usize;
    Ok(deliveries.values().sum::<usize>().saturating_sub(expected))
}
