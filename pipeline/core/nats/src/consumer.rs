//! Finding a durable consumer.

use std::time::Duration;

use async_nats::jetstream::{
    Context,
    consumer::PullConsumer,
    stream::{ConsumerError, ConsumerErrorKind},
};
use tokio::time::{Instant, sleep};

/// A broker that has just been restarted does not answer for a moment.
const PATIENCE: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(500);

/// Finds the consumer `name` of `stream`. Where the broker does not answer, asks again for a minute.
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

/// Whether nobody answered, which is no answer about the consumer.
fn is_silence(error: &ConsumerError) -> bool {
    const SERVICE_UNAVAILABLE: usize = 503;
    match error.kind() {
        ConsumerErrorKind::TimedOut | ConsumerErrorKind::Request | ConsumerErrorKind::Other => true,
        ConsumerErrorKind::JetStream(answer) => answer.code() == SERVICE_UNAVAILABLE,
        ConsumerErrorKind::InvalidConsumerType | ConsumerErrorKind::InvalidName => false,
    }
}
