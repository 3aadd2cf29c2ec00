//! Makes a letter's content readable.
//!
//! Guarantee: without `--reveal` no address and no token is shown. They are replaced wherever a field is named after one
//! or a text looks like one; bytes that cannot be decoded are not shown at all. The text of a message is shown, because
//! it is often what went wrong.
//!
//! It only reads, so a crash changes nothing.

use chasqui_schemas::{
    Delivery, Notification, Stage,
    envelope::{self, DecodeError},
    header, hex,
};
use serde::Deserialize;
use serde_json::Value;

use super::letter::Letter;

/// In place of an address.
const HIDDEN: &str = "(hidden)";
/// Names of fields that hold addresses, anywhere in a message.
const ADDRESSES: &[&str] = &["email", "emails", "phone", "phones", "mailbox", "token", "inbox"];
/// Maximum bytes shown of content that cannot be decoded: a screen or two.
const MAX_BYTES: usize = 4 * 1024;
/// Maximum depth of nesting that is decoded, as in the envelope between stages.
const MAX_DEPTH: usize = 128;

/// What a letter held for the stage that gave up.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Content {
    Notification(Notification),
    Delivery(Delivery),
    /// A submission or a receipt.
    Document(Value),
    /// Neither.
    Bytes,
}

impl Content {
    /// Reads the payload as the stage would have.
    pub(super) fn of(letter: &Letter) -> Self {
        let envelope = match letter.stage() {
            Some(Stage::Enrich | Stage::Filter | Stage::Dedupe | Stage::Render) => {
                envelope::decode(&letter.payload).map(Content::Notification)
            }
            Some(Stage::Prioritize | Stage::Send) => envelope::decode(&letter.payload).map(Content::Delivery),
            Some(Stage::Validate) | None => Err(DecodeError::NotAnEnvelope(None)),
        };
        let document = || {
            let json = serde_json::from_slice(&letter.payload).ok();
            let message_pack =
                || letter.header(header::CONTENT_TYPE).contains("msgpack").then(|| unpack(&letter.payload));
            Some(Content::Document(json.or_else(|| message_pack().flatten())?))
        };
        envelope.ok().or_else(document).unwrap_or(Content::Bytes)
    }
}

/// MessagePack as JSON.
pub(in crate::commands) fn unpack(bytes: &[u8]) -> Option<Value> {
    let mut reader = rmp_serde::Deserializer::from_read_ref(bytes);
    reader.set_max_depth(MAX_DEPTH);
    Value::deserialize(&mut reader).ok()
}

/// The content as JSON, or as a JSON string where it is no document, or `None` where it is not shown; and a note for the
/// reader.
pub(super) fn readable(letter: &Letter, reveal: bool) -> (Option<Value>, Option<String>) {
    if let Some(bytes) = letter.cut_of()
        && letter.payload.is_empty()
    {
        return (
            None,
            Some(format!("Its payload, {bytes} bytes, was not kept, because there were too many dead letters.")),
        );
    }
    let value = match Content::of(letter) {
        Content::Notification(notification) => serde_json::to_value(notification).ok(),
        Content::Delivery(delivery) => serde_json::to_value(delivery).ok(),
        Content::Document(value) => Some(value),
        Content::Bytes => None,
    };
    match (value, reveal) {
        (Some(value), true) => (Some(value), None),
        (Some(mut value), false) => {
            let hidden = hide(&mut value);
            (Some(value), hidden.then(|| "Addresses and tokens are hidden: `--reveal` shows them.".to_owned()))
        }
        (None, true) => {
            let all = letter.cut_of().unwrap_or(letter.payload.len());
            let cut = all.saturating_sub(letter.payload.len().min(MAX_BYTES));
            (Some(shown(&letter.payload).into()), (cut > 0).then(|| format!("{cut} more bytes are not shown.")))
        }
        (None, false) => {
            let size = letter.payload.len();
            (None, Some(format!("Its {size} bytes cannot be decoded, and may hold addresses: `--reveal` shows them.")))
        }
    }
}

/// Replaces every address. True if there was one.
fn hide(value: &mut Value) -> bool {
    match value {
        Value::Object(fields) => fields.iter_mut().fold(false, |hidden, (name, value)| {
            let holds_addresses = ADDRESSES.contains(&name.to_ascii_lowercase().as_str());
            (if holds_addresses { hide_all(value) } else { hide(value) }) | hidden
        }),
        Value::Array(values) => values.iter_mut().fold(false, |hidden, value| hide(value) | hidden),
        Value::String(text) if is_address(text) => hide_all(value),
        _ => false,
    }
}

/// Replaces every text and number in a field that holds addresses. True if there was one.
fn hide_all(value: &mut Value) -> bool {
    match value {
        Value::Object(fields) => fields.values_mut().fold(false, |hidden, value| hide_all(value) | hidden),
        Value::Array(values) => values.iter_mut().fold(false, |hidden, value| hide_all(value) | hidden),
        Value::String(text) => {
            HIDDEN.clone_into(text);
            true
        }
        Value::Number(_) => {
            *value = HIDDEN.into();
            true
        }
        Value::Null | Value::Bool(_) => false,
    }
}

/// A mailbox, or a phone number (E.164).
fn is_address(text: &str) -> bool {
    let mailbox = text.contains('@') && !text.contains(char::is_whitespace) && text.len() <= 254;
    let phone = text
        .strip_prefix('+')
        .is_some_and(|digits| (7..=15).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit()));
    mailbox || phone
}

/// The header block of a letter that came with unreadable ones; only where addresses are shown.
pub(super) fn headers(letter: &Letter, reveal: bool) -> Option<String> {
    Some(shown(&letter.raw_headers().filter(|_| reveal)?))
}

/// The first bytes: as text where they are UTF-8, else in hexadecimal.
fn shown(bytes: &[u8]) -> String {
    let first = &bytes[..bytes.len().min(MAX_BYTES)];
    match std::str::from_utf8(first) {
        Ok(text) => text.to_owned(),
        // Only the last character is incomplete, because the cut went through it.
        Err(error) if error.error_len().is_none() => {
            String::from_utf8_lossy(&first[..error.valid_up_to()]).into_owned()
        }
        Err(_) => hex::encode(first),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{super::letter::tests::letter, *};

    #[test]
    fn no_address_is_shown_unless_asked_for() {
        let submission = json!({
            "recipients": ["ada", {"email": "ada@example.com", "locale": "en"}, {"phone": "+15550001111"}],
            "data": {"cc": "bob@example.com", "call": "+15550002222", "text": "mail me @ home", "token": 17},
            "contacts": {"emails": ["a"], "devices": [{"platform": "web", "token": {"endpoint": "https://push"}}]},
        });
        let letter = letter(Stage::Validate, &[], submission.to_string().as_bytes());
        let (hidden, note) = readable(&letter, false);
        let text = hidden.unwrap().to_string();
        for secret in ["example.com", "+1555", "https://push", "17", "[\"a\"]"] {
            assert!(!text.contains(secret), "{secret} in {text}");
        }
        assert!(text.contains("mail me @ home") && text.contains("\"ada\"") && text.contains("\"en\""), "{text}");
        assert!(note.unwrap().contains("--reveal"));
        assert_eq!(readable(&letter, true), (Some(submission), None));
    }

    #[test]
    fn bytes_are_shown_only_when_asked_for() {
        let text = letter(Stage::Validate, &[], b"{\"email\": \"ada@example.com\"");
        let (content, note) = readable(&text, false);
        assert_eq!(content, None);
        assert!(note.unwrap().contains("--reveal"));
        assert_eq!(readable(&text, true).0.unwrap(), "{\"email\": \"ada@example.com\"");
        assert_eq!(readable(&letter(Stage::Send, &[], b"\x92\xff"), true).0.unwrap(), "92ff");
    }

    #[test]
    fn long_bytes_are_cut() {
        let (content, note) = readable(&letter(Stage::Validate, &[], "é".repeat(MAX_BYTES).as_bytes()), true);
        assert_eq!(content.unwrap().as_str().unwrap().len(), MAX_BYTES);
        assert!(note.unwrap().contains(&MAX_BYTES.to_string()));
        let (content, _) =
            readable(&letter(Stage::Validate, &[], format!("x{}", "é".repeat(MAX_BYTES)).as_bytes()), true);
        assert_eq!(content.unwrap().as_str().unwrap().len(), MAX_BYTES - 1);
    }

    #[test]
    fn what_was_not_kept_is_said() {
        let cut = letter(Stage::Send, &[(header::CUT, "70000")], b"");
        let (content, note) = readable(&cut, true);
        assert!(content.is_none() && note.unwrap().contains("70000 bytes, was not kept"));
        let beginning = letter(Stage::Validate, &[(header::CUT, "70000")], b"not JSON");
        let (content, note) = readable(&beginning, true);
        assert_eq!(content.unwrap(), "not JSON");
        assert!(note.unwrap().contains("69992 more bytes"));
    }

    #[test]
    fn message_pack_is_decoded_where_the_letter_says_so() {
        let bytes = rmp_serde::to_vec(&json!({"category": "order"})).unwrap();
        let packed = letter(Stage::Validate, &[(header::CONTENT_TYPE, "application/msgpack")], &bytes);
        assert_eq!(Content::of(&packed), Content::Document(json!({"category": "order"})));
        assert_eq!(Content::of(&letter(Stage::Validate, &[], &bytes)), Content::Bytes);
    }
}
