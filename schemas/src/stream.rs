//! JetStream streams: what is stored where. Settings live with the topology in the runtime.

use crate::Stage;

/// Dedupe claims.
pub const LEDGER: &str = "LEDGER";
/// Provider attempts started and finished.
pub const ATTEMPTS: &str = "ATTEMPTS";
/// Deferred messages and delayed retries, until due.
pub const DEFERRED: &str = "DEFERRED";
/// Dead letters and rejected submissions.
pub const DEAD: &str = "DEAD";
/// Trace events on their way to ClickHouse.
pub const TRACES: &str = "TRACES";
/// Receipts on their way into traces.
pub const RECEIPTS: &str = "RECEIPTS";
/// In-app inboxes: a subject per user.
pub const INBOX: &str = "INBOX";

/// The consumer of [`TRACES`] that writes to ClickHouse.
pub const TRACES_CONSUMER: &str = "clickhouse";
/// The consumer of [`TRACES`] that exports to another tracing system; there where one is configured.
pub const EXPORT_CONSUMER: &str = "otlp";
/// The consumer of [`RECEIPTS`] that makes traces of them.
pub const RECEIPTS_CONSUMER: &str = "traces";

/// The streams beside those of the stages, and what each serves, as `queue_metrics.stage` names it.
pub const SERVICES: [(&str, &str); 7] = [
    (TRACES, "traces"),
    (RECEIPTS, "receipts"),
    (DEFERRED, "schedules"),
    (DEAD, "dead"),
    (LEDGER, "ledger"),
    (ATTEMPTS, "attempts"),
    (INBOX, "inbox"),
];

/// The stream that holds a stage's queue. One each, so that a full queue stops only the stage before it.
pub const fn of_stage(stage: Stage) -> &'static str {
    match stage {
        Stage::Validate => "STAGE_VALIDATE",
        Stage::Enrich => "STAGE_ENRICH",
        Stage::Filter => "STAGE_FILTER",
        Stage::Dedupe => "STAGE_DEDUPE",
        Stage::Render => "STAGE_RENDER",
        Stage::Prioritize => "STAGE_PRIORITIZE",
        Stage::Send => "STAGE_SEND",
    }
}
