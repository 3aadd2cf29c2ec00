//! Writes the trace stream to ClickHouse.
//!
//! Guarantee: a message of the trace stream is acknowledged after its rows are in ClickHouse. A batch that fails is
//! kept and tried again, the same rows under the same deduplication token, for as long as it takes; meanwhile nothing
//! more is read, and the deadlines of its messages are extended. So an outage of ClickHouse fills the stream, not
//! the memory, and loses nothing.
//!
//! One insert of many rows costs ClickHouse much less than many of few, in the insert itself and in the merges that
//! follow; so under load a batch waits longer than at rest, when a single notification should be seen soon.
//!
//! What ClickHouse refuses because of itself (a full disk, a missing table, a right) it takes once an operator has acted;
//! until then the refusal is logged as an error at every try, at least every 10 seconds. What it refuses because of what
//! the rows say (`is_about_content`) would be refused for ever, and nothing behind it would be written: so a piece of a
//! batch that is refused like that is halved, and its halves, until the row is alone. That row becomes a dead letter, and
//! all others are written. A batch of which it refuses more than `MAX_REFUSED` rows is another matter: then the table
//! is wrong, and not the rows, and it is waited for.
//!
//! Metrics: `chasqui_trace_rows` (written), `chasqui_trace_backlog` (messages of the stream that are not written yet) and
//! `chasqui_trace_lag_ms` (age of the oldest message of a batch when it was written).
//!
//! After a crash: messages come again, in other batches. Their rows replace themselves (`ReplacingMergeTree`), and
//! the states take the same minimum or maximum, so nothing is counted twice.

use std::{ops::Range, time::Duration};

use async_nats::jetstream::{Context, Message, consumer::pull, message::Acker, stream::RawMessageErrorKind};
use chasqui_nats::{
    Letter, Letters, Outgoing, Pauses, Publisher, dead_letter,
    reader::{self, Broken, StreamReader},
};
use chasqui_schemas::{Reason, consumer, header, id, measure, stream, subject, trace};
use clickhouse::{Client, error::Error};
use futures::StreamExt;
use jiff::Timestamp;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::{
    insert::{Sorted, insert, is_about_content},
    rows::{Row, Rows},
};
use crate::WarehouseError;

/// Maximum messages in one batch, whatever they hold: the server tracks each of them.
const MAX_MESSAGES: usize = 10_000;
/// Maximum bytes of attributes in one batch: they are what makes rows large.
const MAX_ATTRIBUTE_BYTES: usize = 32 << 20;
/// Rows from which a batch that is due waits for more, because more are on their way.
const BUSY_ROWS: usize = 5_000;
/// How many times as long such a batch waits.
const BUSY_WAITS: u32 = 4;

/// Maximum rows of a batch that become dead letters.
const MAX_REFUSED: usize = 1_000;

/// Time without a message after which such a batch is closed early: the load is over.
const IDLE: Duration = Duration::from_millis(80);

/// How rows are gathered.
#[derive(Debug, Clone)]
pub struct WriterSettings {
    /// Insert at this many rows, of about 200 bytes of memory each. One message may bring more.
    pub max_rows: usize,
    /// Insert what is there this long after its first row came; under load, four times as long.
    pub max_wait: Duration,
    /// When asked to stop, try this long to insert what was gathered; then give it back to the stream.
    pub stop_within: Duration,
}

impl Default for WriterSettings {
    fn default() -> Self {
        WriterSettings { max_rows: 100_000, max_wait: Duration::from_secs(1), stop_within: Duration::from_secs(5) }
    }
}

/// Messages of the trace stream that are not in ClickHouse yet.
///
/// # Errors
/// [`WarehouseError::Stream`].
pub async fn backlog(nats: &Context) -> Result<u64, WarehouseError> {
    Ok(reader::backlog(nats, stream::TRACES, consumer::TRACES).await?)
}

/// Writes until `stop` is cancelled. `clickhouse` has the database set. Any number of processes may run it.
///
/// # Errors
/// [`WarehouseError::Stream`] where the stream or its consumer is not there at the start. Later troubles are waited for.
pub async fn run_writer(
    nats: Context,
    clickhouse: Client,
    settings: WriterSettings,
    stop: CancellationToken,
) -> Result<(), WarehouseError> {
    let reader = StreamReader::open(nats.clone(), stream::TRACES, consumer::TRACES).await?;
    let reader = reader.releasing(Some(consumer::EXPORT));
    let letters = Letters::start(&Publisher::new(nats.clone()));
    let writer = Writer { reader, letters, nats, clickhouse, settings, stop };
    while let Some(messages) = writer.reader.messages(&writer.stop).await {
        writer.write(messages).await;
    }
    Ok(())
}

struct Writer {
    reader: StreamReader,
    nats: Context,
    letters: Letters,
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
    /// Writes batch after batch until reading ends, the writer is asked to stop, or ClickHouse fails.
    async fn write(&self, mut messages: pull::Stream) {
        let mut usual = 0;
        loop {
            let (batch, end) = self.gather(&mut messages, usual).await;
            usual = batch.rows.len();
            let token = batch.token(self.reader.incarnation);
            let Batch { rows, held } = batch;
            // Not on another thread: the allocator would keep what that one frees apart, and this one has nothing else to do.
            let rows = Sorted::new(rows);
            let mut left = Left::of(&rows);
            if let Err(error) = self.hold(&held, self.write_pieces(&rows, &mut left, &token)).await {
                // Reading ahead ends here, because the deadlines of what was read ahead are not extended; it comes again
                // once we read again.
                drop(messages);
                log_refusal(&error, held.rows);
                let stored = self.hold(&held, self.insist(&rows, &mut left, &token)).await;
                let stored = stored && self.hold(&held, self.bury(&rows, left, &held.sources)).await;
                return self.release(held, stored).await;
            }
            let stored = self.hold(&held, self.bury(&rows, left, &held.sources)).await;
            drop(rows);
            self.release(held, stored).await;
            if let End::Over = end {
                return;
            }
        }
    }

    /// Waits for a first message, then takes what comes until the batch is due: some `usual` rows.
    async fn gather(&self, messages: &mut pull::Stream, usual: usize) -> (Batch, End) {
        let mut batch = Batch { rows: Rows::with_capacity(usual), held: Held::default() };
        let (mut due, mut busy) = (None, false);
        while !batch.is_full(self.settings.max_rows) {
            let next = tokio::select! {
                biased;
                () = self.stop.cancelled() => return (batch, End::Over),
                () = sleep_until(due) => {
                    if busy || batch.held.rows < BUSY_ROWS {
                        return (batch, End::Due);
                    }
                    busy = true;
                    due = due.map(|due| due + self.settings.max_wait * (BUSY_WAITS - 1));
                    continue;
                }
                next = messages.next() => next,
                // The load is over: what came of it need not wait for more.
                () = sleep(IDLE), if batch.held.rows >= BUSY_ROWS => return (batch, End::Due),
            };
            match next {
                Some(Ok(message)) => batch.add(message),
                Some(Err(error)) => {
                    tracing::warn!(error = &error as &dyn std::error::Error, "reading the trace stream ended");
                    return (batch, End::Over);
                }
                None => return (batch, End::Over),
            }
            due.get_or_insert_with(|| Instant::now() + self.settings.max_wait);
        }
        (batch, End::Due)
    }

    async fn hold<T>(&self, held: &Held, work: impl Future<Output = T>) -> T {
        reader::extend_while(&held.messages, self.reader.extend_every, work).await
    }

    /// Writes the pieces that are left, and sets apart the rows that ClickHouse refuses for what they say. `Err`: it takes
    /// nothing now.
    async fn write_pieces(&self, rows: &Sorted, left: &mut Left, token: &str) -> Result<(), Error> {
        while let Some(piece) = left.pieces.last().cloned() {
            // The same piece has the same token, however often the batch is tried.
            let token = format!("{token}:{}-{}", piece.start, piece.end);
            match insert(&self.clickhouse, &rows.encode(&piece), &token).await {
                Ok(()) => _ = left.pieces.pop(),
                Err(error) if !is_about_content(&error) => return Err(error),
                Err(error) => {
                    left.refuse(piece, &error);
                    if left.refused.len() > MAX_REFUSED {
                        *left = Left::of(rows);
                        return Err(error);
                    }
                }
            }
        }
        Ok(())
    }

    /// Writes what is left, however often it takes. False: we are asked to stop, and the time for that is over.
    async fn insist(&self, rows: &Sorted, left: &mut Left, token: &str) -> bool {
        let patience = async {
            self.stop.cancelled().await;
            sleep(self.settings.stop_within).await;
        };
        let insisting = async {
            let mut pauses = Pauses::default();
            loop {
                if let Ok(backlog) = backlog(&self.nats).await {
                    measure!(TraceBacklog, backlog);
                }
                sleep(pauses.pause()).await;
                match self.write_pieces(rows, left, token).await {
                    Ok(()) => return,
                    Err(error) => log_refusal(&error, left.rows()),
                }
            }
        };
        tokio::select! {
            () = insisting => true,
            () = patience => false,
        }
    }

    /// Stores the rows that ClickHouse refuses as dead letters, each alone. `sources` says where in the stream messages
    /// are. False: we are asked to stop before that is done.
    async fn bury(&self, rows: &Sorted, left: Left, sources: &[u64]) -> bool {
        for (at, why) in left.refused {
            let row = rows.row(at);
            let sequence = sources.get(row.message as usize).copied().unwrap_or_default();
            let mut pauses = Pauses::default();
            loop {
                match self.try_bury(row, sequence, &why).await {
                    Ok(()) => break,
                    Err(error) => tracing::warn!(error = &*error, "a refused row is not stored as a dead letter yet"),
                }
                tokio::select! {
                    () = self.stop.cancelled() => return false,
                    () = sleep(pauses.pause()) => {}
                }
            }
        }
        true
    }

    async fn try_bury(&self, row: &Row, sequence: u64, why: &str) -> Result<(), async_nats::Error> {
        // Its message is not acknowledged, so the stream still has it; unless an operator has removed it.
        let stream = self.nats.get_stream_no_info(stream::TRACES).await?;
        let message = match stream.get_raw_message(sequence).await {
            Ok(message) => message,
            Err(error) if error.kind() == RawMessageErrorKind::NoMessageFound => {
                tracing::error!(trace = %row.trace_id, why, "a refused row is gone from the trace stream: it is dropped");
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        };
        // Of a message that cannot be read to its end, the whole becomes a dead letter.
        let Ok(events) = trace::decode(&message.payload) else { return Ok(()) };
        let refused: Vec<_> =
            events.into_iter().filter(|event| (event.trace_id, event.span_id) == (row.trace_id, row.span_id)).collect();
        let app = refused.first().map(|event| event.app.to_string()).unwrap_or_default();
        let stored_at = message.time.unix_timestamp_nanos();
        let stage = subject::DEAD_TRACE.rsplit('.').next().unwrap_or_default();
        let mut headers = dead_letter(Reason::Undecodable, why, stage, &message.subject);
        headers.push((header::DELIVERED, "1".to_owned()));
        let message = Outgoing {
            subject: subject::DEAD_TRACE.to_owned(),
            message_id: Some(format!("{}.{stored_at}.{sequence}.{}", subject::DEAD_TRACE, row.span_id)),
            headers,
            payload: trace::encode(&refused).into(),
        };
        tracing::error!(trace = %row.trace_id, why, "ClickHouse refuses a row: it is a dead letter");
        self.letters.store(vec![Letter { app, stage, message }]).await;
        Ok(())
    }

    /// Acknowledges the batch's messages, or gives them back where they are not stored; what could not be read becomes
    /// dead letters.
    async fn release(&self, held: Held, stored: bool) {
        let Held { rows, messages, pending, oldest_ms, broken, .. } = held;
        if stored {
            let lag_ms = oldest_ms.map_or(0, |oldest| (Timestamp::now().as_millisecond() - oldest).max(0) as u64);
            tracing::debug!(rows, messages = messages.len(), lag_ms, "traces written");
            let rows = rows as u64;
            measure!(TraceRows, rows);
            measure!(TraceBacklog, pending);
            measure!(TraceLag, lag_ms);
            reader::ack_all(&messages).await;
        } else {
            tracing::warn!(rows, "stopping with traces unwritten: the stream keeps them");
            reader::put_back_all(&messages).await;
        }
        reader::store_dead_letters(&self.letters, subject::DEAD_TRACE, broken, &self.stop).await;
    }
}

fn log_refusal(error: &Error, rows: usize) {
    tracing::error!(error = error as &dyn std::error::Error, rows, "ClickHouse does not take the traces; trying again");
}

async fn sleep_until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}

/// What of a batch is not written.
struct Left {
    /// The next one last.
    pieces: Vec<Range<usize>>,
    /// Rows that ClickHouse refuses, and what it said.
    refused: Vec<(usize, String)>,
}

impl Left {
    fn of(rows: &Sorted) -> Self {
        let mut pieces = rows.pieces();
        pieces.reverse();
        Left { pieces, refused: Vec::new() }
    }

    /// The last piece is refused for what it says: halves it, or sets its only row apart.
    fn refuse(&mut self, piece: Range<usize>, error: &Error) {
        self.pieces.pop();
        if piece.len() > 1 {
            let middle = piece.start + piece.len() / 2;
            self.pieces.extend([middle..piece.end, piece.start..middle]);
        } else {
            self.refused.push((piece.start, format!("ClickHouse refuses a row of it: {error}")));
        }
    }

    fn rows(&self) -> usize {
        self.pieces.iter().map(Range::len).sum()
    }
}

/// Rows, and the messages they came in.
struct Batch {
    rows: Rows,
    held: Held,
}

/// What is left of a batch whose rows are encoded.
#[derive(Default)]
struct Held {
    rows: usize,
    messages: Vec<Acker>,
    sequences: Vec<u64>,
    /// Where in the stream each message is that was read, as [`Row::message`] counts them.
    sources: Vec<u64>,
    broken: Vec<Broken>,
    /// Messages that the consumer had not handed out when it handed out the last of these.
    pending: u64,
    /// When the first of these was stored, Unix time in milliseconds.
    oldest_ms: Option<i64>,
}

impl Batch {
    fn is_full(&self, max_rows: usize) -> bool {
        self.held.rows >= max_rows
            || self.held.messages.len() + self.held.broken.len() >= MAX_MESSAGES
            || self.rows.attribute_bytes() >= MAX_ATTRIBUTE_BYTES
    }

    fn add(&mut self, message: Message) {
        let message = match Broken::unless_readable(message) {
            Ok(message) => message,
            Err(broken) => return self.held.broken.push(*broken),
        };
        let before = self.rows.len();
        self.held.sources.push(message.info().map_or(0, |info| info.stream_sequence));
        let read = self.rows.read(&message.payload);
        let events = self.rows.len() - before;
        match read {
            Ok(()) => self.held.add(message, events),
            Err(error) => {
                // What could be read of it is written; the replay of its dead letter writes the same rows again.
                self.held.rows += events;
                self.held.broken.push(Broken::undecodable(message, error.to_string()));
            }
        }
    }

    fn token(&self, incarnation: i128) -> String {
        token(incarnation, &self.held.sequences)
    }
}

impl Held {
    fn add(&mut self, message: Message, rows: usize) {
        self.rows += rows;
        if let Ok(info) = message.info() {
            self.sequences.push(info.stream_sequence);
            self.pending = info.pending;
            self.oldest_ms.get_or_insert((info.published.unix_timestamp_nanos() / 1_000_000) as i64);
        }
        self.messages.push(message.split().1);
    }
}

/// Names exactly these messages of exactly this stream: ClickHouse silently drops other rows under a token that it has
/// seen, so ranges are not enough (several writers share the stream), and a stream that was deleted and made again
/// counts from 1 again.
fn token(incarnation: i128, sequences: &[u64]) -> String {
    let all: Vec<String> = sequences.iter().map(u64::to_string).collect();
    let (first, last) = (sequences.first().unwrap_or(&0), sequences.last().unwrap_or(&0));
    format!("{incarnation}:{first}-{last}:{}", id::claim(&[&all.join(",")]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_piece_is_halved_until_the_bad_row_is_alone() {
        let bad = 37;
        let mut left = Left { pieces: vec![50..64, 0..50], refused: Vec::new() };
        let (mut written, mut tries) = (Vec::new(), 0);
        while let Some(piece) = left.pieces.last().cloned() {
            tries += 1;
            if piece.contains(&bad) {
                left.refuse(piece, &Error::BadResponse("Code: 469".into()));
            } else {
                left.pieces.pop();
                written.extend(piece);
            }
        }
        assert_eq!(written, (0..64).filter(|row| *row != bad).collect::<Vec<_>>(), "each other row once, in order");
        assert_eq!(left.refused.iter().map(|(row, _)| *row).collect::<Vec<_>>(), [bad]);
        assert!(tries < 20, "{tries}");
    }

    #[test]
    fn a_token_tells_batches_with_the_same_ends_apart() {
        assert_eq!(token(7, &[1, 2, 3, 9]), token(7, &[1, 2, 3, 9]));
        assert_ne!(token(7, &[1, 2, 3, 9]), token(7, &[1, 5, 6, 9]));
        assert_ne!(token(7, &[1]), token(8, &[1]));
    }
}
