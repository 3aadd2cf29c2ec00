//! What all mails have in common, whoever carries them: recipient, sender, subject, parts, headers; and what the two
//! providers that are asked over HTTP share.
//!
//! Guarantee: pure. Every attempt of a delivery has the same Message-ID, headers and parts, so that a mailbox can tell a
//! repeat. Whatever a title or an override holds, it cannot begin a header of its own, name another recipient or
//! replace our ids.

mod plain;

use std::{borrow::Cow, time::Duration};

use chasqui_contract::{Answer, Outcome};
use chasqui_schemas::{Delivery, delivery::Address, submission::Content};
use lettre::message::Mailbox;
use reqwest::{StatusCode, Url};
use serde_json::{Map, Value};

use crate::ConfigError;

/// The notification's id, for whoever looks at the mail's source.
pub(super) const NOTIFICATION: &str = "X-Chasqui-Notification";
/// The delivery's id.
pub(super) const DELIVERY: &str = "X-Chasqui-Delivery";
/// No person wrote it: vacation responders keep still.
/// [RFC 3834](https://www.rfc-editor.org/rfc/rfc3834#section-5)
pub(super) const AUTO_SUBMITTED: &str = "Auto-Submitted";
/// Where to unsubscribe. [RFC 2369](https://www.rfc-editor.org/rfc/rfc2369#section-3.2)
pub(super) const LIST_UNSUBSCRIBE: &str = "List-Unsubscribe";
/// One POST there is enough. [RFC 8058](https://www.rfc-editor.org/rfc/rfc8058#section-3.1)
pub(super) const LIST_UNSUBSCRIBE_POST: &str = "List-Unsubscribe-Post";
/// The mail's own id.
pub(super) const MESSAGE_ID: &str = "Message-ID";

/// Longest subject, in characters.
const MAX_SUBJECT: usize = 500;
/// Longest address to unsubscribe at: a line of a mail has 998 characters at most (RFC 5322, 2.1.1).
const MAX_UNSUBSCRIBE: usize = 900;

/// A delivery, read as a mail.
#[derive(Debug)]
pub(super) struct Letter<'a> {
    /// The recipient.
    pub(super) to: lettre::Address,
    /// Of the delivery and the sender's domain, without angle brackets.
    pub(super) message_id: String,
    /// One line; may be empty.
    pub(super) subject: String,
    /// The plain text, derived from the HTML where there is none.
    pub(super) text: Option<Cow<'a, str>>,
    /// The HTML, where there is any.
    pub(super) html: Option<&'a str>,
    /// Our headers beside those that every mail has.
    pub(super) headers: Vec<(&'static str, String)>,
}

/// Why a delivery cannot be made a mail.
#[derive(Debug, PartialEq, thiserror::Error)]
pub(super) enum Error {
    #[error("a mail needs a mailbox: correct the routes")]
    NotAMailbox,
    #[error("not a mail address")]
    Address(#[from] lettre::address::AddressError),
}

impl From<Error> for Answer {
    fn from(error: Error) -> Self {
        let (outcome, code) = match error {
            Error::NotAMailbox => (Outcome::Misconfigured, "channel"),
            Error::Address(_) => (Outcome::Refused, "address"),
        };
        Answer::new(outcome, code, error.to_string())
    }
}

impl<'a> Letter<'a> {
    /// Reads a delivery as a mail from `from`.
    pub(super) fn of(delivery: &'a Delivery, from: &Mailbox) -> Result<Self, Error> {
        let Address::Mailbox(to) = &delivery.endpoint.address else { return Err(Error::NotAMailbox) };
        Ok(Letter {
            to: to.parse()?,
            message_id: format!("{}@{}", delivery.id, from.email.domain()),
            subject: one_line(delivery.content.title.as_deref().unwrap_or_default(), MAX_SUBJECT),
            text: text(&delivery.content),
            html: said(&delivery.content.html),
            headers: headers(delivery),
        })
    }

    /// Whether a header is ours, so that no override replaces it.
    pub(super) fn keeps(&self, header: &str) -> bool {
        let names = self.headers.iter().map(|(name, _)| *name).chain([MESSAGE_ID]);
        names.into_iter().any(|name| name.eq_ignore_ascii_case(header))
    }
}

fn headers(delivery: &Delivery) -> Vec<(&'static str, String)> {
    let mut headers = vec![
        (NOTIFICATION, delivery.notification_id.to_string()),
        (DELIVERY, delivery.id.to_string()),
        (AUTO_SUBMITTED, "auto-generated".to_owned()),
    ];
    let fits = |url: &&String| url.len() <= MAX_UNSUBSCRIBE && url.bytes().all(|b| b.is_ascii_graphic() && b != b'>');
    if let Some(url) = delivery.unsubscribe_url.as_ref().filter(fits) {
        headers.push((LIST_UNSUBSCRIBE, format!("<{url}>")));
        // A POST that nobody confirms must not go in the clear: RFC 8058 wants HTTPS.
        if url.starts_with("https://") {
            headers.push((LIST_UNSUBSCRIBE_POST, "List-Unsubscribe=One-Click".to_owned()));
        }
    }
    headers
}

/// The first `max` characters; control characters, line breaks among them, become blanks.
pub(super) fn one_line(text: &str, max: usize) -> String {
    text.chars().take(max).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// The plain text, with the link below where the text does not hold it.
fn text(content: &Content) -> Option<Cow<'_, str>> {
    let derived = || said(&content.html).map(plain::text).filter(|text| !text.is_empty()).map(Cow::Owned);
    let text = said(&content.body).map(Cow::Borrowed).or_else(derived);
    match (text, said(&content.url)) {
        (Some(text), Some(url)) if !text.contains(url) => Some(Cow::Owned(format!("{text}\r\n\r\n{url}\r\n"))),
        (text, url) => text.or(url.map(Cow::Borrowed)),
    }
}

/// A text that says something.
fn said(text: &Option<String>) -> Option<&str> {
    text.as_deref().filter(|text| !text.trim().is_empty())
}

/// The sender. `key` is the setting's name, for errors.
pub(super) fn sender(key: &str, text: &str) -> Result<Mailbox, ConfigError> {
    text.parse().map_err(|error| ConfigError::invalid(key, format!("`{text}` is not a mailbox: {error}")))
}

/// The address of a vendor's API with more segments. `key` is the setting's name, for errors.
pub(super) fn api(key: &str, text: &str, segments: &[&str]) -> Result<Url, ConfigError> {
    let wrong = || ConfigError::invalid(key, format!("`{text}` is not an http:// or https:// address"));
    let mut url = Url::parse(text).ok().filter(|url| matches!(url.scheme(), "http" | "https")).ok_or_else(wrong)?;
    url.path_segments_mut().map_err(|()| wrong())?.pop_if_empty().extend(segments);
    Ok(url)
}

/// Refuses limits that cannot work. `key` is the provider's section.
pub(super) fn check_limits(key: &str, timeout_ms: u64, concurrency: usize) -> Result<(), ConfigError> {
    match (timeout_ms, concurrency) {
        (1.., 1..=1_000) => Ok(()),
        _ => Err(ConfigError::invalid(key, "`timeout_ms` must be more than 0, and `concurrency` 1 to 1,000")),
    }
}

/// JSON Merge Patch ([RFC 7396](https://www.rfc-editor.org/rfc/rfc7396)): objects are merged, null removes, anything
/// else replaces.
pub(super) fn merge(into: &mut Map<String, Value>, over: &Map<String, Value>) {
    for (key, over) in over {
        match over {
            Value::Null => _ = into.remove(key),
            Value::Object(over) => {
                let mut object = match into.remove(key) {
                    Some(Value::Object(object)) => object,
                    _ => Map::new(),
                };
                merge(&mut object, over);
                into.insert(key.clone(), Value::Object(object));
            }
            _ => _ = into.insert(key.clone(), over.clone()),
        }
    }
}

/// Refuses what is larger than `max` bytes.
pub(super) fn check_size(what: &str, bytes: usize, max: usize) -> Result<(), Answer> {
    if bytes <= max {
        return Ok(());
    }
    Err(Answer::new(Outcome::Refused, "too_large", format!("{what}: {bytes} bytes, of {max} at most")))
}

/// What the status of an answer means, where it is not the one that says the mail was taken.
///
/// | status | means |
/// |---|---|
/// | 429 | throttled, until the moment named |
/// | 401, 402, 403 | misconfigured: credentials, permissions, sender, bill |
/// | 404, 405, 406, 451, 3xx | misconfigured: the address, the domain or the region |
/// | 408 | try later: the request did not arrive whole |
/// | other 4xx | refused |
/// | 502, 504 | no answer: something in between lost it |
/// | other 5xx | try later |
/// | 1xx, 2xx | no answer: not the vendor's own; it may have been taken |
pub(super) fn by_status(status: StatusCode, after: Option<Duration>) -> Outcome {
    match status.as_u16() {
        ..=299 | 502 | 504 => Outcome::NoAnswer,
        429 => Outcome::Throttled { after },
        401..=406 | 451 | 300..=399 => Outcome::Misconfigured,
        408 | 500.. => Outcome::TryLater { after },
        400..=499 => Outcome::Refused,
    }
}

#[cfg(test)]
mod tests;
