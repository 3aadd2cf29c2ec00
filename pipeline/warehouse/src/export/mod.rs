//! Sends the trace stream to a collector by OTLP, so that notifications show in Tempo, Jaeger or another tracing system.
//!
//! Guarantee: a message of the trace stream is acknowledged when the collector has taken its spans, or has said that it
//! never will. A collector that is away, or that refuses our credentials, is asked again for as long as it takes.
//! Meanwhile the stream keeps what it has not taken, up to half of its bytes ([`chasqui_nats::keep_releasing`]); beyond
//! that the oldest go, because an optional reader must not stop the pipeline. What is not taken is logged and counted.
//!
//! The spans are those of ClickHouse's view `otel_traces`, read by a consumer of their own. OpenTelemetry's span processor
//! is not used: it holds spans in memory, and drops them when its queue is full.
//!
//! Metrics: `chasqui_export_spans` (taken), `chasqui_export_rejected` (spans that the collector will never take),
//! `chasqui_export_lag_ms` (age of the oldest message of a request when it was taken), and from the writer
//! `chasqui_export_backlog` and `chasqui_export_lost`.
//!
//! After a crash, or an answer that got lost, spans are sent again with the same ids.

mod collector;
mod producers;
mod spans;

use std::time::Duration;

use async_nats::jetstream::{Context, Message, consumer::pull, message::Acker};
use bytes::Bytes;
use chasqui_nats::{
    Pauses,
    reader::{self, StreamReader},
    unreadable_headers,
};
use chasqui_schemas::{
    consumer, measure, stream,
    trace::{self, TraceEvent},
};
use clickhouse::Client;
use futures::StreamExt;
use jiff::Timestamp;
use prost::Message as _;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use self::{
    collector::{Answer, Collector},
    producers::Producers,
};
use crate::{
    WarehouseError,
    settings::{ExportSettings, Parent},
};

/// Maximum spans of a request: more would not travel cheaper.
const MAX_SPANS: usize = 2_000;
/// Maximum time that the first event of a request waits for more.
const MAX_WAIT: Duration = Duration::from_millis(500);
/// Maximum bytes of events in a request. Its last message brings half a mebibyte at most, and a span takes some 450 bytes
/// more than its event: together that stays below the 4 MiB that a gRPC server takes by default.
const MAX_BYTES: usize = 512 * 1024;
/// Maximum pause that a collector may ask for, so that a wrong `Retry-After` does not stop the export for a day.
const LONGEST_PAUSE: Duration = Duration::from_secs(300);
/// Maximum time to send what was gathered after the process was asked to stop.
const STOP_WITHIN: Duration = Duration::from_secs(5);

/// Exports until `stop` is cancelled. `clickhouse` is asked for the producers of late receipts. Any number of processes
/// may run it.
///
/// # Errors
/// [`WarehouseError::Settings`] where the settings cannot be used, [`WarehouseError::Stream`] where the stream or its consumer is
/// not there at the start. Later troubles are waited for.
pub async fn run_exporter(
    nats: Context,
    clickhouse: Client,
    settings: ExportSettings,
    stop: CancellationToken,
) -> Result<(), WarehouseError> {
    let collector = Collector::new(&settings)?;
    let producers = (settings.parent == Parent::Producer).then(|| Producers::new(clickhouse));
    let reader = StreamReader::open(nats, stream::TRACES, consumer::EXPORT).await?;
    let exporter = Exporter { reader, collector, producers, stop };
    while let Some(messages) = exporter.reader.messages(&exporter.stop).await {
        exporter.export(messages).await;
    }
    Ok(())
}

struct Exporter {
    reader: StreamReader,
    collector: Collector,
    /// Only where the settings make a producer's span the parent.
    producers: Option<Producers>,
    stop: CancellationToken,
}

/// What goes into one request, and the messages it came in.
#[derive(Default)]
struct Batch {
    events: Vec<TraceEvent>,
    held: Vec<Acker>,
    bytes: usize,
    /// When the first of these was stored, Unix time in milliseconds.
    oldest_ms: Option<i64>,
}

impl Batch {
    fn is_full(&self) -> bool {
        self.events.len() >= MAX_SPANS || self.bytes >= MAX_BYTES
    }

    fn add(&mut self, message: Message) {
        // The writer makes a dead letter of what cannot be read.
        if unreadable_headers(message.headers.as_ref()).is_some() {
            tracing::debug!("the headers of a message cannot be read");
        } else {
            match trace::decode(&message.payload) {
                Ok(events) => self.events.extend(events),
                Err(error) => tracing::debug!(error = &error as &dyn std::error::Error, "a message cannot be read"),
            }
        }
        self.bytes += message.payload.len();
        if let Ok(info) = message.info() {
            self.oldest_ms.get_or_insert((info.published.unix_timestamp_nanos() / 1_000_000) as i64);
        }
        self.held.push(message.split().1);
    }
}

impl Exporter {
    /// Sends request after request until reading ends, is asked to end, or the collector is away.
    async fn export(&self, messages: pull::Stream) {
        let mut messages = Some(messages);
        while let Some(reading) = &mut messages {
            let (batch, over) = self.gather(reading).await;
            if over {
                messages = None;
            }
            if batch.held.is_empty() {
                continue;
            }
            let patience = async {
                self.stop.cancelled().await;
                sleep(STOP_WITHIN).await;
            };
            let Batch { events, held, oldest_ms, .. } = batch;
            // Reading ahead ends with the first failure, because the deadlines of what was read ahead are not extended.
            let delivering = self.deliver(events, oldest_ms, || messages = None);
            tokio::select! {
                () = reader::extend_while(&held, self.reader.extend_every, delivering) => reader::ack_all(&held).await,
                () = patience => {
                    tracing::warn!(messages = held.len(), "stopping with traces not exported: the stream keeps them");
                    reader::put_back_all(&held).await;
                }
            }
        }
    }

    /// Waits for a first message, then takes what comes until the request is due. True: reading has ended.
    async fn gather(&self, messages: &mut pull::Stream) -> (Batch, bool) {
        let mut batch = Batch::default();
        let mut due = None;
        while !batch.is_full() {
            let waiting = async {
                match due {
                    Some(due) => tokio::time::sleep_until(due).await,
                    None => std::future::pending().await,
                }
            };
            let next = tokio::select! {
                biased;
                () = self.stop.cancelled() => return (batch, true),
                () = waiting => return (batch, false),
                next = messages.next() => next,
            };
            match next {
                Some(Ok(message)) => batch.add(message),
                Some(Err(error)) => {
                    tracing::warn!(error = &error as &dyn std::error::Error, "reading the trace stream ended");
                    return (batch, true);
                }
                None => return (batch, true),
            }
            due.get_or_insert_with(|| Instant::now() + MAX_WAIT);
        }
        (batch, false)
    }

    /// Sends events until the collector has taken or refused them; calls `not_now` each time that it has done neither.
    async fn deliver(&self, mut events: Vec<TraceEvent>, oldest_ms: Option<i64>, mut not_now: impl FnMut()) {
        if let Some(producers) = &self.producers {
            producers.complete(&mut events).await;
        }
        let count = events.len() as u64;
        let body = Bytes::from(spans::request(&events, self.producers.is_some()).encode_to_vec());
        drop(events);
        let mut pauses = Pauses::default();
        let (rejected, why) = loop {
            match self.collector.send(body.clone()).await {
                Answer::Taken { rejected, why } => break (rejected.min(count), why),
                Answer::Refused { why } => break (count, why),
                Answer::Later { after, why } => {
                    not_now();
                    let pause = after.unwrap_or_default().min(LONGEST_PAUSE).max(pauses.pause());
                    tracing::warn!(why, ?pause, "the collector does not take traces; trying again");
                    sleep(pause).await;
                }
            }
        };
        if rejected > 0 {
            tracing::error!(spans = rejected, of = count, why, "the collector refuses traces for good");
            measure!(ExportRejected, rejected);
        } else if !why.is_empty() {
            tracing::warn!(why, "the collector took all traces, with a warning");
        }
        let lag_ms = oldest_ms.map_or(0, |oldest| (Timestamp::now().as_millisecond() - oldest).max(0) as u64);
        let taken = count - rejected;
        measure!(ExportSpans, taken);
        measure!(ExportLag, lag_ms);
    }
}
