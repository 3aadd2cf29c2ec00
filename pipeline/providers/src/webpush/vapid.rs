//! Who we are, to a push service: VAPID, [RFC 8292](https://www.rfc-editor.org/rfc/rfc8292).
//!
//! A token is for one push service (its origin), so one per origin is kept, for half of its time. Origins come from
//! subscriptions, that is from anyone: what is kept is bounded.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use chasqui_contract::Answer;
use chasqui_settings::SettingsError;
use jiff::{SignedDuration, Timestamp};
use reqwest::{Url, header::HeaderValue};
use serde::Serialize;

use super::{MAX_ORIGINS, Settings};
use crate::{Account, jwt::Signer, push};

/// How long a token holds. A push service refuses more than 24 hours.
const HOLDS: SignedDuration = SignedDuration::from_hours(12);
/// How long one is used.
const SERVES: SignedDuration = SignedDuration::from_hours(6);

/// Signs tokens and keeps the last one of each origin.
pub(super) struct Vapid {
    signer: Signer,
    public_key: String,
    subject: String,
    last: Mutex<HashMap<String, (Timestamp, HeaderValue)>>,
}

#[derive(Serialize)]
struct Claims<'a> {
    aud: &'a str,
    exp: i64,
    sub: &'a str,
}

impl Vapid {
    pub(super) fn new(account: &Account<'_>, settings: &Settings) -> Result<Self, SettingsError> {
        let (public_key, signer) = settings.keys(account)?;
        let subject = settings.checked_subject(account)?;
        Ok(Vapid { signer, public_key: URL_SAFE_NO_PAD.encode(public_key), subject, last: Mutex::default() })
    }

    /// The `Authorization` for a push service.
    pub(super) fn authorization(&self, endpoint: &Url, now: Timestamp) -> Result<HeaderValue, Box<Answer>> {
        let origin = endpoint.origin().ascii_serialization();
        // Nothing is left half done under this lock.
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        // A clock that was set back would send a token that holds for too long.
        if let Some((signed_at, token)) = last.get(&origin)
            && (*signed_at..*signed_at + SERVES).contains(&now)
        {
            return Ok(token.clone());
        }
        let claims = Claims { aud: &origin, exp: (now + HOLDS).as_second(), sub: &self.subject };
        let token = self.signer.sign(None, &claims).map_err(Answer::from)?;
        let token = push::credential(&format!("vapid t={token}, k={}", self.public_key))?;
        if last.len() >= MAX_ORIGINS {
            last.clear();
        }
        last.insert(origin, (now, token.clone()));
        Ok(token)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use ring::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};
    use serde_json::{Value, json};

    use super::*;
    use crate::{
        testing::at,
        webpush::{encrypt::tests::vectors, subscription::decode},
    };

    /// Of an `Authorization` whose signature holds: the public key, the header and claims as they were signed.
    pub(in crate::webpush) fn verified(authorization: &str) -> (String, String, Value) {
        let (token, key) = authorization.strip_prefix("vapid t=").unwrap().split_once(", k=").unwrap();
        let (message, signature) = token.rsplit_once('.').unwrap();
        let public = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, decode(key).unwrap());
        public.verify(message.as_bytes(), &decode(signature).unwrap()).unwrap();
        let claims = serde_json::from_slice(&decode(message.split('.').nth(1).unwrap()).unwrap()).unwrap();
        (key.to_owned(), message.to_owned(), claims)
    }

    fn vapid(subject: &str) -> Vapid {
        let signer = Signer::es256_pem(&rcgen::KeyPair::generate().unwrap().serialize_pem()).unwrap();
        let Signer::Es256(pair) = &signer else { panic!("another kind of key") };
        let public_key = URL_SAFE_NO_PAD.encode(ring::signature::KeyPair::public_key(pair));
        Vapid { signer, public_key, subject: subject.to_owned(), last: Mutex::default() }
    }

    fn url(text: &str) -> Url {
        text.parse().unwrap()
    }

    #[test]
    fn the_rfcs_header_verifies_and_ours_signs_the_same_text() {
        let vectors = vectors();
        let (_, message, claims) = verified(vectors["rfc8292"]["authorization"].as_str().unwrap());
        assert_eq!(claims, vectors["rfc8292"]["claims"]);
        // So that the token ends when the RFC's does.
        let now = Timestamp::from_second(claims["exp"].as_i64().unwrap()).unwrap() - HOLDS;
        let vapid = vapid("mailto:push@example.com");
        let ours = vapid.authorization(&url("https://push.example.net/push/abc"), now).unwrap();
        let (key, our_message, _) = verified(ours.to_str().unwrap());
        assert_eq!((our_message, key), (message, vapid.public_key));
        assert!(ours.is_sensitive());
    }

    #[test]
    fn a_token_is_for_one_origin_and_serves_six_hours() {
        let vapid = vapid("mailto:a@b.example");
        let token = |endpoint, seconds| vapid.authorization(&url(endpoint), at(seconds)).unwrap();
        let first = token("https://push.example.net/abc", 0);
        assert_eq!(first, token("https://push.example.net/def", 6 * 3_600 - 1));
        assert_ne!(first, token("https://push.example.net:8443/abc", 0));
        let second = token("https://push.example.net/abc", 6 * 3_600);
        assert_ne!(first, second);
        assert_ne!(second, token("https://push.example.net/abc", 3_600), "the clock was set back");
        let (_, _, claims) = verified(first.to_str().unwrap());
        let exp = at(12 * 3_600).as_second();
        assert_eq!(claims, json!({ "aud": "https://push.example.net", "exp": exp, "sub": "mailto:a@b.example" }));
    }

    #[test]
    fn origins_without_number_do_not_fill_the_memory() {
        let vapid = vapid("mailto:a@b.example");
        for i in 0..2 * MAX_ORIGINS {
            vapid.authorization(&url(&format!("https://{i}.example.net/")), at(0)).unwrap();
        }
        assert!(vapid.last.lock().unwrap().len() <= MAX_ORIGINS);
    }
}
