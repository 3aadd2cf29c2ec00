//! Publishes what was decided. Outputs and trace events are stored (PubAck received) before the input is acknowledged.
//!
//! What a batch of decisions forwards to one queue goes there as bundles of up to 128: one JetStream
//! message, one fsync, one delivery and one acknowledgement for all of them. These are most of the server's work on a
//! notification. What waits for one moment waits, and comes back, as bundles too. So do receipts, and trace events go
//! together with those of other stages.
//!
//! After a crash in the middle, the inputs come again and their outputs are published again. JetStream takes those with
//! the same message ids for repeats. Others are bundled differently and stored twice; the ledger then lets each
//! notification, and each attempt, through once.

use std::{borrow::Cow, collections::BTreeMap};

use chasqui_nats::{
    Letter, Letters,
    publisher::{Outgoing, PublishError, Publisher},
};
use chasqui_schemas::{Channel, Lane, Receipt, Stage, header, id, stream, subject};
use chasqui_trace::TraceSink;
use futures::future::join_all;
use jiff::Timestamp;

use crate::{
    bundle::{Bundle, MAX_MESSAGES},
    count,
    plan::{Deferral, Forward, Part, PendingCommit, unencodable},
};

/// Maximum messages that are collected before they are published: the broker's limit for an atomic batch (ADR-50).
const FLUSH_MESSAGES: usize = 1_000;
/// Maximum bytes that are collected before they are published: what the publisher puts into one atomic batch.
const FLUSH_BYTES: usize = 4 * 1024 * 1024;

/// Publishes everything that was decided in `batch`, however long the broker is full or away.
///
/// A decision that the broker can never store (a message is too large for it) becomes a dead letter. Dead letters and
/// rejections wait for no room: a full stream of theirs holds up nothing.
pub(crate) async fn commit(
    publisher: &Publisher,
    letters: &Letters,
    traces: &TraceSink,
    stage: Stage,
    batch: &mut [PendingCommit],
) {
    let publish = async |batch: &[PendingCommit]| publish(publisher, letters, stage, batch).await;
    let events = batch.iter_mut().flat_map(|pending| std::mem::take(&mut pending.events)).collect();
    // Neither waits for the other; the input is acknowledged after both.
    if tokio::join!(publish(batch), traces.record(events)).0.is_ok() {
        return;
    }
    // One of the decisions can never be stored. Published one by one, they show which; what was stored before is stored
    // once all the same, because it has the same ids.
    for pending in batch {
        let Err(error) = publish(std::slice::from_ref(pending)).await else { continue };
        pending.become_dead_letter(stage, pending.impossible(&error));
        let events = std::mem::take(&mut pending.events);
        // A letter is stored as far as that is possible, and is no error.
        tokio::join!(publish(std::slice::from_ref(pending)), traces.record(events)).0.ok();
    }
}

async fn publish(
    publisher: &Publisher,
    letters: &Letters,
    stage: Stage,
    batch: &[PendingCommit],
) -> Result<(), PublishError> {
    let mut out = Outbox {
        publisher,
        dead: letters,
        next: stage.next(),
        bundles: BTreeMap::new(),
        deferrals: BTreeMap::new(),
        receipts: BTreeMap::new(),
        by_stream: BTreeMap::new(),
        letters: Vec::new(),
        rejections: Vec::new(),
        messages: 0,
        bytes: 0,
    };
    for part in batch.iter().flat_map(|pending| &pending.parts) {
        out.add(part).await?;
    }
    out.flush().await
}

/// What is collected for each stream, and published before it grows too large.
struct Outbox<'a> {
    publisher: &'a Publisher,
    dead: &'a Letters,
    next: Option<Stage>,
    bundles: BTreeMap<(Lane, Option<Channel>), Bundle<'a>>,
    deferrals: BTreeMap<Moment<'a>, Bundle<'a>>,
    receipts: BTreeMap<&'a str, Vec<(&'a str, &'a Receipt)>>,
    by_stream: BTreeMap<&'static str, Vec<Outgoing>>,
    letters: Vec<Letter>,
    rejections: Vec<Outgoing>,
    messages: usize,
    bytes: usize,
}

/// What waits together: to the same queue, until the same time, as part of the same app's share.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Moment<'a> {
    lane: Lane,
    queue: &'a str,
    until: Timestamp,
    app: &'a str,
}

impl<'a> Outbox<'a> {
    async fn add(&mut self, part: &'a Part) -> Result<(), PublishError> {
        let bytes = match part {
            Part::Forward(Forward { lane, channel, id, envelope }) => {
                self.add_to_bundle((*lane, *channel), Cow::Borrowed(id), Cow::Borrowed(envelope))?
            }
            Part::Unencoded(output) => {
                let Forward { lane, channel, id, envelope } = Forward::new(output)?;
                self.add_to_bundle((lane, channel), Cow::Owned(id), Cow::Owned(envelope))?
            }
            Part::Deferral(Deferral { lane, queue, until, app, id, envelope }) => {
                let moment = Moment { lane: *lane, queue, until: *until, app };
                let bundle = self.deferrals.entry(moment).or_default();
                if let Some(full) = bundle.add(Cow::Borrowed(id), Cow::Borrowed(envelope)) {
                    self.schedule(moment, full)?;
                }
                envelope.len()
            }
            Part::Receipt { subject, id, receipt } => {
                self.receipts.entry(subject).or_default().push((id, receipt));
                size_of::<Receipt>()
            }
            Part::Message(stream, message) => {
                self.by_stream.entry(stream).or_default().push(message.clone());
                message.payload.len()
            }
            Part::Letter(letter) => {
                self.letters.push(letter.clone());
                letter.message.payload.len()
            }
            Part::Rejection(message) => {
                self.rejections.push(message.clone());
                message.payload.len()
            }
        };
        self.messages += 1;
        self.bytes += bytes;
        if self.messages >= FLUSH_MESSAGES || self.bytes >= FLUSH_BYTES { self.flush().await } else { Ok(()) }
    }

    fn add_to_bundle(
        &mut self,
        queue: (Lane, Option<Channel>),
        id: Cow<'a, str>,
        envelope: Cow<'a, [u8]>,
    ) -> Result<usize, PublishError> {
        let bytes = envelope.len();
        if let Some(full) = self.bundles.entry(queue).or_default().add(id, envelope) {
            self.forward(queue, full)?;
        }
        Ok(bytes)
    }

    fn forward(&mut self, (lane, channel): (Lane, Option<Channel>), bundle: Bundle<'a>) -> Result<(), PublishError> {
        // After the last stage nothing is forwarded.
        let Some(next) = self.next else { return Ok(()) };
        let (message_id, payload) = bundle.encode()?;
        self.by_stream.entry(stream::of_stage(next, lane)).or_default().push(Outgoing {
            subject: subject::queue(next, lane, channel),
            message_id: Some(message_id),
            headers: vec![],
            payload,
        });
        Ok(())
    }

    /// A JetStream message schedule (ADR-51): at its moment the broker publishes it to [`subject::due`], from where
    /// [`crate::deferred`] returns it to its queue. One schedule per subject, so a repeat replaces it.
    fn schedule(&mut self, moment: Moment<'a>, bundle: Bundle<'a>) -> Result<(), PublishError> {
        let (message_id, payload) = bundle.encode()?;
        self.by_stream.entry(stream::DEFERRED).or_default().push(Outgoing {
            subject: subject::deferred(&message_id),
            headers: vec![
                (header::SCHEDULE, format!("@at {}", moment.until)),
                (header::SCHEDULE_TARGET, subject::due(moment.lane)),
                (header::APP, moment.app.to_owned()),
                (header::SUBJECT, moment.queue.to_owned()),
                (header::DUE_ID, message_id),
            ],
            message_id: None,
            payload,
        });
        Ok(())
    }

    /// Publishes what is collected. Streams do not wait for each other.
    async fn flush(&mut self) -> Result<(), PublishError> {
        (self.messages, self.bytes) = (0, 0);
        for (queue, bundle) in std::mem::take(&mut self.bundles) {
            self.forward(queue, bundle)?;
        }
        for (moment, bundle) in std::mem::take(&mut self.deferrals) {
            self.schedule(moment, bundle)?;
        }
        for (subject, receipts) in std::mem::take(&mut self.receipts) {
            for some in receipts.chunks(MAX_MESSAGES) {
                let (ids, receipts): (Vec<_>, Vec<_>) = some.iter().copied().unzip();
                let payload = match &receipts[..] {
                    [only] => serde_json::to_vec(only),
                    several => serde_json::to_vec(several),
                };
                self.by_stream.entry(stream::RECEIPTS).or_default().push(Outgoing {
                    subject: subject.to_owned(),
                    message_id: Some(id::bundle(&ids)),
                    headers: vec![],
                    payload: payload.map_err(unencodable)?.into(),
                });
            }
        }
        let streams = std::mem::take(&mut self.by_stream);
        let publishing = join_all(streams.values().map(|messages| self.publisher.insist(messages)));
        let letters = self.dead.store(std::mem::take(&mut self.letters));
        let (published, (), ()) =
            tokio::join!(publishing, letters, reject(self.publisher, std::mem::take(&mut self.rejections)));
        published.into_iter().collect()
    }
}

/// Stores rejections. What their stream does not take is counted and not kept: the producer has the submission, and the
/// trace says what was wrong with it.
async fn reject(publisher: &Publisher, rejections: Vec<Outgoing>) {
    let refused = publisher.offer(&rejections).await;
    if let Some((_, error)) = refused.first() {
        count::rejections_lost(refused.len());
        tracing::error!(error = error as &dyn std::error::Error, lost = refused.len(), "rejections cannot be stored");
    }
}
