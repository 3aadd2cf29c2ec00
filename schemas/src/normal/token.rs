//! Device tokens. APNs' are hexadecimal, in either case; the keys of a Web Push subscription come as base64url or as ordinary
//! base64, with and without padding. Two spellings are one device: it gets one message, and is removed as one.

use base64::{
    Engine as _,
    alphabet::URL_SAFE,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
    prelude::BASE64_URL_SAFE_NO_PAD,
};
use serde_json::Value;

use crate::record::Platform;

/// base64url; some tools pad it.
const EITHER: GeneralPurpose = GeneralPurpose::new(
    &URL_SAFE,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);
/// The keys of a subscription, and their bytes: a point of P-256, uncompressed, and a secret
/// ([RFC 8291](https://www.rfc-editor.org/rfc/rfc8291#section-3)).
const KEYS: [(&str, usize, &str); 2] = [
    ("p256dh", 65, "`keys.p256dh` must be 65 bytes in base64url"),
    ("auth", 16, "`keys.auth` must be 16 bytes in base64url"),
];

/// What base64url text stands for; ordinary base64 is understood too.
pub fn decode(text: &str) -> Option<Vec<u8>> {
    EITHER.decode(text.replace('+', "-").replace('/', "_")).ok()
}

/// The token as it is compared and sent.
///
/// # Errors
/// It is no token of that platform.
pub fn normal(platform: Platform, token: &str) -> Result<String, &'static str> {
    match platform {
        Platform::Web => subscription(token),
        _ if token.trim().is_empty() => Err("must not be empty"),
        Platform::Ios if token.bytes().all(|b| b.is_ascii_hexdigit()) => Ok(token.to_ascii_lowercase()),
        Platform::Ios | Platform::Android => Ok(token.to_owned()),
    }
}

fn subscription(token: &str) -> Result<String, &'static str> {
    const PROBLEM: &str = "must be a push subscription as JSON: what `JSON.stringify(subscription)` gives in a browser";
    let mut document: Value = serde_json::from_str(token).map_err(|_| PROBLEM)?;
    if document.get("endpoint").and_then(Value::as_str).is_none_or(|endpoint| !endpoint.contains("://")) {
        return Err("`endpoint` must be the address of a push service");
    }
    let mut is_normal = true;
    for (name, bytes, problem) in KEYS {
        let key = document.pointer_mut(&format!("/keys/{name}")).ok_or(problem)?;
        let decoded = key.as_str().and_then(decode).filter(|key| key.len() == bytes).ok_or(problem)?;
        let normal = BASE64_URL_SAFE_NO_PAD.encode(decoded);
        if key.as_str() != Some(&normal) {
            (is_normal, *key) = (false, normal.into());
        }
    }
    Ok(if is_normal { token.to_owned() } else { document.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;

    const P256DH: &str = "BKDnlSe4s87HHcqqtQbvPMp3ja4rjspLd6Y7nlxDyQS3zETRgZT-m8nqNdTI4UxemMKgFnj_6gmXLo7-BI9jO3M";

    fn json(p256dh: &str, auth: &str) -> String {
        format!(r#"{{"endpoint":"https://push.example.com/x","keys":{{"auth":"{auth}","p256dh":"{p256dh}"}}}}"#)
    }

    #[test]
    fn keys_in_either_base64_are_the_same_subscription() {
        let expected = json(P256DH, "8PHy8_T19vf4-fr7_P3-_w");
        let ordinary = format!("{}=", P256DH.replace('-', "+").replace('_', "/"));
        for token in
            [expected.clone(), json(&ordinary, "8PHy8/T19vf4+fr7/P3+/w=="), json(P256DH, "8PHy8_T19vf4-fr7_P3-_w==")]
        {
            assert_eq!(normal(Platform::Web, &token), Ok(expected.clone()), "{token}");
        }
    }

    #[test]
    fn what_no_push_service_would_take_is_refused() {
        for token in ["browser", "{}", "[]", &json("", "8PHy8_T19vf4-fr7_P3-_w"), &json(P256DH, &P256DH[1..])] {
            assert!(normal(Platform::Web, token).is_err(), "{token}");
        }
        assert!(normal(Platform::Android, " ").is_err());
    }

    #[test]
    fn hexadecimal_has_one_case_and_other_tokens_are_left_alone() {
        assert_eq!(normal(Platform::Ios, "00B0641F").as_deref(), Ok("00b0641f"));
        assert_eq!(normal(Platform::Ios, "Sandbox-Token").as_deref(), Ok("Sandbox-Token"));
        assert_eq!(normal(Platform::Android, "AbC:def").as_deref(), Ok("AbC:def"));
    }
}
