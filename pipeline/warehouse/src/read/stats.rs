//! What came of everything: the numbers of `chasqui stats`, `chasqui demo` and the console's rates.
//!
//! Guarantee: exact under redelivery, because they are counted from states. They are as old as the writer is behind,
//! which is a second or so.
//!
//! "Opened" and "clicked" mean by anybody, mail proxies and scanners included; "opened by people" leaves machines out.

use chasqui_schemas::{
    clickhouse::{DELIVERY_STATES, NOTIFICATION_STATES, NOTIFICATIONS},
    trace::State,
    vocabulary,
};
use clickhouse::{Client, Row};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{WarehouseError, read::reconstruct::PENDING, write::states::NEVER};

/// Maximum rows of an answer; there are fewer states and reasons.
pub const MAX_ROWS: usize = 1_000;

/// How many notifications ended so.
#[derive(Debug, Clone, PartialEq, Eq, Row, Serialize, Deserialize)]
pub struct StateCount {
    /// A state, or `pending`.
    pub state: String,
    /// Its reason; empty where there is none.
    pub reason: String,
    /// How many.
    pub notifications: u64,
}

vocabulary! {
    /// What deliveries can be counted by: columns of the view `deliveries`.
    pub enum Dimension "dimension" {
        App = "app": "Whose notification it was.",
        Category = "category": "What the notification was about.",
        Template = "template": "The template that rendered it.",
        Variant = "variant": "The template's variant.",
        Locale = "locale": "The language of its text.",
        Channel = "channel": "The channel that carried it.",
        Provider = "provider": "The account that carried it.",
        Vendor = "vendor": "The vendor of that account.",
        Lane = "lane": "How urgent it was.",
        State = "state": "How far it came.",
        Hour = "hour": "The hour of its submission, UTC.",
    }
}

impl Dimension {
    /// As `delivery_states` has it: lane, provider and vendor behind a rank, the state as a rank.
    fn expression(self) -> String {
        match self {
            Dimension::Provider | Dimension::Vendor | Dimension::Lane => format!("substring({}, 7)", self.as_str()),
            Dimension::State => {
                let ranks = State::ALL.map(|state| state.rank().to_string()).join(", ");
                let words = State::ALL.map(|state| format!("'{state}'")).join(", ");
                format!("transform(toUInt8OrZero(substring(outcome, 1, 1)), [{ranks}], [{words}], '{PENDING}')")
            }
            Dimension::Hour => "formatDateTime(toStartOfHour(submitted_at), '%Y-%m-%dT%H:00Z', 'UTC')".to_owned(),
            plain => plain.as_str().to_owned(),
        }
    }
}

/// What came of the deliveries that have something in common.
#[derive(Debug, Clone, Default, PartialEq, Row, Serialize, Deserialize)]
pub struct Rates {
    /// The word, or the hour, that they have in common.
    pub key: String,
    /// How many deliveries.
    pub deliveries: u64,
    /// Accepted by the provider.
    pub sent: u64,
    /// Arrived, as far as the provider says.
    pub delivered: u64,
    /// Refused by the address.
    pub bounced: u64,
    /// Opened by anybody, mail proxies included.
    pub opened: u64,
    /// Opened by people.
    pub opened_human: u64,
    /// Clicked by anybody.
    pub clicked: u64,
    /// Milliseconds from submission to acceptance: median. Zero where nothing was sent.
    pub sent_p50_ms: f64,
    /// The same: 99th percentile.
    pub sent_p99_ms: f64,
}

impl Rates {
    /// A count's share of what was sent, between 0 and 1; 0 where nothing was sent.
    pub fn of_sent(&self, count: u64) -> f64 {
        if self.sent == 0 { 0.0 } else { count as f64 / self.sent as f64 }
    }
}

/// Whether everything that came in has come to an end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Row, Serialize, Deserialize)]
pub struct Accounted {
    /// Notifications known.
    pub notifications: u64,
    /// Of these, in a terminal state.
    pub terminal: u64,
    /// Requests that were rejected, or died before they became notifications.
    pub rejected_requests: u64,
}

impl Accounted {
    /// Notifications that are still on their way.
    pub fn pending(&self) -> u64 {
        self.notifications.saturating_sub(self.terminal)
    }
}

/// Notifications submitted from `since` on, by state and reason, the most frequent first.
///
/// # Errors
/// What ClickHouse said.
pub async fn outcomes(client: &Client, since: Timestamp) -> Result<Vec<StateCount>, WarehouseError> {
    let sql = format!(
        "SELECT state, reason, count() AS notifications FROM {NOTIFICATIONS}
         WHERE submitted_at >= fromUnixTimestamp64Milli(?)
         GROUP BY state, reason ORDER BY notifications DESC, state, reason LIMIT {MAX_ROWS}"
    );
    let query = client.query(&sql).bind(since.as_millisecond());
    query.fetch_all().await.map_err(WarehouseError::clickhouse("counting outcomes"))
}

/// Deliveries of notifications submitted from `since` on, by a dimension: the most frequent values first, hours in
/// their order; at most `most` of them, of hours the last.
///
/// # Errors
/// What ClickHouse said.
pub async fn rates(
    client: &Client,
    since: Timestamp,
    by: Dimension,
    most: usize,
) -> Result<Vec<Rates>, WarehouseError> {
    let order = if by == Dimension::Hour { "key DESC" } else { "deliveries DESC, key" };
    let mut rates = counted(client, since, &format!("toString({})", by.expression()), order, most).await?;
    if by == Dimension::Hour {
        rates.reverse();
    }
    Ok(rates)
}

/// The same over time: in intervals of `step_s` seconds, each with the Unix time of its beginning, in their order. An
/// interval without deliveries is left out; of more than [`MAX_ROWS`] the first are there.
///
/// # Errors
/// What ClickHouse said.
pub async fn rates_over_time(client: &Client, since: Timestamp, step_s: u32) -> Result<Vec<Rates>, WarehouseError> {
    let key = format!("toString(intDiv(toUnixTimestamp(submitted_at), {step_s}) * {step_s})");
    counted(client, since, &key, "toUInt64(key)", MAX_ROWS).await
}

/// Counts from the states, because the view `deliveries` would compute times and words of every row for nothing. A
/// million deliveries take some 25 ms.
async fn counted(
    client: &Client,
    since: Timestamp,
    key: &str,
    order: &str,
    most: usize,
) -> Result<Vec<Rates>, WarehouseError> {
    let sql = format!(
        "WITH if(sent_ms = {NEVER}, delivered_ms, sent_ms) AS accepted_ms
         SELECT {key} AS key,
                count() AS deliveries,
                countIf(accepted_ms != {NEVER}) AS sent,
                countIf(delivered_ms != {NEVER}) AS delivered,
                countIf(bounced_ms != {NEVER}) AS bounced,
                countIf(opened_ms != {NEVER}) AS opened,
                countIf(opened_human_ms != {NEVER}) AS opened_human,
                countIf(clicked_ms != {NEVER}) AS clicked,
                ifNotFinite(quantilesIf(0.5, 0.99)(accepted_ms, accepted_ms != {NEVER})[1], 0) AS sent_p50_ms,
                ifNotFinite(quantilesIf(0.5, 0.99)(accepted_ms, accepted_ms != {NEVER})[2], 0) AS sent_p99_ms
         FROM {DELIVERY_STATES} FINAL WHERE submitted_at >= fromUnixTimestamp64Milli(?) AND known = 1
         GROUP BY key ORDER BY {order} LIMIT {most}
         SETTINGS do_not_merge_across_partitions_select_final = 1"
    );
    let query = client.query(&sql).bind(since.as_millisecond());
    query.fetch_all().await.map_err(WarehouseError::clickhouse("counting rates"))
}

/// Whether everything submitted from `since` on has come to an end.
///
/// # Errors
/// What ClickHouse said.
pub async fn accounted(client: &Client, since: Timestamp) -> Result<Accounted, WarehouseError> {
    // Of a request that became no notification the states know as of one, but as something else.
    let sql = format!(
        "SELECT count() AS notifications, countIf(state != 'pending') AS terminal,
                ifNull((SELECT uniqExact(notification_id) FROM {NOTIFICATION_STATES}
                        WHERE submitted_at >= fromUnixTimestamp64Milli(?) AND known = 2
                          AND substring(outcome, 1, 1) IN ('{rejected}', '{dead}')), 0) AS rejected_requests
         FROM {NOTIFICATIONS} WHERE submitted_at >= fromUnixTimestamp64Milli(?)",
        rejected = State::Rejected.rank(),
        dead = State::Dead.rank(),
    );
    let since_ms = since.as_millisecond().max(0);
    let query = client.query(&sql).bind(since_ms).bind(since_ms);
    query.fetch_one().await.map_err(WarehouseError::clickhouse("accounting for notifications"))
}
