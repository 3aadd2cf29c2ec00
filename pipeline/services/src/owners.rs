//! Follows the bucket of contacts, so that the index of owners says whose an address is, whoever wrote the contacts.
//!
//! Guarantee: a change is acknowledged after the index has it. Any number of processes may run it: each change is read anew
//! from the bucket, so changes that come twice or late do no harm. It holds up nobody but itself. An import is faster than it
//! is: three fsyncs for a new user with two addresses. Until it has caught up (`queue_metrics` says so, as `owners`), those
//! addresses count as nobody's where a submission names them.
//!
//! After a crash what was not acknowledged comes again. A new consumer begins with every record that there is.

use std::collections::BTreeSet;

use async_nats::jetstream::Context;
use chasqui_contract::StoreError;
use chasqui_nats::{
    Pauses,
    reader::{self, ReadError, StreamReader},
};
use chasqui_schemas::{consumer, stream, subject};
use chasqui_stores::OwnersIndex;
use futures::{StreamExt, TryStreamExt, stream as streams};
use tokio_util::sync::CancellationToken;

/// Maximum changes that are taken at a time.
const BATCH: usize = 256;
/// Maximum users whose addresses are written at a time.
const AT_ONCE: usize = 16;

/// Follows the contacts until `stop` is cancelled.
///
/// # Errors
/// [`ReadError`] where the bucket or its consumer is not there at the start. Later troubles are waited for.
pub async fn run_owners(nats: Context, stop: CancellationToken) -> Result<(), ReadError> {
    let reader = StreamReader::open(nats.clone(), stream::CONTACTS, consumer::OWNERS).await?;
    let index = OwnersIndex::open(&nats).await.map_err(|error| ReadError {
        stream: stream::CONTACTS,
        consumer: consumer::OWNERS,
        source: error.into(),
    })?;
    let mut pauses = Pauses::default();
    let mut chunks = reader.chunks(BATCH, &stop);
    while let Some(messages) = chunks.next().await {
        let messages = messages.into_iter();
        let (users, held): (BTreeSet<Option<String>>, Vec<_>) =
            messages.map(|message| (subject::contacts_of(&message.subject), message.split().1)).unzip();
        let following = follow(&index, users.into_iter().flatten());
        let done = tokio::select! {
            done = reader::extend_while(&held, reader.extend_every, following) => done,
            () = stop.cancelled() => {
                reader::put_back_all(&held).await;
                return Ok(());
            }
        };
        match done {
            Ok(()) => {
                pauses = Pauses::default();
                reader::ack_all(&held).await;
            }
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "whose addresses are is not stored yet");
                tokio::time::sleep(pauses.pause()).await;
                reader::put_back_all(&held).await;
            }
        }
    }
    Ok(())
}

async fn follow(index: &OwnersIndex, users: impl Iterator<Item = String>) -> Result<(), StoreError> {
    let following = streams::iter(users).map(|user| async move { index.follow(&user).await });
    following.buffer_unordered(AT_ONCE).try_collect::<()>().await
}
