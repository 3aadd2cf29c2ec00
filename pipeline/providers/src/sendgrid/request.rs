//! From a delivery to the body of a Mail Send request.
//!
//! Guarantee: pure. Whatever `overrides.sendgrid` says, the recipient, our ids and our headers are ours.

use chasqui_contract::{Answer, Outcome};
use chasqui_schemas::Delivery;
use lettre::message::Mailbox;
use serde_json::{Map, Value, json};

use super::{NAME, OVERRIDES};
use crate::{
    mail::{self, Letter, MESSAGE_ID},
    payload,
};

/// Largest mail, in bytes, [with its attachments](https://www.twilio.com/docs/sendgrid/api-reference/mail-send).
const MAX_BYTES: usize = 30 * 1024 * 1024;

/// The body, as JSON.
pub(super) fn body(delivery: &Delivery, from: &Mailbox, sandbox_mode: bool) -> Result<Vec<u8>, Box<Answer>> {
    let bytes = serde_json::to_vec(&message(delivery, from, sandbox_mode).map_err(Answer::from)?)
        .map_err(|error| Answer::new(Outcome::Refused, "json", error.to_string()))?;
    payload::check_size("bytes", bytes.len(), MAX_BYTES)?;
    Ok(bytes)
}

fn message(delivery: &Delivery, from: &Mailbox, sandbox_mode: bool) -> Result<Map<String, Value>, mail::Error> {
    let letter = Letter::of(delivery, from)?;
    let mut body = Map::new();
    let mut put = |name: &str, value| _ = body.insert(name.to_owned(), value);
    put("from", mailbox(from));
    put("categories", json!([delivery.category]));
    if !letter.subject.is_empty() {
        put("subject", json!(letter.subject));
    }
    // SendGrid wants the plain text first.
    let parts = [("text/plain", letter.text.as_deref()), ("text/html", letter.html.as_deref())];
    let parts = parts.into_iter().filter_map(|(kind, text)| Some(json!({ "type": kind, "value": text? })));
    let content: Vec<_> = parts.collect();
    if !content.is_empty() {
        put("content", content.into());
    }

    let mut headers = Map::new();
    payload::lay_over(&mut body, delivery, NAME, OVERRIDES.never);
    if let Some(Value::Object(more)) = body.remove("headers") {
        headers.extend(more.into_iter().filter(|(name, _)| !letter.keeps(name)));
    }
    headers.insert(MESSAGE_ID.to_owned(), json!(format!("<{}>", letter.message_id)));
    headers.extend(letter.headers.into_iter().map(|(name, value)| (name.to_owned(), value.into())));

    let mut put = |name: &str, value| _ = body.insert(name.to_owned(), value);
    put("headers", headers.into());
    put(
        "personalizations",
        json!([{
            "to": [{ "email": letter.to.to_string() }],
            "custom_args": {
                "notification_id": delivery.notification_id,
                "delivery_id": delivery.id,
                "app": delivery.app,
            },
        }]),
    );
    if sandbox_mode {
        payload::edit(&mut body, "mail_settings", |settings| {
            _ = settings.insert("sandbox_mode".to_owned(), json!({ "enable": true }));
        });
    }
    Ok(body)
}

fn mailbox(mailbox: &Mailbox) -> Value {
    match &mailbox.name {
        Some(name) => json!({ "email": mailbox.email.to_string(), "name": name }),
        None => json!({ "email": mailbox.email.to_string() }),
    }
}
