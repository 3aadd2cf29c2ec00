//! Frees what a consumer has acknowledged.
//!
//! Our queues are streams with `limits` retention. A work queue would remove each message when it is acknowledged,
//! and with `sync_interval: always` nats-server calls fsync for each removal: measured, that was most of what a
//! notification cost the disk. Here acknowledging costs nothing, and what is acknowledged is removed now and then,
//! thousands at a time.
//!
//! Guarantee: only what the consumer has acknowledged is removed. After a crash of the server, which remembers
//! acknowledgements a moment late, some come again; doing their work again has no visible effect.

use std::time::Duration;

use async_nats::jetstream::{Context, consumer::PullConsumer};

/// What is acknowledged counts against the queue's bound for about this long.
const SOON: Duration = Duration::from_secs(1);
/// The same after a time in which nothing was acknowledged.
const LATER: Duration = Duration::from_secs(5);

/// Removes from `stream` what its consumer `consumer` has acknowledged, up to the first message that it has not; does
/// so again and again, for as long as it is polled.
pub async fn keep_releasing(context: Context, stream: &'static str, consumer: String) {
    let mut released = 0;
    let mut pause = SOON;
    loop {
        // First the pause: a removal makes the server forget what it was about to hand out again, until its deadline
        // (nats-server's consumer.purge), and a worker that starts may be there to take just that.
        tokio::time::sleep(pause).await;
        let before = released;
        match release(&context, stream, &consumer, released).await {
            Ok(floor) => released = floor,
            // Nothing is lost: it is there the next time.
            Err(error) => tracing::debug!(stream, consumer, error = &*error, "acknowledged messages not removed yet"),
        }
        pause = if released > before { SOON } else { LATER };
    }
}

/// Removes what was acknowledged since `released`; answers up to which sequence that was.
async fn release(context: &Context, stream: &str, consumer: &str, released: u64) -> Result<u64, async_nats::Error> {
    let consumer: PullConsumer = context.get_consumer_from_stream(consumer, stream).await?;
    let info = consumer.cached_info();
    let floor = info.ack_floor.stream_sequence;
    if floor <= released {
        return Ok(released);
    }
    let stream = context.get_stream_no_info(stream).await?;
    let purge = stream.purge().sequence(floor + 1);
    match info.config.filter_subject.as_str() {
        "" => purge.await?,
        subject => purge.filter(subject).await?,
    };
    Ok(floor)
}
