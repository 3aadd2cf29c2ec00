//! Which providers' answers took a device from a user's contacts.

use chasqui_schemas::clickhouse::{NOTIFICATION_STATES, TRACE_EVENTS};
use clickhouse::{Client, Row};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::WarehouseError;

/// Maximum notifications of a user that are looked through, the latest ones.
const MAX_NOTIFICATIONS: usize = 10_000;
/// Maximum removals of an answer: a user has at most 20 devices.
const MAX_REMOVALS: usize = 100;

/// A device that was removed, and by whose word.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Removal {
    /// When the provider was asked.
    pub at: Timestamp,
    /// The notification that it was asked about.
    pub trace_id: Uuid,
    /// The account.
    pub provider: String,
    /// The provider's own code.
    pub code: String,
    /// The provider's own words.
    pub detail: String,
}

#[derive(Debug, Row, Deserialize)]
struct Found {
    started_ns: i64,
    trace_id: String,
    provider: String,
    code: String,
    detail: String,
}

/// The devices of `user` that providers' answers removed, in order of time.
///
/// # Errors
/// What ClickHouse said.
pub async fn removals(client: &Client, user: &str) -> Result<Vec<Removal>, WarehouseError> {
    let sql = format!(
        "SELECT toUnixTimestamp64Nano(started_at) AS started_ns, trace_id, toString(provider) AS provider,
            attributes['code'] AS code, attributes['detail'] AS detail
        FROM {TRACE_EVENTS} FINAL
        WHERE trace_id IN (
                SELECT replaceAll(toString(notification_id), '-', '') FROM {NOTIFICATION_STATES}
                WHERE user = ? ORDER BY submitted_at DESC LIMIT {MAX_NOTIFICATIONS})
            AND attributes['endpoint_removed'] = 'device'
        ORDER BY started_ns DESC LIMIT {MAX_REMOVALS}"
    );
    let found: Vec<Found> =
        client.query(&sql).bind(user).fetch_all().await.map_err(WarehouseError::clickhouse("looking for removals"))?;
    let removal = |Found { started_ns, trace_id, provider, code, detail }| Removal {
        at: Timestamp::from_nanosecond(i128::from(started_ns)).unwrap_or_default(),
        trace_id: trace_id.parse().unwrap_or_default(),
        provider,
        code,
        detail,
    };
    Ok(found.into_iter().rev().map(removal).collect())
}
