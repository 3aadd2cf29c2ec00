//! JetStream streams: what is stored where. The runtime's topology has their limits.

use std::sync::LazyLock;

use crate::{Lane, Stage};

/// Dedupe claims.
pub const LEDGER: &str = "LEDGER";
/// The newest of the notifications that replace one another.
pub const NEWEST: &str = "NEWEST";
/// Provider attempts started and finished.
pub const ATTEMPTS: &str = "ATTEMPTS";
/// Deferred messages and delayed retries, until due.
pub const DEFERRED: &str = "DEFERRED";
/// Dead letters.
pub const DEAD: &str = "DEAD";
/// Rejected submissions: the latest of each app.
pub const REJECTED: &str = "REJECTED";
/// Trace events on their way to ClickHouse.
pub const TRACES: &str = "TRACES";
/// Receipts on their way into traces.
pub const RECEIPTS: &str = "RECEIPTS";
/// In-app inboxes: a subject per user.
pub const INBOX: &str = "INBOX";
/// What the bucket of contacts is stored in, as NATS names it.
pub const CONTACTS: &str = "KV_contacts";

/// In a stream's metadata: the maximum of bytes below which Chasqui itself keeps it, where JetStream has no such limit.
pub const MAX_BYTES: &str = "chasqui_max_bytes";

/// The streams that belong to no stage, and what each serves, as `queue_metrics.stage` names it.
pub const SERVICES: [(&str, &str); 10] = [
    (TRACES, "traces"),
    (RECEIPTS, "receipts"),
    (DEFERRED, "schedules"),
    (DEAD, "dead"),
    (REJECTED, "rejected"),
    (LEDGER, "ledger"),
    (NEWEST, "newest"),
    (ATTEMPTS, "attempts"),
    (INBOX, "inbox"),
    (CONTACTS, "owners"),
];

/// The stream that holds a stage's queue for one lane. A full queue stops only the stage before it, and no lane waits
/// while nats-server stores a flood of another lane or removes what is acknowledged there.
pub fn of_stage(stage: Stage, lane: Lane) -> &'static str {
    static NAMES: LazyLock<[[String; Lane::ALL.len()]; Stage::ALL.len()]> = LazyLock::new(|| {
        Stage::ALL.map(|stage| Lane::ALL.map(|lane| format!("STAGE_{stage}_{lane}").to_ascii_uppercase()))
    });
    &NAMES[stage as usize][lane.index()]
}

/// The streams of all stages and lanes.
pub fn of_stages() -> impl Iterator<Item = &'static str> {
    Stage::ALL.into_iter().flat_map(|stage| Lane::ALL.map(|lane| of_stage(stage, lane)))
}
