//! What vendors' callbacks share: our ids, the addresses that they switch off, texts that were cut.

use std::borrow::Cow;

use chasqui_contract::AddressFact;
use serde::de::DeserializeOwned;
use uuid::Uuid;

/// The ids that came back with a message. Whether they are ours, the gateway asks.
pub(crate) fn ids(notification: Option<&str>, delivery: Option<&str>) -> Option<(Uuid, Uuid)> {
    Some((notification?.parse().ok()?, delivery?.parse().ok()?))
}

/// Nothing more may go to this address.
pub(crate) fn switch_off(address: &str, reason: &'static str) -> Option<AddressFact> {
    let is_address = !address.trim().is_empty();
    is_address.then(|| AddressFact { address: address.to_owned(), reason })
}

/// JSON of which texts may have been cut in the middle of a character, by bytes or by UTF-16: vendors cut what mail
/// servers and browsers say. What is left of the character is replaced, and the rest counts.
pub(crate) fn json<T: DeserializeOwned>(bytes: &[u8]) -> Option<T> {
    serde_json::from_slice(bytes).or_else(|_| serde_json::from_str(&whole(&String::from_utf8_lossy(bytes)))).ok()
}

/// JSON in which no escape is half a surrogate pair.
fn whole(json: &str) -> Cow<'_, str> {
    /// What an escape is of: a first or a second half.
    fn half(escape: &[u8]) -> Option<bool> {
        let digits = escape.strip_prefix(b"\\u")?.get(..4)?;
        let unit = u16::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
        matches!(unit, 0xD800..=0xDFFF).then_some(unit < 0xDC00)
    }
    let bytes = json.as_bytes();
    let (mut mended, mut kept, mut at) = (String::new(), 0, 0);
    while let Some(found) = json[at..].find('\\') {
        at += found;
        let step = match half(&bytes[at..]) {
            // What follows the backslash belongs to it, another backslash above all.
            None => json[at..].chars().take(2).map(char::len_utf8).sum(),
            Some(true) if bytes.get(at + 6..).and_then(half) == Some(false) => 12,
            Some(_) => {
                mended.push_str(&json[kept..at]);
                mended.push_str("\\ufffd");
                kept = at + 6;
                6
            }
        };
        at += step;
    }
    if kept == 0 { Cow::Borrowed(json) } else { Cow::Owned(mended + &json[kept..]) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_two_uuids() {
        let (notification, delivery) = (Uuid::now_v7(), Uuid::from_u128(9));
        let texts = (notification.to_string(), delivery.simple().to_string());
        assert_eq!(ids(Some(&texts.0), Some(&texts.1)), Some((notification, delivery)));
        assert_eq!((ids(Some(&texts.0), Some("")), ids(None, Some(&texts.1))), (None, None));
    }

    #[test]
    fn half_a_character_costs_that_character_and_nothing_else() {
        for (text, expected) in [
            (r#"["full \ud83d"]"#, "full \u{fffd}"),
            (r#"["\ud83d\ude00 \ude00 end"]"#, "\u{1f600} \u{fffd} end"),
            (r#"["\ud83d\ud83d\ude00"]"#, "\u{fffd}\u{1f600}"),
            (r#"["\\ud83d \ud83dx"]"#, "\\ud83d \u{fffd}x"),
            (r#"["\uD83D\n"]"#, "\u{fffd}\n"),
        ] {
            assert_eq!(json::<[String; 1]>(text.as_bytes()), Some([expected.to_owned()]), "{text}");
        }
        assert_eq!(json::<[String; 1]>(b"[\"caf\xc3\"]"), Some(["caf\u{fffd}".to_owned()]));
        for broken in [&br#"["\ud8"]"#[..], br#"["\ud83d]"#, br#"["\"#, b"\xff"] {
            assert_eq!(json::<[String; 1]>(broken), None);
        }
    }
}
