//! Writes the trace stream to ClickHouse.
//!
//! Guarantee: a message of the trace stream is acknowledged after its rows are in ClickHouse. A batch that fails is
//! kept and tried again, the same rows under the same deduplication token, for as long as it takes; meanwhile nothing
//! more is read, and the deadlines of its messages are extended. So an outage of ClickHouse fills the stream, not
//! the memory, and loses nothing.
//!
//! Every failure is treated alike, because none means that rows may be given up: what ClickHouse refuses (a full
//! disk, a missing table, a right) it takes once an operator has acted; until then the refusal is logged as an error
//! at every try, at least every 10 seconds. Rows cannot be poison: each column takes every value of its Rust type.
//!
//! After a crash: messages come again, in other batches. Their rows replace themselves (`ReplacingMergeTree`), and
//! the states take the same minimum or maximum, so nothing is counted twice.

use std::time::Duration;

use async_nats::jetstream::{Context, Message, consumer::pull, message::Acker};
use chasqui_schemas::{clickhouse::TRACE_EVENTS, id, stream, subject, trace};
use chasqui_stores::Publisher;
use clickhouse::Client;
use futures::StreamExt;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::{
    TraceError,
    consume::{self, Broken, Intake, Pauses},
    row::EventRow,
};

/// A server that takes longer than this for one batch is not well; the same batch is tried again.
const INSERT_TIMEOUT: Duration = Duration::from_secs(60);
/// Messages in one batch, whatever they hold: the server tracks each of them.
const MAX_MESSAGES: usize = 10_000;

/// How rows are gathered.
#[derive(Debug, Clone)]
pub struct WriterSettings {
    /// Insert at this many rows. One message may bring more.
    pub max_rows: usize,
    /// Insert what is there this long after its first row came.
    pub max_wait: Duration,
    /// When asked to stop, try this long to insert what was gathered; then give it back to the stream.
    pub stop_within: Duration,
}

impl Default for WriterSettings {
    fn default() -> Self {
        WriterSettings { max_rows: 20_000, max_wait: Duration::from_millis(500), stop_within: Duration::from_secs(5) }
    }
}

/// Messages of the trace stream that are not in ClickHouse yet.
///
/// # Errors
/// [`TraceError::Consumer`].
pub async fn backlog(nats: &Context) -> Result<u64, TraceError> {
    consume::backlog(nats, stream::TRACES, stream::TRACES_CONSUMER).await
}

/// Writes until `stop` is cancelled. `clickhouse` has the database set. Any number of processes may run it.
///
/// # Errors
/// [`TraceError::Consumer`] where the stream or its consumer is not there at the start. Later troubles are waited for.
pub async fn run_writer(
    nats: Context,
    clickhouse: Client,
    settings: WriterSettings,
    stop: CancellationToken,
) -> Result<(), TraceError> {
    let intake = Intake::open(nats.clone(), stream::TRACES, stream::TRACES_CONSUMER).await?;
    let writer = Writer { intake, publisher: Publisher::new(nats), clickhouse, settings, stop };
    while let Some(messages) = writer.intake.messages(&writer.stop).await {
        writer.write(messages).await;
    }
    Ok(())
}

struct Writer {
    intake: Intake,
    publisher: Publisher,
    clickhouse: Client,
    settings: WriterSettings,
    stop: CancellationToken,
}

/// Why a batch was closed.
enum End {
    /// It is full, or its time is over.
    Due,
    /// There are no more messages to be had this way.
    Over,
}

impl Writer {
    /// Writes batch after batch until reading ends, is asked to end, or ClickHouse fails.
    async fn write(&self, mut messages: pull::Stream) {
        loop {
            let mut batch = Batch::default();
            let end = self.gather(&mut messages, &mut batch).await;
            let token = batch.token(self.intake.incarnation);
            match self.hold(&batch, self.insert(&batch, &token)).await {
                Ok(()) => self.settle(batch, true).await,
                Err(error) => {
                    // Reading ahead ends here, because nobody extends the deadlines of what was read ahead; it comes
                    // again once we read again.
                    drop(messages);
                    tell(&error, batch.rows.len());
                    let stored = self.hold(&batch, self.insist(&batch, &token)).await;
                    return self.settle(batch, stored).await;
                }
            }
            if let End::Over = end {
                return;
            }
        }
    }

    /// Fills `batch`: waits for a first message, then takes what comes until the batch is due.
    async fn gather(&self, messages: &mut pull::Stream, batch: &mut Batch) -> End {
        let mut due = None;
        while batch.rows.len() < self.settings.max_rows && batch.messages() < MAX_MESSAGES {
            let next = tokio::select! {
                biased;
                () = self.stop.cancelled() => return End::Over,
                () = sleep_until(due) => return End::Due,
                next = messages.next() => next,
            };
            match next {
                Some(Ok(message)) => batch.add(message),
                Some(Err(error)) => {
                    tracing::warn!(error = &error as &dyn std::error::Error, "reading the trace stream ended");
                    return End::Over;
                }
                None => return End::Over,
            }
            due.get_or_insert_with(|| Instant::now() + self.settings.max_wait);
        }
        End::Due
    }

    async fn hold<T>(&self, batch: &Batch, work: impl Future<Output = T>) -> T {
        consume::hold(&batch.held, self.intake.extend_every, work).await
    }

    /// Inserts the batch. The same token, with the same rows, has an effect once, also in the states' tables.
    async fn insert(&self, batch: &Batch, token: &str) -> Result<(), clickhouse::error::Error> {
        if batch.rows.is_empty() {
            return Ok(());
        }
        let mut insert = self
            .clickhouse
            .insert::<EventRow>(TRACE_EVENTS)
            .await?
            .with_timeouts(Some(INSERT_TIMEOUT), Some(INSERT_TIMEOUT))
            .with_setting("async_insert", "0")
            .with_setting("insert_deduplication_token", token)
            // Without it, an insert that was cut off between table and states would never complete the states.
            .with_setting("deduplicate_blocks_in_dependent_materialized_views", "1")
            // Late receipts of many days may come together.
            .with_setting("max_partitions_per_insert_block", "0");
        for row in &batch.rows {
            insert.write(row).await?;
        }
        insert.end().await
    }

    /// Inserts the batch, however often it takes. False: we are asked to stop, and the time for that is over.
    async fn insist(&self, batch: &Batch, token: &str) -> bool {
        let patience = async {
            self.stop.cancelled().await;
            sleep(self.settings.stop_within).await;
        };
        let insisting = async {
            let mut pauses = Pauses::new();
            loop {
                sleep(pauses.next()).await;
                match self.insert(batch, token).await {
                    Ok(()) => return,
                    Err(error) => {
                        tell(&error, batch.rows.len());
                        if let clickhouse::error::Error::SchemaMismatch(_) = error {
                            // The client remembers the columns from before a migration.
                            self.clickhouse.clear_cached_metadata().await;
                        }
                    }
                }
            }
        };
        tokio::select! {
            () = insisting => true,
            () = patience => false,
        }
    }

    /// Ends our part with the batch's messages.
    async fn settle(&self, batch: Batch, stored: bool) {
        if stored {
            tracing::debug!(rows = batch.rows.len(), messages = batch.held.len(), "traces written");
            consume::acknowledge(&batch.held).await;
        } else {
            tracing::warn!(rows = batch.rows.len(), "stopping with traces unwritten: the stream keeps them");
            consume::give_back(&batch.held).await;
        }
        consume::bury(&self.publisher, subject::DEAD_TRACE, batch.broken, &self.stop).await;
    }
}

fn tell(error: &clickhouse::error::Error, rows: usize) {
    tracing::error!(error = error as &dyn std::error::Error, rows, "ClickHouse does not take the traces; trying again");
}

async fn sleep_until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}

/// Rows, and the messages they came in.
#[derive(Default)]
struct Batch {
    rows: Vec<EventRow>,
    held: Vec<Acker>,
    sequences: Vec<u64>,
    broken: Vec<Broken>,
}

impl Batch {
    fn messages(&self) -> usize {
        self.held.len() + self.broken.len()
    }

    fn add(&mut self, message: Message) {
        match trace::decode(&message.payload) {
            Ok(events) => {
                self.sequences.push(message.info().map_or(0, |info| info.stream_sequence));
                self.rows.extend(events.into_iter().map(EventRow::from));
                self.held.push(message.split().1);
            }
            Err(error) => self.broken.push(Broken { message, why: error.to_string() }),
        }
    }

    /// Names exactly these messages of exactly this stream: ClickHouse silently drops other rows under a token that
    /// it has seen, so ranges are not enough (several writers share the stream), and a stream that was deleted and
    /// made again counts from 1 again.
    fn token(&self, incarnation: i128) -> String {
        let sequences: Vec<String> = self.sequences.iter().map(u64::to_string).collect();
        let (first, last) = (self.sequences.first().unwrap_or(&0), self.sequences.last().unwrap_or(&0));
        format!("{incarnation}:{first}-{last}:{}", id::claim(&[&sequences.join(",")]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_tells_batches_with_the_same_ends_apart() {
        let token = |sequences: &[u64]| Batch { sequences: sequences.to_vec(), ..Batch::default() }.token(7);
        assert_eq!(token(&[1, 2, 3, 9]), token(&[1, 2, 3, 9]));
        assert_ne!(token(&[1, 2, 3, 9]), token(&[1, 5, 6, 9]));
        assert_ne!(token(&[1]), Batch { sequences: vec![1], ..Batch::default() }.token(8));
    }
}
