//! What the push providers share: the device's token, our ids, keys that replace, credentials in headers.
//!
//! Guarantee: pure. Whatever a producer's `overrides` say, a payload keeps our ids, so that what an app reports hours
//! later joins its delivery without a look-up.

use std::borrow::Cow;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use chasqui_contract::{Answer, Outcome};
use chasqui_schemas::{Delivery, delivery::Address, record::Platform};
use jiff::Timestamp;
use reqwest::header::HeaderValue;
use ring::digest;
use serde_json::{Map, Value};

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

    use super::*;

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
