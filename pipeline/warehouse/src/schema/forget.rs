//! Takes a user out of ClickHouse.
//!
//! What leads to the person goes: the user's id, the ids that the producer gave (transaction, idempotency key, request),
//! and all attributes of the steps ( devices, labels of the producer, words of providers). What does
//! not lead to the person stays, so that rates of the past do not change: times, states, reasons, app, category, channel, provider. The
//! id of a notification is hashed with a secret and says nothing ([`chasqui_schemas::pepper`]).
//!
//! Rows are written anew (mutations), not masked: nothing is left on disk once the old parts are removed, 8 minutes
//! later by default. The statements name notifications and not the user, because ClickHouse keeps them.
//!
//! After a crash: do it again. The user's id, by which the notifications are found, goes last.

use chasqui_schemas::clickhouse::{DELIVERY_STATES, NOTIFICATION_STATES, TRACE_EVENTS};
use clickhouse::Client;
use uuid::Uuid;

use super::{ddl::Place, migrate::MigrateSettings};
use crate::{WarehouseError, write::row::trace_hex};

/// Maximum notifications in one statement: a statement may have 256 KiB (`max_query_size`).
const TOGETHER: usize = 5_000;

/// The notifications that are known to be for `user`, oldest first.
///
/// # Errors
/// What ClickHouse said.
pub async fn notifications_of(client: &Client, user: &str) -> Result<Vec<Uuid>, WarehouseError> {
    let sql = format!("SELECT DISTINCT toString(notification_id) FROM {NOTIFICATION_STATES} WHERE user = ?");
    // The question must not outlive what it asks for.
    let query = client.query(&sql).bind(user).with_setting("log_queries", "0");
    let found: Vec<String> = query.fetch_all().await.map_err(WarehouseError::clickhouse("looking for a user"))?;
    let mut ids: Vec<Uuid> = found.iter().filter_map(|id| id.parse().ok()).collect();
    ids.sort_unstable();
    Ok(ids)
}

/// Takes out of `notifications` what leads to a person; `progress` hears how many are done. Takes as long as writing
/// the table parts anew that they are in. `settings` are those of [`crate::migrate()`].
///
/// # Errors
/// What ClickHouse said.
pub async fn forget(
    client: &Client,
    settings: &MigrateSettings,
    notifications: &[Uuid],
    mut progress: impl FnMut(usize),
) -> Result<(), WarehouseError> {
    let mut done = 0;
    for some in notifications.chunks(TOGETHER) {
        for sql in statements(settings.place(), some) {
            // 2: on every replica, before it answers.
            let query = client.query_raw(&sql).with_setting("mutations_sync", "2");
            query.execute().await.map_err(WarehouseError::clickhouse("taking a user out of a table"))?;
        }
        done += some.len();
        progress(done);
    }
    Ok(())
}

fn statements(place: Place<'_>, notifications: &[Uuid]) -> [String; 3] {
    let list = |each: fn(&Uuid) -> String| notifications.iter().map(each).collect::<Vec<_>>().join(",");
    let traces = list(|id| format!("'{}'", trace_hex(*id)));
    let ids = list(|id| format!("toUUID('{id}')"));
    let update = |table: &str, change: &str, rows: String| {
        let (table, on_cluster) = (place.stored(table), place.on_cluster());
        let no_request = "request_id = toUUID('00000000-0000-0000-0000-000000000000')";
        format!("ALTER TABLE {table}{on_cluster} UPDATE {change}{no_request} WHERE {rows}")
    };
    let nothing = "attributes = CAST(map(), 'Map(LowCardinality(String), String)'), ";
    let cleared = "user = '', transaction_id = '', idempotency_key = '', ";
    [
        update(TRACE_EVENTS, nothing, format!("trace_id IN ({traces})")),
        update(DELIVERY_STATES, "", format!("notification_id IN ({ids})")),
        update(NOTIFICATION_STATES, cleared, format!("notification_id IN ({ids})")),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn on_a_cluster_every_node_forgets() {
        let place = Place { database: "chasqui", cluster: Some("shards") };
        let [events, deliveries, notifications] = statements(place, &[Uuid::from_u128(1), Uuid::from_u128(2)]);
        assert!(events.starts_with("ALTER TABLE trace_events_local ON CLUSTER 'shards' UPDATE "), "{events}");
        assert!(events.ends_with("IN ('00000000000000000000000000000001','00000000000000000000000000000002')"));
        assert!(deliveries.starts_with("ALTER TABLE delivery_states_local ON CLUSTER 'shards' UPDATE request_id = "));
        assert!(notifications.contains(" UPDATE user = '', ") && notifications.contains("-000000000002')"));
    }

    #[test]
    fn a_statement_is_no_longer_than_clickhouse_takes() {
        let place = Place { database: "chasqui", cluster: Some("shards") };
        let many = vec![Uuid::max(); TOGETHER];
        assert!(statements(place, &many).iter().all(|sql| sql.len() < 256 << 10));
    }
}
