//! From what Mailgun answers to what it means. See the [table](super).

use std::time::Duration;

use chasqui_contract::{Answer, Outcome};
use jiff::Timestamp;
use serde::Deserialize;

use crate::http::{MAX_RETRY_AFTER, Reply};

/// Every body that Mailgun answers with.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Body {
    id: Option<String>,
    message: String,
}

pub(super) fn classify(reply: &Reply, now: Timestamp) -> Answer {
    // Some refusals are a bare text: `Forbidden`, as JSON or not.
    let text = || Body {
        message: serde_json::from_slice(&reply.body)
            .unwrap_or_else(|_| String::from_utf8_lossy(&reply.body).into_owned()),
        ..Body::default()
    };
    let body: Body = serde_json::from_slice(&reply.body).unwrap_or_else(|_| text());
    let outcome = match (reply.status.as_u16(), &body.id) {
        (200, Some(_)) => Outcome::Accepted,
        _ => reply.by_status(reply.retry_after(now).or_else(|| named(&body.message))),
    };
    // `<…@domain>` in the answer, without the brackets in events.
    let message_id = body.id.unwrap_or_default().trim_matches(['<', '>']).to_owned();
    Answer { message_id, ..Answer::new(outcome, reply.code(), body.message) }
}

/// The delay that a message names: `… try again after 120 seconds`. There is no other place for it.
fn named(message: &str) -> Option<Duration> {
    let (_, rest) = message.rsplit_once(" after ")?;
    let mut words = rest.split_whitespace();
    let seconds: u64 = words.next()?.parse().ok()?;
    words.next()?.starts_with("second").then(|| Duration::from_secs(seconds).min(MAX_RETRY_AFTER))
}
