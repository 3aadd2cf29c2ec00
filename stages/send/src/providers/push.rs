//! What the push providers share: the device's token, the payload's rules, keys that replace.
//!
//! Guarantee: pure. Whatever a producer's `overrides` say, a payload keeps our ids, so that what an app reports hours
//! later joins its delivery without a look-up.

use std::{borrow::Cow, path::PathBuf, time::Duration};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use chasqui_contract::{Answer, Outcome};
use chasqui_schemas::{Delivery, delivery::Address, record::Platform};
use jiff::Timestamp;
use reqwest::{Url, header::HeaderValue};
use ring::digest;
use serde_json::{Map, Value};

use crate::{ConfigError, http::Reach};

/// Longest time that a message waits for its device, in seconds: four weeks, FCM's longest.
pub(super) const MAX_TTL_S: u64 = 28 * 24 * 60 * 60;

/// The token of a device of this platform.
///
/// # Errors
/// Another platform's device, or none: the route is wrong, so [`Outcome::Misconfigured`].
pub(super) fn token(delivery: &Delivery, of: Platform) -> Result<&str, Answer> {
    match &delivery.endpoint.address {
        Address::Device { platform, token, .. } if *platform == of => Ok(token),
        _ => Err(Answer::new(Outcome::Misconfigured, "platform", "the endpoint is not a device of this push service")),
    }
}

/// Lays a producer's `overrides` for `provider` over its payload.
pub(super) fn lay_overrides(payload: &mut Map<String, Value>, delivery: &Delivery, provider: &str) {
    if let Some(Value::Object(over)) = delivery.overrides.get(provider) {
        merge(payload, over);
    }
}

/// JSON Merge Patch ([RFC 7396](https://www.rfc-editor.org/rfc/rfc7396)): objects are merged, null removes, anything
/// else replaces.
fn merge(into: &mut Map<String, Value>, over: &Map<String, Value>) {
    for (key, over) in over {
        match over {
            Value::Null => _ = into.remove(key),
            Value::Object(over) => edit(into, key, |object| merge(object, over)),
            _ => _ = into.insert(key.clone(), over.clone()),
        }
    }
}

/// Changes the object at `key`; what stands there and is none gives way to one.
pub(super) fn edit(payload: &mut Map<String, Value>, key: &str, change: impl FnOnce(&mut Map<String, Value>)) {
    let mut object = match payload.remove(key) {
        Some(Value::Object(object)) => object,
        _ => Map::new(),
    };
    change(&mut object);
    payload.insert(key.to_owned(), Value::Object(object));
}

/// Writes our ids, over whatever stands there.
pub(super) fn put_ids(payload: &mut Map<String, Value>, delivery: &Delivery) {
    payload.insert("notification_id".into(), delivery.notification_id.to_string().into());
    payload.insert("delivery_id".into(), delivery.id.to_string().into());
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

/// Refuses a payload of more than `max` bytes.
pub(super) fn check_size(bytes: usize, max: usize) -> Result<(), Answer> {
    if bytes <= max {
        return Ok(());
    }
    Err(Answer::new(Outcome::Refused, "too_large", format!("the payload has {bytes} bytes, and may have {max}")))
}

/// The address of a vendor's API. `key` is the setting's name, for errors.
pub(super) fn base_url(key: &str, text: &str) -> Result<Url, ConfigError> {
    match Url::parse(text) {
        Ok(url) if matches!(url.scheme(), "https" | "http") && url.query().is_none() => Ok(url),
        _ => Err(ConfigError::invalid(key, "must be the address of an API, such as `https://push.example.com`")),
    }
}

/// The limits of a provider's calls. `section` is the provider's, for errors.
pub(super) fn reach(
    section: &str,
    timeout_ms: u64,
    concurrency: usize,
    ca_file: Option<&PathBuf>,
) -> Result<Reach, ConfigError> {
    if !(1..=600_000).contains(&timeout_ms) || !(1..=10_000).contains(&concurrency) {
        let problem = "`timeout_ms` must be 1 to 600,000, and `concurrency` 1 to 10,000";
        return Err(ConfigError::invalid(section, problem));
    }
    let timeout = Duration::from_millis(timeout_ms);
    Ok(Reach { http2_only: false, ca_file: ca_file.cloned(), timeout, concurrency })
}

/// `url` with more segments.
pub(super) fn below(mut url: Url, segments: &[&str]) -> Url {
    if let Ok(mut path) = url.path_segments_mut() {
        path.pop_if_empty().extend(segments);
    }
    url
}

/// A header that no log shows. What cannot be one is a credential with a line break in it.
pub(super) fn credential(text: &str) -> Result<HeaderValue, Answer> {
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

    #[test]
    fn overrides_are_merged_deeply_and_null_removes() {
        let mut payload = json!({ "aps": { "alert": { "title": "a", "body": "b" } }, "x": 1 });
        let over = json!({ "aps": { "alert": { "body": "c" }, "sound": "default" }, "x": null, "y": { "z": null } });
        merge(payload.as_object_mut().unwrap(), over.as_object().unwrap());
        let expected = json!({ "aps": { "alert": { "title": "a", "body": "c" }, "sound": "default" }, "y": {} });
        assert_eq!(payload, expected);
    }

    #[test]
    fn a_base_url_is_a_web_address() {
        for text in ["", "push.example.com", "mailto:a@b.example", "https://a.example/?key=1"] {
            assert!(base_url("send.x.base_url", text).is_err(), "{text}");
        }
        let url = base_url("send.x.base_url", "https://a.example/v/").unwrap();
        assert_eq!(below(url, &["3", "a/b?c"]).as_str(), "https://a.example/v/3/a%2Fb%3Fc");
    }

    proptest! {
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
