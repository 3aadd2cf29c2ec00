//! Stores dead letters, and never waits for room.
//!
//! | the stream of dead letters | a letter is stored |
//! |---|---|
//! | has room for its app | whole |
//! | is nearly full, or its app holds more than twice what is free | without its payload; [`header::CUT`] says so |
//! | is full, or its app holds more than four times what is free | not at all: the trace event stands alone; counted and logged |
//!
//! The letters of an app alone take two thirds of the stream with their payload, and four fifths at most. However many
//! they are, they cost the letters of another app neither payload nor place ([`Shares`]), and no stage stands still
//! because letters are many. What the broker refuses although it seemed to fit is stored without payload too.
//!
//! Guarantee: when [`Letters::store`] returns, each letter is stored in one of these ways. It waits only while the broker
//! does not answer. After a crash the caller stores the same letters again, under the same message ids.

use async_nats::HeaderMap;
use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use chasqui_schemas::{Reason, header, measure, stream, text::one_line};

use crate::{
    Outgoing, Publisher,
    shares::{Room, Shares},
};

/// Maximum characters of `Chasqui-Detail`: enough for a list of violations or an error with its sources, and far below the
/// server's limit for all headers of a message.
const MAX_DETAIL: usize = 4 * 1024;
/// Maximum bytes of an unreadable header block that a dead letter keeps. JetStream takes 64 KiB of headers with a message;
/// in Base64 these are 54 KiB, which leaves room for the letter's own.
const MAX_RAW_HEADERS: usize = 40 * 1024;
/// Maximum part of the stream, in percent, that letters with payload take; the rest is the reserve for those without.
const WHOLE_PERCENT: u64 = 90;
/// How many times what is free an app may hold for its letters to be stored whole, and for them to be stored at all.
const ROOM_FOR_WHOLE: u64 = 2;
const ROOM_FOR_CUT: u64 = 4;

/// Says why a message that was published on `subject` is a dead letter of `stage`, and what happened in words.
pub fn dead_letter(reason: Reason, detail: &str, stage: &str, subject: &str) -> Vec<(&'static str, String)> {
    vec![
        (header::REASON, reason.as_str().to_owned()),
        (header::DETAIL, one_line(detail, MAX_DETAIL).into_owned()),
        (header::STAGE, stage.to_owned()),
        (header::SUBJECT, subject.to_owned()),
    ]
}

/// The header block of a message where it breaks the protocol, so that nothing in it can be trusted. Anybody who may
/// publish can send such a message; the reader buries it, as it does what it cannot decode.
pub fn unreadable_headers(headers: Option<&HeaderMap>) -> Option<&Bytes> {
    headers?.unreadable()
}

/// The header of a dead letter that keeps such a block, or its beginning.
pub fn raw_headers(block: &[u8]) -> (&'static str, String) {
    (header::RAW_HEADERS, STANDARD.encode(&block[..block.len().min(MAX_RAW_HEADERS)]))
}

/// A dead letter to store.
#[derive(Debug, Clone)]
pub struct Letter {
    /// The app that it counts for; empty where it is not known.
    pub app: String,
    /// The stage or service that gave up.
    pub stage: &'static str,
    /// The letter.
    pub message: Outgoing,
}

/// Stores dead letters. Clones share what they know of the stream.
#[derive(Debug, Clone)]
pub struct Letters {
    publisher: Publisher,
    shares: Shares,
}

/// How much of a letter is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Keep {
    Whole,
    Cut,
    Nothing,
}

impl Letters {
    /// Publishes on the connection of `publisher`, with a bound of its own on batches in flight.
    pub fn start(publisher: &Publisher) -> Self {
        let publisher = publisher.apart();
        Letters { shares: Shares::watch(publisher.context().clone(), stream::DEAD), publisher }
    }

    /// Stores `letters`, as far as there is room; see the module.
    pub async fn store(&self, letters: Vec<Letter>) {
        let mut waiting = Vec::with_capacity(letters.len());
        let mut lost = Vec::new();
        for letter in letters {
            let size = letter.message.size() as u64;
            let letter = match keep(self.shares.room(&letter.app), size) {
                Keep::Whole => letter,
                Keep::Cut => cut(letter),
                Keep::Nothing => {
                    lost.push(letter.stage);
                    continue;
                }
            };
            self.shares.add(&letter.app, letter.message.size() as u64);
            waiting.push(letter);
        }
        let refused = self.offer(&waiting).await;
        let (whole, already_cut): (Vec<_>, Vec<_>) =
            refused.into_iter().map(|index| waiting[index].clone()).partition(|letter| !is_cut(letter));
        let again: Vec<_> = whole.into_iter().map(cut).collect();
        let refused = self.offer(&again).await;
        lost.extend(already_cut.iter().map(|letter| letter.stage));
        lost.extend(refused.into_iter().map(|index| again[index].stage));

        // Of those without payload, some are lost after all, and counted as both.
        for stage in waiting.iter().chain(&again).filter(|letter| is_cut(letter)).map(|letter| letter.stage) {
            measure!(DeadLettersCut, 1u64, stage);
        }
        for &stage in &lost {
            measure!(DeadLettersLost, 1u64, stage);
        }
        if !lost.is_empty() {
            tracing::error!(
                lost = lost.len(),
                stage = lost[0],
                "dead letters are not stored, because there are too many (`chasqui dead list`): their traces are all that is left"
            );
        }
    }

    /// Which of `letters` the stream does not take.
    async fn offer(&self, letters: &[Letter]) -> Vec<usize> {
        let messages: Vec<_> = letters.iter().map(|letter| letter.message.clone()).collect();
        let refused = self.publisher.offer(&messages).await;
        refused.into_iter().map(|(index, _)| index).collect()
    }
}

fn keep(room: Option<Room>, bytes: u64) -> Keep {
    // What is not known yet, the broker's answer tells.
    let Some(room) = room else { return Keep::Whole };
    let nearly_full = room.taken.saturating_add(bytes) > room.max / 100 * WHOLE_PERCENT;
    if !nearly_full && room.admits(bytes, ROOM_FOR_WHOLE) {
        Keep::Whole
    } else if room.admits(0, ROOM_FOR_CUT) {
        Keep::Cut
    } else {
        Keep::Nothing
    }
}

fn is_cut(letter: &Letter) -> bool {
    letter.message.headers.iter().any(|(name, _)| *name == header::CUT)
}

/// The letter without its payload, and without the raw headers, which may be as large. One that has none to begin with is
/// cut of nothing.
fn cut(mut letter: Letter) -> Letter {
    let bytes = std::mem::replace(&mut letter.message.payload, Bytes::new()).len();
    letter.message.headers.retain(|(name, _)| *name != header::RAW_HEADERS);
    letter.message.headers.push((header::CUT, bytes.to_string()));
    letter
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_letter_is_kept_as_far_as_there_is_room_for_its_app() {
        let max = 100 << 20;
        let kept = |taken_percent: u64, of_app_percent: u64| {
            keep(Some(Room { max, taken: max / 100 * taken_percent, of_app: max / 100 * of_app_percent }), 10_000)
        };
        assert_eq!(keep(None, 10_000), Keep::Whole);
        assert_eq!(kept(45, 45), Keep::Whole);
        assert_eq!(kept(65, 65), Keep::Whole);
        assert_eq!(kept(70, 70), Keep::Cut, "it holds more than twice what is free");
        assert_eq!(kept(70, 5), Keep::Whole, "another does");
        assert_eq!(kept(82, 82), Keep::Nothing, "it holds more than four times what is free");
        assert_eq!(kept(82, 5), Keep::Whole, "another does");
        assert_eq!(kept(92, 5), Keep::Cut, "the reserve");
        assert_eq!(kept(100, 0), Keep::Nothing);
    }

    #[test]
    fn a_letter_without_payload_says_how_much_it_had() {
        let message = Outgoing { subject: "s".into(), message_id: None, headers: vec![], payload: "abc".into() };
        let letter = cut(Letter { app: "shop".into(), stage: "send", message });
        assert!(is_cut(&letter) && letter.message.payload.is_empty());
        assert_eq!(letter.message.headers, [(header::CUT, "3".to_owned())]);
    }
}
