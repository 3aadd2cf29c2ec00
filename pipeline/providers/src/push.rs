//! What the push providers share: the device's token, our ids, keys that replace, the size of a payload, credentials in
//! headers.
//!
//! Guarantee: pure. Whatever a producer's `overrides` say, a payload keeps our ids, so that what an app reports hours
//! later joins its delivery without a look-up.

use std::borrow::Cow;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use chasqui_contract::{Answer, Outcome, Shortened};
use chasqui_schemas::{Delivery, delivery::Address, record::Platform};
use jiff::Timestamp;
use reqwest::header::HeaderValue;
use ring::digest;
use serde::Serialize;
use serde_json::{Map, Value};
use unicode_segmentation::UnicodeSegmentation;

use crate::payload;

/// Longest time that a message waits for its device, in seconds: four weeks, FCM's longest.
pub(super) const MAX_TTL_S: u64 = 28 * 24 * 60 * 60;

/// The token of a device of this platform.
///
/// # Errors
/// Another platform's device, or none: the route is wrong, so [`Outcome::Misconfigured`].
pub(super) fn token(delivery: &Delivery, of: Platform) -> Result<&str, Box<Answer>> {
    match &delivery.endpoint.address {
        Address::Device { platform, token, .. } if *platform == of => Ok(token),
        _ => {
            Err(Answer::new(Outcome::Misconfigured, "platform", "the endpoint is not a device of this push service")
                .into())
        }
    }
}

/// Writes our ids, over whatever stands there.
pub(super) fn put_ids(payload: &mut Map<String, Value>, delivery: &Delivery) {
    payload.insert("notification_id".into(), delivery.notification_id.to_string().into());
    payload.insert("delivery_id".into(), delivery.id.to_string().into());
}

/// Shortens a payload to `max` bytes of JSON by what a person reads, because a long message is better read in part than
/// not at all. `texts` are JSON pointers to it, in the order in which they give way; whatever else the payload holds, a
/// producer's overrides too, stays and counts. A text is cut after a whole grapheme, as a reader sees characters, and
/// ends with `…`. Answers what was cut, if anything.
///
/// # Errors
/// What is left without the texts is too large: [`Outcome::Refused`].
pub(super) fn fit(payload: &mut Value, texts: &[&str], max: usize) -> Result<Option<Shortened>, Box<Answer>> {
    let whole = json_bytes(payload);
    let (mut bytes, mut cut) = (whole, Vec::new());
    for pointer in texts {
        let too_many = bytes.saturating_sub(max);
        if too_many == 0 {
            break;
        }
        let Some(Value::String(text)) = payload.pointer_mut(pointer) else { continue };
        let shorter = beginning(text, too_many);
        if json_bytes(&shorter) < json_bytes(text) {
            *text = shorter;
            cut.extend(pointer.rsplit('/').next());
            bytes = json_bytes(payload);
        }
    }
    payload::check_size("bytes of payload", bytes, max)?;
    Ok((bytes < whole).then(|| Shortened { texts: cut.join(", "), bytes: whole - bytes }))
}

/// As much of the beginning of a text as takes so many bytes less as JSON, and `…`.
fn beginning(text: &str, less: usize) -> String {
    let mut room = json_bytes(text).saturating_sub(less + ELLIPSIS.len() + QUOTES);
    let mut end = 0;
    for grapheme in text.graphemes(true) {
        let bytes = json_bytes(grapheme) - QUOTES;
        if bytes > room {
            break;
        }
        room -= bytes;
        end += grapheme.len();
    }
    format!("{}{ELLIPSIS}", text[..end].trim_end())
}

/// Ends a text that goes on.
const ELLIPSIS: &str = "…";
/// Bytes of the quotation marks around a text.
const QUOTES: usize = 2;

fn json_bytes(value: &(impl Serialize + ?Sized)) -> usize {
    // Texts and JSON always serialise.
    serde_json::to_vec(value).map_or(QUOTES, |json| json.len())
}

/// A collapse key that a vendor takes: the key itself, or, where it is longer than `max` bytes or has others than
/// `allowed`, a hash of it, in base64url.
pub(super) fn collapse_key(key: &str, max: usize, allowed: fn(u8) -> bool) -> Cow<'_, str> {
    if key.len() <= max && key.bytes().all(allowed) {
        return Cow::Borrowed(key);
    }
    let mut hash = URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA256, key.as_bytes()));
    hash.truncate(max);
    Cow::Owned(hash)
}

/// Whole seconds that the message is worth anything; `None` where it does not expire.
pub(super) fn seconds_left(delivery: &Delivery, now: Timestamp) -> Option<u64> {
    let left = delivery.expires_at?.duration_since(now).as_secs();
    Some(u64::try_from(left).unwrap_or(0))
}

/// A header that no log shows. What cannot be one is a credential with a line break in it.
pub(super) fn credential(text: &str) -> Result<HeaderValue, Box<Answer>> {
    let mut value = HeaderValue::from_str(text)
        .map_err(|_| Answer::new(Outcome::Misconfigured, "credential", "a credential is not fit for a header"))?;
    value.set_sensitive(true);
    Ok(value)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn push(title: &str, body: &str, more: usize) -> Value {
        json!({ "title": title, "body": body, "more": "x".repeat(more) })
    }

    #[test]
    fn a_text_is_cut_where_a_reader_sees_characters_end() {
        // A family of five code points, a flag of two, an accent of its own, a line break of two bytes in JSON.
        for (text, expected) in [
            ("👨‍👩‍👧👨‍👩‍👧👨‍👩‍👧", "👨‍👩‍👧…"),
            ("🇰🇷🇰🇷🇰🇷🇰🇷🇰🇷", "🇰🇷🇰🇷🇰🇷…"),
            (
                "e\u{301}e\u{301}e\u{301}e\u{301}e\u{301}e\u{301}e\u{301}e\u{301}e\u{301}e\u{301}e\u{301}e\u{301}",
                "e\u{301}e\u{301}e\u{301}e\u{301}e\u{301}e\u{301}e\u{301}e\u{301}…",
            ),
            ("\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n", "…"),
            ("twenty bytes and some more bytes", "twenty bytes and some mo…"),
        ] {
            let mut payload = push("t", text, 0);
            let most = push("t", "", 0).to_string().len() + 27;
            let shortened = fit(&mut payload, &["/body", "/title"], most).unwrap().unwrap();
            assert_eq!((payload["body"].as_str(), shortened.texts.as_str()), (Some(expected), "body"), "{text}");
        }
    }

    #[test]
    fn the_title_gives_way_last_and_what_is_not_to_be_read_never() {
        let most = push("", "", 0).to_string().len() + 20;
        let mut payload = push(&"t".repeat(30), "body", 0);
        let shortened = fit(&mut payload, &["/body", "/title"], most).unwrap().unwrap();
        assert_eq!((shortened.texts.as_str(), shortened.bytes), ("body, title", 14));
        assert_eq!((&payload["title"], &payload["body"]), (&json!(format!("{}…", "t".repeat(14))), &json!("…")));
        let refused = fit(&mut push("title", "body", 20), &["/body", "/title"], most).unwrap_err();
        assert_eq!((refused.outcome, refused.code.as_str()), (Outcome::Refused, "too_large"));
        let mut small = push("title", "body", 0);
        assert_eq!(fit(&mut small, &["/body", "/title"], most), Ok(None));
        assert_eq!(small, push("title", "body", 0));
    }

    proptest! {
        #[test]
        fn what_is_shortened_fits_and_is_a_beginning(title in ".{0,60}", body in ".{0,200}", more in 0usize..90, most in 40usize..300) {
            let whole = push(&title, &body, more);
            let mut payload = whole.clone();
            match fit(&mut payload, &["/body", "/title"], most) {
                Ok(shortened) => {
                    prop_assert!(payload.to_string().len() <= most);
                    prop_assert_eq!(shortened.is_none(), payload == whole);
                    for (name, text) in [("title", &title), ("body", &body)] {
                        let left = payload[name].as_str().unwrap();
                        prop_assert!(left == text || text.starts_with(left.strip_suffix(ELLIPSIS).unwrap()));
                    }
                }
                Err(_) => prop_assert!(push("…", "…", more).to_string().len() > most || title.len() < 4 || body.len() < 4),
            }
        }

        #[test]
        fn a_collapse_key_is_fit_and_tells_keys_apart(a in ".{0,80}", b in ".{0,80}", max in 22usize..64) {
            let fit = |key: &str| collapse_key(key, max, |byte| byte.is_ascii_alphanumeric()).into_owned();
            for key in [fit(&a), fit(&b)] {
                prop_assert!(key.len() <= max);
                prop_assert!(key.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte)));
            }
            prop_assert_eq!(fit(&a) == fit(&b), a == b);
        }
    }
}
