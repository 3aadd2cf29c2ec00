//! From what SendGrid answers to what it means. See the [table](super).

use std::time::Duration;

use chasqui_contract::{Answer, Outcome};
use jiff::Timestamp;
use reqwest::header::HeaderMap;
use serde::Deserialize;

use crate::{
    http::{MAX_RETRY_AFTER, Reply, retry_after},
    providers::mail::by_status,
};

/// The only recipient's address, as `errors[].field` spells it.
const RECIPIENT: &str = "personalizations.0.to.0.email";
/// The sender's address.
const SENDER: &str = "from.email";

/// The body of an answer that says no.
#[derive(Deserialize)]
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
    let code = reply.status.as_u16();
    let refusal: Option<Refusal> = serde_json::from_slice(&reply.body).ok();
    let problems = refusal.map(|refusal| refusal.errors).unwrap_or_default();
    let field = |name: &str| problems.iter().any(|problem| problem.field.as_deref() == Some(name));
    let outcome = match code {
        200 | 202 => Outcome::Accepted,
        400 if field(RECIPIENT) => Outcome::DeadEndpoint,
        400 if field(SENDER) => Outcome::Misconfigured,
        _ => by_status(reply.status, reset(&reply.headers, now).or_else(|| retry_after(&reply.headers, now))),
    };
    let words = |problem: &Problem| match &problem.field {
        Some(field) => format!("{} ({field})", problem.message),
        None => problem.message.clone(),
    };
    let detail = problems.iter().map(words).collect::<Vec<_>>().join("; ");
    let message_id = reply.headers.get("X-Message-Id").and_then(|id| id.to_str().ok()).unwrap_or_default().to_owned();
    Answer { message_id, ..Answer::new(outcome, code.to_string(), detail) }
}

/// How long until the moment that `X-RateLimit-Reset` names, in Unix seconds.
fn reset(headers: &HeaderMap, now: Timestamp) -> Option<Duration> {
    let at: i64 = headers.get("X-RateLimit-Reset")?.to_str().ok()?.trim().parse().ok()?;
    let wait = Timestamp::from_second(at).ok()?.duration_since(now);
    Some(Duration::try_from(wait).unwrap_or_default().min(MAX_RETRY_AFTER))
}
