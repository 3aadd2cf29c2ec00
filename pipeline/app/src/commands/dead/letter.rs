//! Reads letters from their streams, and filters them.
//!
//! Guarantee: a scan reads headers only ([`headers::scan`]), oldest first. It does not see letters that come meanwhile, for
//! example from a replay that failed again, so it always ends. A crash changes nothing.

use std::{fmt, str::FromStr};

use anyhow::{Context, anyhow};
use async_nats::{
    HeaderMap,
    jetstream::{
        self,
        stream::{RawMessageErrorKind, Stream},
    },
};
use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use chasqui_nats::{headers, unreadable_headers};
use chasqui_schemas::{Stage, header, stream, subject};
use jiff::Timestamp;
use serde::Serialize;

use crate::args::DeadFilter;

/// How people name a letter: `17`, or `r17` where it is a rejected submission, which are in a stream of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Number {
    rejected: bool,
    pub(super) sequence: u64,
}

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", if self.rejected { "r" } else { "" }, self.sequence)
    }
}

impl FromStr for Number {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (rejected, digits) = text.strip_prefix('r').map_or((false, text), |digits| (true, digits));
        let sequence = digits.parse();
        let sequence =
            sequence.map_err(|_| "expected a number of `chasqui dead list`, such as 17 or r17".to_owned())?;
        Ok(Number { rejected, sequence })
    }
}

impl Serialize for Number {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// The streams of dead letters and of rejected submissions.
pub(super) struct Streams {
    dead: Stream,
    rejected: Stream,
}

impl Streams {
    pub(super) async fn open(context: &jetstream::Context) -> anyhow::Result<Self> {
        let open = async |name| {
            let opened = context.get_stream(name).await;
            opened.with_context(|| {
                format!("the stream {name} cannot be read: if it does not exist, run `chasqui migrate`")
            })
        };
        Ok(Streams { dead: open(stream::DEAD).await?, rejected: open(stream::REJECTED).await? })
    }

    /// The stream that holds the letter.
    pub(super) fn of(&self, number: Number) -> &Stream {
        if number.rejected { &self.rejected } else { &self.dead }
    }

    /// Hands every letter's headers to `each`: dead letters, then rejections, each oldest first.
    pub(super) async fn scan(&self, mut each: impl FnMut(Letter)) -> anyhow::Result<()> {
        for stream in [&self.dead, &self.rejected] {
            let scanned = headers::scan(stream, |message, info| {
                each(Letter {
                    sequence: info.stream_sequence,
                    stored_at: timestamp(info.published.unix_timestamp_nanos()),
                    subject: message.subject.to_string(),
                    headers: message.headers.clone().unwrap_or_default(),
                    payload: Bytes::new(),
                });
            });
            scanned.await.map_err(|error| anyhow!(error).context("the dead letters cannot be read"))?;
        }
        Ok(())
    }

    /// One letter with its payload; `None` where no letter has this number.
    pub(super) async fn fetch(&self, number: Number) -> anyhow::Result<Option<Letter>> {
        // As it is stored: an answer by direct access has headers of the server's among those of the message.
        match self.of(number).get_raw_message(number.sequence).await {
            Ok(message) => Ok(Some(Letter {
                sequence: number.sequence,
                stored_at: timestamp(message.time.unix_timestamp_nanos()),
                subject: message.subject.to_string(),
                headers: message.headers,
                payload: message.payload,
            })),
            Err(error) if error.kind() == RawMessageErrorKind::NoMessageFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("dead letter {number} cannot be read")),
        }
    }
}

/// A dead letter or a rejected submission.
#[derive(Debug, Clone)]
pub(super) struct Letter {
    pub(super) sequence: u64,
    pub(super) stored_at: Timestamp,
    /// Its subject there.
    pub(super) subject: String,
    pub(super) headers: HeaderMap,
    /// Empty in a scan.
    pub(super) payload: Bytes,
}

/// A letter's headers, as they are printed.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Summary {
    pub(super) number: Number,
    pub(super) sequence: u64,
    pub(super) stored_at: Timestamp,
    pub(super) stage: String,
    pub(super) reason: String,
    pub(super) detail: String,
    /// Of a dead letter.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) notification_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) delivery_id: Option<String>,
    /// Of a rejection.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) request_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) provider: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) attempts: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) delivered: Option<u32>,
    /// Where it ended, and where a replay goes.
    pub(super) subject: String,
    /// Of the payload as it was.
    pub(super) bytes: usize,
    /// Whether it was not kept, or not all of it.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(super) cut: bool,
}

impl Letter {
    /// A header's value; empty where it has none.
    pub(super) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map(|value| value.as_str()).unwrap_or_default()
    }

    fn some(&self, name: &str) -> Option<String> {
        Some(self.header(name)).filter(|value| !value.is_empty()).map(str::to_owned)
    }

    /// The header block that could not be read: of the message that became this letter, or of the letter itself.
    pub(super) fn raw_headers(&self) -> Option<Bytes> {
        let kept = || STANDARD.decode(self.header(header::RAW_HEADERS)).ok().filter(|block| !block.is_empty());
        unreadable_headers(Some(&self.headers)).cloned().or_else(|| Some(kept()?.into()))
    }

    /// The stage that gave up; `None` where it was a service.
    pub(super) fn stage(&self) -> Option<Stage> {
        self.header(header::STAGE).parse().ok()
    }

    pub(super) fn number(&self) -> Number {
        Number { rejected: self.is_rejection(), sequence: self.sequence }
    }

    /// How many bytes its payload had, where not all of it was kept.
    pub(super) fn cut_of(&self) -> Option<usize> {
        self.header(header::CUT).parse().ok()
    }

    pub(super) fn is_rejection(&self) -> bool {
        subject::parse_rejected(&self.subject).is_some()
    }

    /// Whether it matches all of `filter`.
    pub(super) fn matches(&self, filter: &DeadFilter) -> bool {
        let is = |wanted: Option<&str>, name| wanted.is_none_or(|wanted| wanted == self.header(name));
        let of = |id: uuid::Uuid| {
            let ids = [header::NOTIFICATION, header::DELIVERY, header::REQUEST];
            ids.into_iter().any(|name| self.header(name).parse() == Ok(id))
        };
        is(filter.reason.map(|reason| reason.as_str()), header::REASON)
            && is(filter.stage.as_deref(), header::STAGE)
            && is(filter.provider.as_deref(), header::PROVIDER)
            && filter.notification.is_none_or(of)
            && filter.since.is_none_or(|since| self.stored_at >= since)
            && filter.until.is_none_or(|until| self.stored_at <= until)
    }

    pub(super) fn summary(&self) -> Summary {
        let detail = self.header(header::DETAIL);
        let kept = self.header(header::PAYLOAD_BYTES).parse().unwrap_or(self.payload.len());
        Summary {
            number: self.number(),
            sequence: self.sequence,
            stored_at: self.stored_at,
            stage: self.header(header::STAGE).to_owned(),
            reason: self.header(header::REASON).to_owned(),
            // A rejection's is a JSON list of violations, which may be cut off.
            detail: serde_json::from_str::<Vec<String>>(detail)
                .map_or_else(|_| detail.to_owned(), |all| all.join("; ")),
            // On a rejection it names the request's own trace.
            notification_id: self.some(header::NOTIFICATION).filter(|_| !self.is_rejection()),
            delivery_id: self.some(header::DELIVERY),
            request_id: self.some(header::REQUEST),
            provider: self.some(header::PROVIDER),
            attempts: self.header(header::ATTEMPTS).parse().ok().filter(|attempts| *attempts > 0),
            delivered: self.header(header::DELIVERED).parse().ok(),
            subject: self.header(header::SUBJECT).to_owned(),
            bytes: self.cut_of().unwrap_or(kept),
            cut: self.cut_of().is_some(),
        }
    }
}

fn timestamp(nanos: i128) -> Timestamp {
    Timestamp::from_nanosecond(nanos).unwrap_or_default()
}

#[cfg(test)]
pub(super) mod tests {
    use chasqui_schemas::Reason;
    use uuid::Uuid;

    use super::*;

    /// A dead letter of `stage` with more headers.
    pub(crate) fn letter(stage: Stage, headers: &[(&str, &str)], payload: &[u8]) -> Letter {
        let mut map = HeaderMap::new();
        map.insert(header::STAGE, stage.as_str());
        for (name, value) in headers {
            map.insert(*name, *value);
        }
        Letter {
            sequence: 7,
            stored_at: Timestamp::from_second(1_900_000_000).unwrap(),
            subject: subject::dead(stage),
            headers: map,
            payload: Bytes::copy_from_slice(payload),
        }
    }

    #[test]
    fn a_letter_must_match_all_of_a_filter() {
        let (notification, delivery) = (Uuid::now_v7(), Uuid::now_v7());
        let letter = letter(
            Stage::Send,
            &[
                (header::REASON, "held"),
                (header::PROVIDER, "apns"),
                (header::NOTIFICATION, &notification.to_string()),
                (header::DELIVERY, &delivery.to_string()),
            ],
            b"",
        );
        let matching = [
            DeadFilter::default(),
            DeadFilter { reason: Some(Reason::Held), provider: Some("apns".into()), ..DeadFilter::default() },
            DeadFilter { stage: Some("send".into()), notification: Some(notification), ..DeadFilter::default() },
            DeadFilter { notification: Some(delivery), since: Some(letter.stored_at), ..DeadFilter::default() },
            DeadFilter { until: Some(letter.stored_at), ..DeadFilter::default() },
        ];
        assert!(matching.iter().all(|filter| letter.matches(filter)));
        let nanosecond = jiff::SignedDuration::from_nanos(1);
        let (earlier, later) = (letter.stored_at - nanosecond, letter.stored_at + nanosecond);
        let others = [
            DeadFilter { reason: Some(Reason::Held), provider: Some("fcm".into()), ..DeadFilter::default() },
            DeadFilter { reason: Some(Reason::Panicked), ..DeadFilter::default() },
            DeadFilter { stage: Some("render".into()), ..DeadFilter::default() },
            DeadFilter { notification: Some(Uuid::nil()), ..DeadFilter::default() },
            DeadFilter { since: Some(later), ..DeadFilter::default() },
            DeadFilter { until: Some(earlier), ..DeadFilter::default() },
        ];
        assert!(others.iter().all(|filter| !letter.matches(filter)));
    }

    #[test]
    fn a_number_says_which_stream_it_is_of() {
        for text in ["17", "r17"] {
            assert_eq!(text.parse::<Number>().unwrap().to_string(), text);
        }
        assert_ne!("17".parse::<Number>(), "r17".parse());
        for text in ["", "r", "x17", "-1", "rr1"] {
            assert!(text.parse::<Number>().unwrap_err().contains("dead list"), "{text}");
        }
    }

    #[test]
    fn a_letter_that_was_cut_says_how_large_it_was() {
        let summary = letter(Stage::Send, &[(header::CUT, "70000")], b"").summary();
        assert_eq!((summary.bytes, summary.cut), (70_000, true));
        let summary = letter(Stage::Send, &[], b"abc").summary();
        assert_eq!((summary.bytes, summary.cut), (3, false));
    }

    #[test]
    fn a_rejection_shows_its_violations_and_its_request() {
        let headers =
            [(header::DETAIL, r#"["a: wrong","b: missing"]"#), (header::REQUEST, "r"), (header::NOTIFICATION, "t")];
        let rejection = Letter { subject: subject::rejected("shop"), ..letter(Stage::Validate, &headers, b"") };
        let summary = rejection.summary();
        assert_eq!(summary.detail, "a: wrong; b: missing");
        assert_eq!((summary.request_id.as_deref(), summary.notification_id), (Some("r"), None));
    }
}
