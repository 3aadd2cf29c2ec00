//! From a delivery to the parameters of a request for a mail.
//!
//! Guarantee: pure. Whatever `overrides.mailgun` says, the recipient, our variables and our headers are ours.

use chasqui_contract::Answer;
use chasqui_schemas::Delivery;
use jiff::Timestamp;
use lettre::message::Mailbox;
use serde_json::Value;

use super::NAME;
use crate::providers::mail::{self, Letter, MESSAGE_ID};

/// Largest mail, in bytes.
/// [Source](https://documentation.mailgun.com/docs/mailgun/user-manual/sending-messages/send-http)
const MAX_BYTES: usize = 25 * 1024 * 1024;
/// Largest options, headers and variables together, in bytes; from the specification.
const MAX_OPTIONS: usize = 16 * 1024;
/// Shortest and longest `o:deliver-within`, in minutes.
const WITHIN: std::ops::RangeInclusive<i64> = 5..=24 * 60;

/// The parameters, by name; some names stand more than once.
pub(super) fn parameters(
    delivery: &Delivery,
    from: &Mailbox,
    test_mode: bool,
    now: Timestamp,
) -> Result<Vec<(String, String)>, Answer> {
    let letter = Letter::of(delivery, from)?;
    // What no override may touch.
    let mut ours = vec![
        ("to".to_owned(), letter.to.to_string()),
        ("v:notification_id".to_owned(), delivery.notification_id.to_string()),
        ("v:delivery_id".to_owned(), delivery.id.to_string()),
        (format!("h:{MESSAGE_ID}"), format!("<{}>", letter.message_id)),
    ];
    ours.extend(letter.headers.iter().map(|(name, value)| (format!("h:{name}"), value.clone())));
    if test_mode {
        ours.push(("o:testmode".to_owned(), "yes".to_owned()));
    }

    let mut rest = vec![
        ("from".to_owned(), from.to_string()),
        ("subject".to_owned(), letter.subject),
        ("o:tag".to_owned(), delivery.category.clone()),
        ("v:app".to_owned(), delivery.app.clone()),
    ];
    rest.extend(letter.text.map(|text| ("text".to_owned(), text.into_owned())));
    rest.extend(letter.html.map(|html| ("html".to_owned(), html.to_owned())));
    rest.extend(within(delivery, now).map(|within| ("o:deliver-within".to_owned(), within)));
    if let Some(Value::Object(over)) = delivery.overrides.get(NAME) {
        let adds_recipients = |name: &str| ["cc", "bcc", "recipient-variables"].contains(&name);
        let is_ours = |name: &str| adds_recipients(name) || ours.iter().any(|(own, _)| own.eq_ignore_ascii_case(name));
        for (name, value) in over.iter().filter(|(name, _)| !is_ours(&name.to_ascii_lowercase())) {
            rest.retain(|(own, _)| !own.eq_ignore_ascii_case(name));
            rest.extend(values(value).into_iter().map(|value| (name.clone(), value)));
        }
        if over.contains_key("template") {
            // Mailgun takes one of the two.
            rest.retain(|(name, _)| name != "html");
        }
    }

    let parameters = [ours, rest].concat();
    let size = |counts: fn(&str) -> bool| {
        parameters.iter().filter(|(name, _)| counts(name)).map(|(name, value)| name.len() + value.len()).sum()
    };
    let is_option = |name: &str| ["o:", "h:", "v:", "t:"].iter().any(|prefix| name.starts_with(prefix));
    mail::check_size("options, headers and variables", size(is_option), MAX_OPTIONS)?;
    mail::check_size("the request", size(|_| true), MAX_BYTES)?;
    Ok(parameters)
}

/// An override's value as parameters: a list is one for each of its items, an object its JSON, null none.
fn values(value: &Value) -> Vec<String> {
    match value {
        Value::Null => Vec::new(),
        Value::Array(items) => items.iter().flat_map(values).collect(),
        Value::String(text) => vec![text.clone()],
        other => vec![other.to_string()],
    }
}

/// How long Mailgun may try, as hours and minutes; by itself it tries for longer than a day.
fn within(delivery: &Delivery, now: Timestamp) -> Option<String> {
    let minutes = delivery.expires_at?.duration_since(now).as_mins().max(*WITHIN.start());
    WITHIN.contains(&minutes).then(|| format!("{}h{}m", minutes / 60, minutes % 60))
}
