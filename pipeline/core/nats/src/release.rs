//! Removes from a stream what its consumer has acknowledged.
//!
//! Our queues are streams with `limits` retention. A work queue would remove each message when it is acknowledged, and
//! with `sync_interval: always` nats-server calls fsync for each removal: measured, that was most of what a
//! notification cost the disk. Here acknowledging costs nothing, and what is acknowledged is removed every second or
//! so, thousands at a time.
//!
//! Guarantee: only what the consumer has acknowledged is removed. After a crash of the server, which remembers
//! acknowledgements a moment late, some messages come again; doing their work again has no visible effect.
//!
//! A stream may have a follower: another consumer of the same messages, whose work matters less. What the follower has
//! not acknowledged stays for it while the stream is at most half full. Beyond that the oldest messages are removed,
//! counted (`chasqui_export_lost`) and with a warning, because a full stream would stop those who fill it. How many
//! messages wait for it is in the metric `chasqui_export_backlog`, whether or not the follower runs.

use std::time::Duration;

use async_nats::jetstream::{
    Context, ErrorCode,
    consumer::{Info, PullConsumer},
    stream::{ConsumerErrorKind, State},
};
use chasqui_schemas::measure;

/// Pause between two rounds: what is acknowledged counts towards the queue's bound for about this long.
const SOON: Duration = Duration::from_secs(1);
/// The same after a round in which nothing was acknowledged.
const LATER: Duration = Duration::from_secs(5);
/// Maximum share of a stream's bytes, in eighths, that is kept for a follower; and the share that is left when more is
/// there: less than the maximum, so that removals and their warnings are few.
const FOLLOWER_EIGHTHS: u64 = 4;
const LEFT_EIGHTHS: u64 = 3;

/// Removes from `stream` what its consumer `consumer` has acknowledged, up to the first message that it, or the
/// follower if there is one, has not; does so again and again, for as long as it is polled.
pub async fn keep_releasing(context: Context, stream: &'static str, consumer: String, follower: Option<&'static str>) {
    let mut released = 0;
    let mut pause = SOON;
    loop {
        // The pause comes first: a removal makes the server forget what it was about to hand out again, until its
        // deadline (nats-server's consumer.purge), and a worker that starts may be there to take just that.
        tokio::time::sleep(pause).await;
        let before = released;
        match release(&context, stream, &consumer, follower, released).await {
            Ok(floor) => released = floor,
            // Nothing is lost: the next round removes it.
            Err(error) => tracing::debug!(stream, consumer, error = &*error, "acknowledged messages not removed yet"),
        }
        pause = if released > before { SOON } else { LATER };
    }
}

/// One round of [`keep_releasing`]: removes what was acknowledged after the sequence `released`; answers up to which
/// sequence all is removed now.
///
/// # Errors
/// The broker does not answer, or the consumer is not there. What could not be removed is removed in a later round.
pub async fn release(
    context: &Context,
    stream: &str,
    consumer: &str,
    follower: Option<&str>,
    released: u64,
) -> Result<u64, async_nats::Error> {
    let consumer: PullConsumer = context.get_consumer_from_stream(consumer, stream).await?;
    let info = consumer.cached_info();
    let mut floor = info.ack_floor.stream_sequence;
    let mut seen = floor;
    if let Some(name) = follower
        && let Some(follower) = info_of(context, stream, name).await?
    {
        let backlog = follower.num_pending + follower.num_ack_pending as u64;
        measure!(ExportBacklog, backlog);
        seen = follower.ack_floor.stream_sequence.min(floor);
        let held = context.get_stream(stream).await?;
        let held = held.cached_info();
        floor = overdue(&held.state, held.config.max_bytes).clamp(seen, floor);
    }
    if floor <= released {
        return Ok(released);
    }
    let stream = context.get_stream_no_info(stream).await?;
    let purge = stream.purge().sequence(floor + 1);
    let removed = match info.config.filter_subject.as_str() {
        "" => purge.await?,
        subject => purge.filter(subject).await?,
    };
    let lost = removed.purged.min(floor - seen);
    if lost > 0 {
        tracing::warn!(
            messages = lost,
            consumer = follower,
            "the stream is half full of what this consumer has not acknowledged: the oldest are removed"
        );
        measure!(ExportLost, lost);
    }
    Ok(floor)
}

/// What the server knows of a consumer that need not exist.
async fn info_of(context: &Context, stream: &str, name: &str) -> Result<Option<Info>, async_nats::Error> {
    let found: Result<PullConsumer, _> = context.get_consumer_from_stream(name, stream).await;
    match found {
        Ok(consumer) => Ok(Some(consumer.cached_info().clone())),
        Err(error) => match error.kind() {
            ConsumerErrorKind::JetStream(answer) if answer.error_code() == ErrorCode::CONSUMER_NOT_FOUND => Ok(None),
            _ => Err(error.into()),
        },
    }
}

/// The last message that a stream of at most `max_bytes` cannot keep for a follower; 0 if there is none.
fn overdue(state: &State, max_bytes: i64) -> u64 {
    let max_bytes = u64::try_from(max_bytes).unwrap_or(0);
    if max_bytes == 0 || state.bytes <= max_bytes / 8 * FOLLOWER_EIGHTHS {
        return 0;
    }
    // This counts as if all messages were of one size; if it removes too few, the next round removes more.
    let share = (state.bytes - max_bytes / 8 * LEFT_EIGHTHS) as f64 / state.bytes as f64;
    state.first_sequence + ((state.messages as f64 * share) as u64).max(1) - 1
}
