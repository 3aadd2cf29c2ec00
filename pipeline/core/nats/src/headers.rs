//! Reads the headers of all that a stream holds, without the payloads.
//!
//! Guarantee: oldest first, up to the last message that was there when the stream was looked at. What comes meanwhile is
//! not seen, so it always ends.
//!
//! A crash leaves behind a consumer, which the server removes after [`FORGET_AFTER`].

use std::time::Duration;

use async_nats::jetstream::{
    Message,
    consumer::{AckPolicy, pull},
    message::Info,
    stream::Stream,
};
use futures::StreamExt;
use tokio::time::timeout;

/// Maximum messages whose headers are read with one request.
const BATCH: usize = 500;
/// Maximum wait for the next message; a server that takes longer has stopped answering.
const PATIENCE: Duration = Duration::from_secs(10);
/// Time after which the server removes a reader that asks for nothing.
pub const FORGET_AFTER: Duration = Duration::from_secs(60);

/// Hands every message of `stream` to `each`: subject and headers, [`header::PAYLOAD_BYTES`] among them, and what JetStream
/// says of it.
///
/// # Errors
/// The broker's; or that it stopped answering.
///
/// [`header::PAYLOAD_BYTES`]: chasqui_schemas::header::PAYLOAD_BYTES
pub async fn scan(stream: &Stream, mut each: impl FnMut(&Message, &Info<'_>)) -> Result<(), async_nats::Error> {
    let last = stream.cached_info().state.last_sequence;
    let reader = stream
        .create_consumer(pull::Config {
            ack_policy: AckPolicy::None,
            headers_only: true,
            memory_storage: true,
            num_replicas: 1,
            inactive_threshold: FORGET_AFTER,
            ..pull::Config::default()
        })
        .await?;
    loop {
        let mut batch = reader.fetch().max_messages(BATCH).messages().await?;
        let mut read = 0;
        while let Some(message) =
            timeout(PATIENCE, batch.next()).await.map_err(|_| "NATS stopped answering: try again")?
        {
            let message = message?;
            let info = message.info()?;
            if info.stream_sequence > last {
                return Ok(());
            }
            each(&message, &info);
            read += 1;
        }
        if read == 0 {
            return Ok(());
        }
    }
}
