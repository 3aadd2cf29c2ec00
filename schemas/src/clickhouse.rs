//! The ClickHouse tables, and the migrations that make them (`schemas/clickhouse/*.sql`).
//!
//! Rules for a migration: every statement can be run twice, and by two processes at once; a file that was released
//! is never changed, another one follows it.

/// The log of what happened; one row per [`crate::trace::TraceEvent`].
pub const TRACE_EVENTS: &str = "trace_events";
/// Latest state of every notification.
pub const NOTIFICATIONS: &str = "notifications";
/// Latest state of every delivery.
pub const DELIVERIES: &str = "deliveries";
/// The table that [`NOTIFICATIONS`] reads.
pub const NOTIFICATION_STATES: &str = "notification_states";
/// The table that [`DELIVERIES`] reads.
pub const DELIVERY_STATES: &str = "delivery_states";
/// The queues over time; one row per queue and sample.
pub const QUEUE_METRICS: &str = "queue_metrics";
/// Which migrations were applied.
pub const SCHEMA_MIGRATIONS: &str = "schema_migrations";
/// The tables that hold what is known of notifications; their partitions are dropped after the retention.
pub const STORED: [&str; 3] = [TRACE_EVENTS, DELIVERY_STATES, NOTIFICATION_STATES];

/// The target: milliseconds from the submission to the first acceptance by a provider. Dashboards, alerts and queries
/// have the number too; a test (`tests/dashboards.rs`) holds them to it.
pub const SENT_WITHIN_MS: u32 = 10_000;

/// A step of the schema.
#[derive(Debug, Clone, Copy)]
pub struct Migration {
    /// From 1, without gaps.
    pub version: u32,
    /// What it makes.
    pub name: &'static str,
    /// Statements, separated by semicolons.
    pub sql: &'static str,
}

/// Every migration, in order.
pub const MIGRATIONS: [Migration; 5] = [
    Migration { version: 1, name: "trace_events", sql: include_str!("../clickhouse/0001_trace_events.sql") },
    Migration { version: 2, name: "otel_traces", sql: include_str!("../clickhouse/0002_otel_traces.sql") },
    Migration { version: 3, name: "states", sql: include_str!("../clickhouse/0003_states.sql") },
    Migration { version: 4, name: "views", sql: include_str!("../clickhouse/0004_views.sql") },
    Migration { version: 5, name: "queue_metrics", sql: include_str!("../clickhouse/0005_queue_metrics.sql") },
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Channel, Stage, trace::State};

    #[test]
    fn versions_have_no_gaps() {
        assert!(MIGRATIONS.iter().zip(1..).all(|(migration, version)| migration.version == version));
    }

    #[test]
    fn the_views_know_every_state_stage_and_channel_by_its_number() {
        let list = |words: Vec<&str>| {
            let names = words.iter().map(|word| format!("'{word}'")).collect::<Vec<_>>().join(", ");
            let ranks = (1..=words.len()).map(|rank| rank.to_string()).collect::<Vec<_>>().join(", ");
            format!("[{ranks}], [{names}]")
        };
        let states = list(State::ALL.iter().map(|state| state.as_str()).collect());
        let stages = list(Stage::ALL.iter().map(|stage| stage.as_str()).collect());
        for into_name in [states, stages] {
            assert_eq!(MIGRATIONS[3].sql.matches(&into_name).count(), 2, "{into_name}");
        }
        let bits = (0..Channel::ALL.len()).map(|bit| (1 << bit).to_string()).collect::<Vec<_>>().join(", ");
        let names = Channel::ALL.map(|channel| format!("'{channel}'")).join(", ");
        assert!(MIGRATIONS[3].sql.contains(&format!("[{bits}], [{names}]")), "[{bits}], [{names}]");
    }

    #[test]
    fn a_column_of_two_views_has_one_comment() {
        // `notifications` is `traces` without two columns, and ClickHouse does not hand comments on.
        let comments = |view: &str| -> Vec<&str> {
            let sql = MIGRATIONS[3].sql.split(&format!("ALTER TABLE {view}\n")).nth(1).unwrap();
            sql.split(';').next().unwrap().lines().map(|line| line.trim().trim_end_matches(',')).collect()
        };
        let of_traces = comments("traces").into_iter();
        let shared = of_traces
            .filter(|line| !["COLUMN trace_id ", "COLUMN is_notification "].iter().any(|own| line.contains(own)));
        assert_eq!(shared.collect::<Vec<_>>(), comments("notifications"));
    }
}
