//! From what SendGrid answers to what it means. See the [table](super).

use std::time::Duration;

use chasqui_contract::{Answer, Outcome};
use jiff::Timestamp;
use serde::Deserialize;

use crate::http::{MAX_RETRY_AFTER, Reply};

/// The only recipient's address, as `errors[].field` spells it.
const RECIPIENT: &str = "personalizations.0.to.0.email";
/// The sender's address.
const SENDER: &str = "from.email";

/// The body of an answer that says no.
#[derive(Default, Deserialize)]
struct Refusal {
    errors: Vec<Problem>,
}

/// One thing that is wrong.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Problem {
    message: String,
    field: Option<String>,
}

pub(super) fn classify(reply: &Reply, now: Timestamp) -> Answer {
    let Refusal { errors: problems } = reply.json();
    let field = |name: &str| problems.iter().any(|problem| problem.field.as_deref() == Some(name));
    let outcome = match reply.status.as_u16() {
        200 | 202 => Outcome::Accepted,
        // "Does not contain a valid address" is about how it is written; that a mailbox is gone, an event says.
        400 if field(RECIPIENT) => Outcome::Refused,
        400 if field(SENDER) => Outcome::Misconfigured,
        _ => reply.by_status(reset(reply, now).or_else(|| reply.retry_after(now))),
    };
    let words = |problem: &Problem| match &problem.field {
        Some(field) => format!("{} ({field})", problem.message),
        None => problem.message.clone(),
    };
    let detail = problems.iter().map(words).collect::<Vec<_>>().join("; ");
    let about_recipient = outcome == Outcome::Refused && field(RECIPIENT);
    let message_id = reply.header("X-Message-Id").to_owned();
    Answer { message_id, about_recipient, ..Answer::new(outcome, reply.code(), detail) }
}

/// How long until the moment that `X-RateLimit-Reset` names, in Unix seconds.
fn reset(reply: &Reply, now: Timestamp) -> Option<Duration> {
    let at: i64 = reply.header("X-RateLimit-Reset").trim().parse().ok()?;
    let wait = Timestamp::from_second(at).ok()?.duration_since(now);
    Some(Duration::try_from(wait).unwrap_or_default().min(MAX_RETRY_AFTER))
}
