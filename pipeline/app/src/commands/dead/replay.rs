//! Publishes letters again, to the queue of the stage where they ended.
//!
//! Guarantee: a letter is deleted only once its message is stored, and the message of a letter always has the same id.
//! So a replay that was cut off between the two can be run again: within the queue's duplicate window
//! (`streams.hop_window_s`) the message is stored once, and later than that the stages recognise the repeat. At the front,
//! which remembers no ids, it may be stored twice: then the ledger lets it through once. Replaying a letter
//! that is gone does nothing.
//!
//! A delivery that ended at send gets the number of the next attempt, because for its own number the attempts ledger
//! would only repeat the recorded answer. Its horizon begins anew, so that it can wait for a provider. If it is too late
//! by now it ends as `expired`; if the recipient has opted out meanwhile it ends as suppressed.
//!
//! What ended before a provider was called has given its idempotency key back. A replay claims it again first; where another
//! notification has the key by now, the letter stays.

use std::{fmt, time::Duration};

use anyhow::{Context, anyhow, bail};
use async_nats::jetstream::{ErrorCode, stream::DeleteMessageErrorKind};
use chasqui_contract::{Class, Ledger, Output, StoreError};
use chasqui_nats::{Outgoing, Publisher};
use chasqui_rules::idempotency::{self, Claimed};
use chasqui_schemas::{Stage, header, key_claim::Holder, subject};
use chasqui_stores::NatsLedger;
use futures::{StreamExt, stream};
use indicatif::ProgressBar;
use tokio::time::{Interval, MissedTickBehavior, interval};
use uuid::Uuid;

use crate::{args::DeadFilter, commands::output::print};

use super::{
    content::Content,
    letter::{Letter, Number, Streams},
};

/// Maximum letters that are replayed at the same time; `--rate` is the limit that counts.
const IN_FLIGHT: usize = 16;

/// The letters to replay: those named, or those that match the filter, oldest first.
pub(super) async fn chosen(
    streams: &Streams,
    numbers: Vec<Number>,
    filter: &DeadFilter,
    all: bool,
) -> anyhow::Result<Vec<Number>> {
    let unfiltered = *filter == DeadFilter::default();
    match (numbers.is_empty(), unfiltered, all) {
        (false, true, false) => return Ok(numbers),
        (false, ..) => bail!("give numbers or a filter, not both"),
        (true, true, false) => bail!(
            "which ones? Give numbers from `chasqui dead list`, a filter such as `--reason retries_exhausted`, or \
             `--all` to replay every dead letter"
        ),
        _ => {}
    }
    let mut found = Vec::new();
    streams
        .scan(|letter| {
            if letter.matches(filter) {
                found.push((letter.stored_at, letter.number()));
            }
        })
        .await?;
    found.sort_by_key(|(stored_at, _)| *stored_at);
    Ok(found.into_iter().map(|(_, number)| number).collect())
}

/// How to replay.
pub(super) struct Replay {
    pub(super) streams: Streams,
    pub(super) publisher: Publisher,
    pub(super) ledger: NatsLedger,
    pub(super) dry_run: bool,
    /// Maximum letters per second.
    pub(super) rate: u32,
}

/// The result of replaying a letter.
enum Done {
    Replayed,
    /// It was replayed or deleted before, or its retention ended.
    Gone,
    /// It cannot be replayed, and trying again would not help.
    Impossible(anyhow::Error),
}

impl Replay {
    /// Replays `numbers` and prints how many; fails where some could not be.
    pub(super) async fn run(&self, numbers: Vec<Number>) -> anyhow::Result<()> {
        if self.dry_run {
            return self.print_plan(&numbers).await;
        }
        // Hidden where standard error is no terminal.
        let progress = ProgressBar::new(numbers.len() as u64);
        let mut ticks = interval(Duration::from_secs(1) / self.rate.max(1));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let paced = stream::unfold((ticks, numbers.into_iter()), paced);
        let replays = paced.map(|number| async move { (number, self.one(number).await) });
        let mut replays = std::pin::pin!(replays.buffer_unordered(IN_FLIGHT));

        let (mut replayed, mut gone, mut impossible, mut failure) = (0_u64, 0_u64, 0_u64, None);
        while let Some((number, done)) = replays.next().await {
            match done {
                Ok(Done::Replayed) => replayed += 1,
                Ok(Done::Gone) => gone += 1,
                Ok(Done::Impossible(error)) => {
                    impossible += 1;
                    progress.suspend(|| eprintln!("dead letter {number} stays: {error:#}"));
                }
                Err(error) => {
                    failure = Some(error.context(format!("dead letter {number}")));
                    break;
                }
            }
            progress.inc(1);
        }
        progress.finish_and_clear();
        print(&format!("{replayed} replayed, {gone} already gone, {impossible} impossible\n"))?;
        match failure {
            Some(error) => Err(error.context("stopped: run the same command again to go on")),
            None if impossible > 0 => bail!("{impossible} could not be replayed: `chasqui dead show` shows them"),
            None => Ok(()),
        }
    }

    async fn one(&self, number: Number) -> anyhow::Result<Done> {
        let Some(letter) = self.streams.fetch(number).await? else { return Ok(Done::Gone) };
        let Prepared { mut message, output } = match prepare(&letter) {
            Ok(prepared) => prepared,
            Err(error) => return Ok(Done::Impossible(error)),
        };
        if let Some(mut output) = output {
            if let Some(other) = claim_again(&self.ledger, &mut output).await? {
                return Ok(Done::Impossible(anyhow!("notification {other} has its idempotency key by now")));
            }
            message.payload = output.encode()?.into();
        }
        match self.publisher.publish(&[message]).await {
            Ok(_) => {}
            Err(error) if error.class() == Class::Permanent => return Ok(Done::Impossible(error.into())),
            Err(error) => return Err(error.into()),
        }
        match self.streams.of(number).delete_message(number.sequence).await {
            Ok(_) => Ok(Done::Replayed),
            Err(error) if is_gone(error.kind()) => Ok(Done::Replayed),
            Err(error) => Err(error).context("it is replayed, but could not be deleted"),
        }
    }

    /// Prints what a replay would do.
    async fn print_plan(&self, numbers: &[Number]) -> anyhow::Result<()> {
        let mut possible = 0_u64;
        for &number in numbers {
            let plan = match self.streams.fetch(number).await?.as_ref().map(prepare) {
                None => "is gone".to_owned(),
                Some(Err(error)) => format!("cannot be replayed: {error:#}"),
                Some(Ok(prepared)) => {
                    possible += 1;
                    format!("would go to {prepared}")
                }
            };
            print(&format!("{number} {plan}\n"))?;
        }
        print(&format!("{possible} of {} would be replayed\n", numbers.len()))
    }
}

/// The next number, at the next tick.
async fn paced<I: Iterator<Item = Number>>((mut ticks, mut numbers): (Interval, I)) -> Option<(Number, (Interval, I))> {
    let number = numbers.next()?;
    ticks.tick().await;
    Some((number, (ticks, numbers)))
}

fn is_gone(kind: DeleteMessageErrorKind) -> bool {
    matches!(kind, DeleteMessageErrorKind::JetStream(error) if error.error_code() == ErrorCode::NO_MESSAGE_FOUND)
}

/// Claims the idempotency key of the message; answers who else has it.
async fn claim_again(ledger: &dyn Ledger, output: &mut Output) -> Result<Option<Uuid>, StoreError> {
    let (claim, notification, content) = match output {
        Output::Notification(n) => (&mut n.claim, n.id, n.request.fingerprint.clone()),
        // It is on record what it says.
        Output::Delivery(d) => (&mut d.claim, d.notification_id, String::new()),
    };
    if claim.is_empty() {
        return Ok(None);
    }
    match idempotency::claim(ledger, claim.clone(), &Holder { notification, content }).await? {
        Claimed::Theirs(holder) => return Ok(Some(holder.notification)),
        Claimed::Ours { claim: now, after: Some(_) } => *claim = now,
        // Others of the notification's deliveries may have been sent under it: this one must not give it back.
        Claimed::Ours { after: None, .. } => claim.clear(),
    }
    Ok(None)
}

/// A letter as it will be published.
#[derive(Debug)]
struct Prepared {
    message: Outgoing,
    /// The decoded message; `None` where the bytes are published as they are.
    output: Option<Output>,
}

impl fmt::Display for Prepared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.message.subject)?;
        match &self.output {
            Some(Output::Delivery(delivery)) => {
                write!(f, " as attempt {} of delivery {}", delivery.attempt, delivery.id)
            }
            Some(Output::Notification(notification)) => match notification.delivery_id {
                Some(delivery) => write!(f, " as delivery {delivery} of notification {}", notification.id),
                None => write!(f, " as notification {}", notification.id),
            },
            None => f.write_str(" as it is"),
        }
    }
}

/// What to publish, and where.
fn prepare(letter: &Letter) -> anyhow::Result<Prepared> {
    let subject = letter.header(header::SUBJECT).to_owned();
    if subject.is_empty() {
        return Err(anyhow!("its headers do not name the queue where it ended"));
    }
    if let Some(bytes) = letter.cut_of() {
        return Err(anyhow!("not all of its {bytes} bytes were kept"));
    }
    let output = match Content::of(letter) {
        Content::Notification(notification) => Some(Output::Notification(notification).again()),
        Content::Delivery(mut delivery) => {
            if letter.stage() == Some(Stage::Send) {
                delivery.attempt = delivery.attempt.saturating_add(1);
                delivery.sending_since = None;
            }
            Some(Output::Delivery(delivery).again())
        }
        Content::Document(_) | Content::Bytes => None,
    };
    let message = match &output {
        Some(output) => Outgoing {
            subject,
            message_id: Some(output.message_id()),
            headers: Vec::new(),
            payload: output.encode()?.into(),
        },
        None => {
            let content_type = Some(letter.header(header::CONTENT_TYPE)).filter(|kind| !kind.is_empty());
            Outgoing {
                message_id: Some(message_id(letter, &subject)),
                subject,
                headers: content_type.map(|kind| (header::CONTENT_TYPE, kind.to_owned())).into_iter().collect(),
                payload: letter.payload.clone(),
            }
        }
    };
    Ok(Prepared { message, output })
}

/// The message id of bytes that are published as they are. It differs from the id they had, which the queue may still
/// remember, and which would make this a repeat.
///
/// Between stages an id names notification and delivery, so that even a message that does not decode can be traced. The
/// id of a submission may become its idempotency key, so it must be unique for ever: a sequence alone would come again
/// if the stream were created anew.
fn message_id(letter: &Letter, subject: &str) -> String {
    let Letter { sequence, .. } = letter;
    let id = |name| letter.header(name).parse::<Uuid>().ok().map(|id| id.simple());
    let between_stages = letter.stage().is_some() && subject::parse_submit(subject).is_none();
    match (id(header::NOTIFICATION), id(header::DELIVERY)) {
        (Some(notification), Some(delivery)) if between_stages => {
            format!("{notification}.{delivery}.replay-{sequence}")
        }
        (Some(notification), None) if between_stages => format!("{notification}.replay-{sequence}"),
        _ => format!("replay.{}.{sequence}", letter.stored_at.as_nanosecond()),
    }
}

#[cfg(test)]
#[path = "replay_tests.rs"]
mod tests;
