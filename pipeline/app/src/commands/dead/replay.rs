//! Sends letters on their way again, from the stage where they ended.
//!
//! Guarantee: a letter is deleted only once its message is stored, and its message always has the same id. So a replay
//! cut off between the two can be run again: within the queue's duplicate window (`streams.hop_window_s`) the message
//! is stored once, and later than that the stages take it for what it is, a repeat. Replaying a letter that is gone
//! does nothing.
//!
//! A delivery that ended at send gets the next attempt's number: the attempts ledger has an answer on record for its
//! own, which would only be repeated. Its horizon begins anew, so that it can wait for a provider. One that is too late
//! by now ends as `expired`, and one whose recipient has opted out meanwhile as that.

use std::{fmt, time::Duration};

use anyhow::{Context, anyhow, bail};
use async_nats::jetstream::{
    ErrorCode,
    stream::{DeleteMessageErrorKind, Stream},
};
use chasqui_contract::{Class, Output};
use chasqui_nats::{Outgoing, Publisher};
use chasqui_schemas::{Stage, header, subject};
use futures::{StreamExt, stream};
use indicatif::ProgressBar;
use tokio::time::{Interval, MissedTickBehavior, interval};
use uuid::Uuid;

use crate::{args::DeadFilter, commands::output::print};

use super::{
    content::Content,
    letter::{Letter, fetch, scan},
};

/// Letters on their way at a time.
const IN_FLIGHT: usize = 16;

/// The letters that are meant, oldest first.
pub(super) async fn chosen(
    stream: &Stream,
    sequences: Vec<u64>,
    filter: &DeadFilter,
    all: bool,
) -> anyhow::Result<Vec<u64>> {
    let unfiltered = *filter == DeadFilter::default();
    match (sequences.is_empty(), unfiltered, all) {
        (false, true, false) => return Ok(sequences),
        (false, ..) => bail!("give numbers or a filter, not both"),
        (true, true, false) => bail!(
            "which ones? Give numbers from `chasqui dead list`, a filter such as `--reason retries_exhausted`, or \
             `--all` for really all of them"
        ),
        _ => {}
    }
    let mut found = Vec::new();
    scan(stream, |letter| {
        if letter.matches(filter) {
            found.push(letter.sequence);
        }
    })
    .await?;
    Ok(found)
}

/// How to replay.
pub(super) struct Replay {
    pub(super) stream: Stream,
    pub(super) publisher: Publisher,
    pub(super) dry_run: bool,
    /// Most per second.
    pub(super) rate: u32,
}

/// What became of a letter.
enum Done {
    Replayed,
    /// Somebody else replayed it, or it was too old to be kept.
    Gone,
    /// It cannot be replayed, whenever one tries.
    Impossible(anyhow::Error),
}

impl Replay {
    /// Replays `sequences` and prints how many; fails where some could not be.
    pub(super) async fn run(&self, sequences: Vec<u64>) -> anyhow::Result<()> {
        if self.dry_run {
            return self.foretell(&sequences).await;
        }
        // Hidden where standard error is no terminal.
        let progress = ProgressBar::new(sequences.len() as u64);
        let mut ticks = interval(Duration::from_secs(1) / self.rate.max(1));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let paced = stream::unfold((ticks, sequences.into_iter()), paced);
        let replays = paced.map(|sequence| async move { (sequence, self.one(sequence).await) });
        let mut replays = std::pin::pin!(replays.buffer_unordered(IN_FLIGHT));

        let (mut replayed, mut gone, mut impossible, mut failure) = (0_u64, 0_u64, 0_u64, None);
        while let Some((sequence, done)) = replays.next().await {
            match done {
                Ok(Done::Replayed) => replayed += 1,
                Ok(Done::Gone) => gone += 1,
                Ok(Done::Impossible(error)) => {
                    impossible += 1;
                    progress.suspend(|| eprintln!("dead letter {sequence} stays: {error:#}"));
                }
                Err(error) => {
                    failure = Some(error.context(format!("dead letter {sequence}")));
                    break;
                }
            }
            progress.inc(1);
        }
        progress.finish_and_clear();
        print(&format!("{replayed} replayed, {gone} already gone, {impossible} impossible\n"))?;
        match failure {
            Some(error) => Err(error.context("stopped: the same command goes on from here")),
            None if impossible > 0 => bail!("{impossible} could not be replayed: `chasqui dead show` shows them"),
            None => Ok(()),
        }
    }

    async fn one(&self, sequence: u64) -> anyhow::Result<Done> {
        let Some(letter) = fetch(&self.stream, sequence).await? else { return Ok(Done::Gone) };
        let message = match prepare(&letter) {
            Ok(prepared) => prepared.message,
            Err(error) => return Ok(Done::Impossible(error)),
        };
        match self.publisher.publish(&[message]).await {
            Ok(_) => {}
            Err(error) if error.class() == Class::Permanent => return Ok(Done::Impossible(error.into())),
            Err(error) => return Err(error.into()),
        }
        match self.stream.delete_message(sequence).await {
            Ok(_) => Ok(Done::Replayed),
            Err(error) if is_gone(error.kind()) => Ok(Done::Replayed),
            Err(error) => Err(error).context("it is replayed, but could not be deleted"),
        }
    }

    /// Says what a replay would do.
    async fn foretell(&self, sequences: &[u64]) -> anyhow::Result<()> {
        let mut possible = 0_u64;
        for &sequence in sequences {
            let told = match fetch(&self.stream, sequence).await?.as_ref().map(prepare) {
                None => "is gone".to_owned(),
                Some(Err(error)) => format!("cannot be replayed: {error:#}"),
                Some(Ok(prepared)) => {
                    possible += 1;
                    format!("would go to {prepared}")
                }
            };
            print(&format!("{sequence} {told}\n"))?;
        }
        print(&format!("{possible} of {} would be replayed\n", sequences.len()))
    }
}

/// The next sequence, when its time has come.
async fn paced<I: Iterator<Item = u64>>((mut ticks, mut sequences): (Interval, I)) -> Option<(u64, (Interval, I))> {
    let sequence = sequences.next()?;
    ticks.tick().await;
    Some((sequence, (ticks, sequences)))
}

fn is_gone(kind: DeleteMessageErrorKind) -> bool {
    matches!(kind, DeleteMessageErrorKind::JetStream(error) if error.error_code() == ErrorCode::NO_MESSAGE_FOUND)
}

/// A letter made a message again.
#[derive(Debug)]
struct Prepared {
    message: Outgoing,
    /// What it is; `None` where its bytes go out as they are.
    output: Option<Output>,
}

impl fmt::Display for Prepared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.message.subject)?;
        match &self.output {
            Some(Output::Delivery(delivery)) => {
                write!(f, " as attempt {} of delivery {}", delivery.attempt, delivery.id)
            }
            Some(Output::Notification(notification)) => write!(f, " as notification {}", notification.id),
            None => f.write_str(" as it is"),
        }
    }
}

/// What to publish, and where.
fn prepare(letter: &Letter) -> anyhow::Result<Prepared> {
    let subject = letter.header(header::SUBJECT).to_owned();
    if subject.is_empty() {
        return Err(anyhow!("it does not say where it ended"));
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

/// For bytes that go out as they are: not the id they had, which the queue may still remember.
///
/// Between stages an id names notification and delivery, so that even what does not decode can be traced. Of a
/// submission it may become the idempotency key, so it must be nobody else's: a sequence alone would come again if
/// the stream were made anew.
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
