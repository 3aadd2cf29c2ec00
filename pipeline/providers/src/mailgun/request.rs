//! From a delivery to the parameters of a request for a mail.
//!
//! Guarantee: pure. Whatever `overrides.mailgun` says, the recipient, our variables and our headers are ours.

use chasqui_contract::Answer;
use chasqui_schemas::Delivery;
use jiff::Timestamp;
use lettre::message::Mailbox;

use super::{NAME, OVERRIDES};
use crate::{
    mail::{Letter, MESSAGE_ID},
    payload::{self, Form},
};

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
) -> Result<Form, Box<Answer>> {
    let letter = Letter::of(delivery, from).map_err(Answer::from)?;
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
    rest.extend(letter.html.map(|html| ("html".to_owned(), html.into_owned())));
    rest.extend(within(delivery, now).map(|within| ("o:deliver-within".to_owned(), within)));
    let kept: Vec<&str> = ours.iter().map(|(name, _)| name.as_str()).chain(OVERRIDES.never.iter().copied()).collect();
    payload::lay_over_form(&mut rest, delivery, NAME, &kept);
    if payload::parameter(&rest, "template").is_some() {
        // Mailgun takes one of the two.
        rest.retain(|(name, _)| name != "html");
    }

    let parameters = [ours, rest].concat();
    let size = |counts: fn(&str) -> bool| {
        parameters.iter().filter(|(name, _)| counts(name)).map(|(name, value)| name.len() + value.len()).sum()
    };
    let is_option = |name: &str| ["o:", "h:", "v:", "t:"].iter().any(|prefix| name.starts_with(prefix));
    payload::check_size("bytes of options, headers and variables", size(is_option), MAX_OPTIONS)?;
    payload::check_size("bytes", size(|_| true), MAX_BYTES)?;
    Ok(parameters)
}

/// The parameters as `multipart/form-data` ([RFC 7578](https://www.rfc-editor.org/rfc/rfc7578#section-4.2)), in one piece:
/// streamed part by part, as the client's own form is, a mail takes twice the time. `boundary` is random, so that no
/// value holds it.
pub(super) fn multipart(parameters: &Form, boundary: &str) -> String {
    let mut body = String::new();
    for (name, value) in parameters {
        // What could end the name, as browsers write it.
        let name = name.replace('"', "%22").replace('\r', "%0D").replace('\n', "%0A");
        for piece in ["--", boundary, "\r\nContent-Disposition: form-data; name=\"", &name, "\"\r\n\r\n", value, "\r\n"]
        {
            body.push_str(piece);
        }
    }
    body + "--" + boundary + "--\r\n"
}

/// How long Mailgun may try, as hours and minutes; by itself it tries for longer than a day.
fn within(delivery: &Delivery, now: Timestamp) -> Option<String> {
    let minutes = delivery.expires_at?.duration_since(now).as_mins().max(*WITHIN.start());
    WITHIN.contains(&minutes).then(|| format!("{}h{}m", minutes / 60, minutes % 60))
}
