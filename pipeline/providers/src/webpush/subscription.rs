//! A browser's push subscription, as `PushSubscription.toJSON()` gives it
//! ([Push API](https://www.w3.org/TR/push-api/#dom-pushsubscription-tojson)).
//!
//! Guarantee: where it leads has been checked ([`Services`]), and no error shows any of it.

pub(super) use chasqui_schemas::normal::token::decode;
use reqwest::Url;
use serde::Deserialize;

use super::services::Services;

/// Longest endpoint, in bytes. The longest in use have some 800.
const MAX_ENDPOINT: usize = 2_048;

/// A subscription that can be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Subscription {
    /// Where to send to. It is a secret: whoever knows it can.
    pub(super) endpoint: Url,
    /// The browser's public key, on P-256, uncompressed.
    pub(super) public_key: [u8; 65],
    /// The secret that the browser shares with us.
    pub(super) auth: [u8; 16],
}

#[derive(Deserialize)]
struct Json {
    endpoint: String,
    keys: Keys,
}

#[derive(Deserialize)]
struct Keys {
    p256dh: String,
    auth: String,
}

impl Subscription {
    /// Reads one; what is wrong, without any of it.
    pub(super) fn read(json: &str, services: &Services) -> Result<Self, &'static str> {
        let Json { endpoint, keys } =
            serde_json::from_str(json).map_err(|_| "the device's token is not a push subscription's JSON")?;
        if endpoint.len() > MAX_ENDPOINT {
            return Err("the endpoint is too long");
        }
        let endpoint = Url::parse(&endpoint).map_err(|_| "the endpoint is not an address")?;
        services.check(&endpoint)?;
        if !endpoint.username().is_empty() || endpoint.password().is_some() {
            return Err("the endpoint holds credentials");
        }
        let bytes = |text: &str| decode(text).unwrap_or_default();
        Ok(Subscription {
            endpoint,
            public_key: bytes(&keys.p256dh).try_into().map_err(|_| "`p256dh` is not 65 bytes in base64url")?,
            auth: bytes(&keys.auth).try_into().map_err(|_| "`auth` is not 16 bytes in base64url")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{
        testing::{account, settings},
        webpush::VENDOR,
    };

    const P256DH: &str = "BCVxsr7N_eNgVRqvHtD0zTZsEc6-VV-JvLexhqUzORcxaOzi6-AYWXvTBHm4bjyPjs7Vd8pZGH6SRpkNtoIAiw4";
    const AUTH: &str = "BTBZMqHH6r4Tts7J_aSIgg";

    fn json_of(endpoint: &str, p256dh: &str, auth: &str) -> String {
        json!({ "endpoint": endpoint, "expirationTime": null, "keys": { "p256dh": p256dh, "auth": auth } }).to_string()
    }

    fn read(json: &str) -> Result<Subscription, &'static str> {
        let settings = settings(&VENDOR, "public_key = ''\nsubject = ''\nhosts = ['push.example.net']");
        Subscription::read(json, &Services::of(&account(&VENDOR), &settings).unwrap())
    }

    #[test]
    fn a_browsers_subscription_is_read() {
        let plain = |text: &str| text.replace('-', "+").replace('_', "/");
        for (p256dh, auth) in [
            (P256DH.to_owned(), AUTH.to_owned()),
            (format!("{P256DH}="), format!("{AUTH}==")),
            (plain(&format!("{P256DH}=")), plain(&format!("{AUTH}=="))),
        ] {
            let json = json_of("https://push.example.net/push/abc", &p256dh, &auth);
            let read = read(&json).unwrap();
            assert_eq!(read.endpoint.as_str(), "https://push.example.net/push/abc");
            assert_eq!((read.public_key[0], read.auth[0]), (4, 5));
        }
    }

    #[test]
    fn what_is_no_subscription_is_refused_and_not_shown() {
        let long = format!("https://push.example.net/hunter2/{}", "x".repeat(MAX_ENDPOINT));
        for json in [
            "hunter2".to_owned(),
            "\"hunter2\"".to_owned(),
            json_of(&long, P256DH, AUTH),
            json_of("hunter2", P256DH, AUTH),
            json_of("https://hunter2.example.net/", P256DH, AUTH),
            json_of("https://hunter2:x@push.example.net/", P256DH, AUTH),
            json_of("https://push.example.net/hunter2", "hunter2", AUTH),
            json_of("https://push.example.net/hunter2", P256DH, &P256DH[1..]),
        ] {
            assert!(!read(&json).unwrap_err().contains("hunter2"), "{json}");
        }
    }
}
