//! Settings for tests: the defaults, with less patience.

/// Short deadlines and retries, so that what a crash leaves behind comes again within seconds; few slots, so that
/// "at most the calls in flight" is a small number; a provider that takes a moment, so that there are calls in flight.
pub const IMPATIENT: &str = r#"
[runner]
ack_wait_ms = 8000
slots = 16

[send.push]
timeout_ms = 2000
schedule_ms = [200, 400]

[send.sms]
timeout_ms = 2000
schedule_ms = [200, 400]

[send.email]
timeout_ms = 2000
schedule_ms = [200, 400]

[send.in_app]
timeout_ms = 2000
schedule_ms = [200, 400]

[accounts.sandbox]
latency_ms = 5
"#;

/// Decisions at once in [`IMPATIENT`]: the most calls in flight of one worker and channel.
pub const SLOTS: usize = 16;
