//! Finding a durable consumer.

use std::time::Duration;

use async_nats::jetstream::{
    Context,
    consumer::PullConsumer,
    stream::{ConsumerError, ConsumerErrorKind},
};
use tokio::time::{Instant, sleep};

/// Maximum time for which a broker that does not answer is asked again: a restart takes seconds, an election more.
const PATIENCE: Duration = Duration::from_secs(60);
/// Pause between two tries.
const PAUSE: Duration = Duration::from_millis(500);

/// Finds the consumer `name` of `stream`. While the broker does not answer, it is asked again for up to a minute.
///
/// # Errors
/// The consumer does not exist, or the broker stays away.
pub async fn find_consumer(context: &Context, stream: &str, name: &str) -> Result<PullConsumer, ConsumerError> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match context.get_consumer_from_stream(name, stream).await {
            Err(error) if is_silence(&error) && Instant::now() < deadline => sleep(PAUSE).await,
            found => return found,
        }
    }
}

/// Whether the error says only that the broker did not answer, and nothing about the consumer.
fn is_silence(error: &ConsumerError) -> bool {
    const SERVICE_UNAVAILABLE: usize = 503;
    match error.kind() {
        ConsumerErrorKind::TimedOut | ConsumerErrorKind::Request | ConsumerErrorKind::Other => true,
        ConsumerErrorKind::JetStream(answer) => answer.code() == SERVICE_UNAVAILABLE,
        ConsumerErrorKind::InvalidConsumerType | ConsumerErrorKind::InvalidName => false,
    }
}
