//! A browser's push subscription, as `PushSubscription.toJSON()` gives it
//! ([Push API](https://www.w3.org/TR/push-api/#dom-pushsubscription-tojson)).
//!
//! Guarantee: where it leads is safe to call. Subscriptions come from browsers, that is from anyone, and an endpoint is
//! an address that we call from inside our network. So it must be `https`, and its host a name with a dot in it: no
//! number, however written, and no name of our own network. A name that leads inside nevertheless does not get past
//! the certificate, and redirects are not followed.

use base64::{
    Engine as _,
    alphabet::URL_SAFE,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use reqwest::Url;
use serde::Deserialize;

/// Longest endpoint, in bytes. The longest in use have some 800.
const MAX_ENDPOINT: usize = 2_048;
/// base64url; some tools pad it.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &URL_SAFE,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// What base64url text stands for.
pub(super) fn decode(text: &str) -> Option<Vec<u8>> {
    BASE64.decode(text).ok()
}

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
    pub(super) fn read(json: &str, allow_insecure: bool) -> Result<Self, &'static str> {
        let Json { endpoint, keys } =
            serde_json::from_str(json).map_err(|_| "the device's token is not a push subscription's JSON")?;
        if endpoint.len() > MAX_ENDPOINT {
            return Err("the endpoint is too long");
        }
        let endpoint = Url::parse(&endpoint).map_err(|_| "the endpoint is not an address")?;
        let secure = endpoint.scheme() == "https" && endpoint.domain().is_some_and(is_public_name);
        let insecure = allow_insecure && matches!(endpoint.scheme(), "https" | "http");
        if !secure && !insecure {
            return Err("the endpoint is not an https address of a named host");
        }
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

/// Whether a name can be of the public network: `localhost` and a network's own short names cannot.
fn is_public_name(name: &str) -> bool {
    let name = name.strip_suffix('.').unwrap_or(name);
    let last = name.rsplit_once('.').map(|(_, last)| last);
    last.is_some_and(|last| !matches!(last, "localhost" | "local" | "internal" | "localdomain"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const P256DH: &str = "BCVxsr7N_eNgVRqvHtD0zTZsEc6-VV-JvLexhqUzORcxaOzi6-AYWXvTBHm4bjyPjs7Vd8pZGH6SRpkNtoIAiw4";
    const AUTH: &str = "BTBZMqHH6r4Tts7J_aSIgg";

    fn json_of(endpoint: &str, p256dh: &str, auth: &str) -> String {
        json!({ "endpoint": endpoint, "expirationTime": null, "keys": { "p256dh": p256dh, "auth": auth } }).to_string()
    }

    fn reads(endpoint: &str, allow_insecure: bool) -> bool {
        Subscription::read(&json_of(endpoint, P256DH, AUTH), allow_insecure).is_ok()
    }

    #[test]
    fn a_browsers_subscription_is_read() {
        for (p256dh, auth) in [(P256DH.to_owned(), AUTH.to_owned()), (format!("{P256DH}="), format!("{AUTH}=="))] {
            let json = json_of("https://push.example.net/push/abc", &p256dh, &auth);
            let read = Subscription::read(&json, false).unwrap();
            assert_eq!(read.endpoint.as_str(), "https://push.example.net/push/abc");
            assert_eq!((read.public_key[0], read.auth[0]), (4, 5));
        }
    }

    #[test]
    fn endpoints_of_the_real_push_services_are_taken() {
        for endpoint in [
            "https://fcm.googleapis.com/fcm/send/abc:def",
            "https://updates.push.services.mozilla.com/wpush/v2/abc",
            "https://web.push.apple.com/abc",
            "https://wns2-par02p.notify.windows.com/w/?token=abc",
        ] {
            assert!(reads(endpoint, false), "{endpoint}");
        }
    }

    #[test]
    fn an_endpoint_inside_our_network_is_refused_unless_this_is_a_lab() {
        for endpoint in [
            "http://push.example.net/abc",
            "https://127.0.0.1/abc",
            "https://10.0.0.8:4222/abc",
            "https://169.254.169.254/latest/meta-data",
            "https://2130706433/abc",
            "https://0x7f.1/abc",
            "https://[::1]/abc",
            "https://[::ffff:127.0.0.1]/abc",
            "https://[fd00::1]/abc",
            "https://localhost/abc",
            "https://LOCALHOST./abc",
            "https://a.localhost/abc",
            "https://nats/abc",
            "https://metadata.google.internal/abc",
        ] {
            assert!(!reads(endpoint, false), "{endpoint}");
            assert!(reads(endpoint, true), "{endpoint}");
        }
        for endpoint in ["ftp://push.example.net/", "file:///etc/passwd", "mailto:a@b.example", "push", ""] {
            assert!(!reads(endpoint, false) && !reads(endpoint, true), "{endpoint}");
        }
    }

    #[test]
    fn what_is_no_subscription_is_refused_and_not_shown() {
        let long = format!("https://push.example.net/hunter2/{}", "x".repeat(MAX_ENDPOINT));
        for json in [
            "hunter2".to_owned(),
            "\"hunter2\"".to_owned(),
            json_of(&long, P256DH, AUTH),
            json_of("https://hunter2:x@push.example.net/", P256DH, AUTH),
            json_of("https://push.example.net/hunter2", "hunter2", AUTH),
            json_of("https://push.example.net/hunter2", P256DH, &P256DH[1..]),
        ] {
            assert!(!Subscription::read(&json, false).unwrap_err().contains("hunter2"), "{json}");
        }
    }
}
