//! Signed tokens: JSON Web Tokens (RFC 7519) in compact form, with HMAC-SHA256 (`HS256`) or Ed25519 (`EdDSA`, RFC 8037).
//!
//! `kid` names the key. The key says which signature is its own: a token whose `alg` says another is refused, so
//! that no public key is taken for a secret, and `none` for a signature. Nothing else in a token's head is looked at.
//!
//! `iat` and `exp` are required: issued no later than [`SKEW`] from now, since clocks differ, over in at most [`LIFE`], and not
//! yet over. Without state a token can be used again until then.
//!
//! Guarantee: nothing of a token is believed before its signature is good. A key that is not there takes as long as one
//! that is.
//!
//! A library for all that JOSE can do would bring algorithms that must be kept out; these two are `ring`'s.

use std::sync::Arc;

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use chasqui_schemas::app::{MIN_SECRET_BYTES, Proof};
use jiff::{SignedDuration, Timestamp};
use ring::{hmac, signature};
use serde::{Deserialize, de::IgnoredAny};

use crate::keys::{Keys, Known};

/// Maximum time that the clock of who signs may be ahead of ours.
pub const SKEW: SignedDuration = SignedDuration::from_secs(30);
/// Maximum time from `iat` to `exp`.
pub const LIFE: SignedDuration = SignedDuration::from_mins(5);
/// What `aud` must name, where a token has one: a key may sign for others too.
pub const AUDIENCE: &str = "chasqui";
/// Maximum bytes of a token: several times what ours need.
const MAX_BYTES: usize = 4096;

/// What is compared where there is no key: any key of each kind.
const NO_SECRET: [u8; MIN_SECRET_BYTES] = [0; MIN_SECRET_BYTES];
const NO_PUBLIC_KEY: [u8; 32] = [
    0xd7, 0x5a, 0x98, 0x01, 0x82, 0xb1, 0x0a, 0xb7, 0xd5, 0x4b, 0xfe, 0xd3, 0xc9, 0x64, 0x07, 0x3a, 0x0e, 0xe1, 0x72,
    0xf3, 0xda, 0xa6, 0x23, 0x25, 0xaf, 0x02, 0x1a, 0x68, 0xf7, 0x07, 0x51, 0x1a,
];

#[derive(Deserialize)]
struct Head {
    alg: String,
    kid: String,
    /// Extensions that must be understood (RFC 7515, section 4.1.11); we know none.
    crit: Option<IgnoredAny>,
}

#[derive(Deserialize)]
struct Claims {
    iat: f64,
    exp: f64,
    nbf: Option<f64>,
    aud: Option<Audience>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Several(Vec<String>),
}

/// The key that a token proves.
pub(crate) fn key(keys: &Keys, token: &str, now: Timestamp) -> Option<Arc<Known>> {
    let (signed, signature) = token.rsplit_once('.').filter(|_| token.len() <= MAX_BYTES)?;
    let (head, claims) = signed.split_once('.')?;
    let head: Head = json(head)?;
    let signature = BASE64_URL_SAFE_NO_PAD.decode(signature).ok()?;
    let known = keys.find(&head.kid).filter(|_| head.crit.is_none());
    let proof = known.as_ref().map(|known| &known.key.proof);
    // Where the key signs in another way, or is not there, a signature is checked too, so that it takes as long.
    let (is_good, is_own) = match head.alg.as_str() {
        "HS256" => {
            let own = match proof {
                Some(Proof::Hs256(secret)) => Some(secret.as_bytes()),
                _ => None,
            };
            (is_hmac(own.unwrap_or(&NO_SECRET), signed, &signature), own.is_some())
        }
        "EdDSA" | "Ed25519" => {
            let own = match proof {
                Some(Proof::Ed25519(public)) => Some(&public.0),
                _ => None,
            };
            (is_ed25519(own.unwrap_or(&NO_PUBLIC_KEY), signed, &signature), own.is_some())
        }
        _ => return None,
    };
    known.filter(|_| is_good && is_own && json(claims).is_some_and(|claims: Claims| claims.hold(now)))
}

fn is_hmac(secret: &[u8], signed: &str, tag: &[u8]) -> bool {
    hmac::verify(&hmac::Key::new(hmac::HMAC_SHA256, secret), signed.as_bytes(), tag).is_ok()
}

fn is_ed25519(public: &[u8; 32], signed: &str, tag: &[u8]) -> bool {
    signature::UnparsedPublicKey::new(&signature::ED25519, public).verify(signed.as_bytes(), tag).is_ok()
}

fn json<T: for<'a> Deserialize<'a>>(part: &str) -> Option<T> {
    serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(part).ok()?).ok()
}

impl Claims {
    /// Whether the token is of now and for us. Dates may have fractions of a second (RFC 7519, section 2).
    fn hold(&self, now: Timestamp) -> bool {
        let Claims { iat, exp, nbf, aud } = self;
        let now = now.as_millisecond() as f64 / 1000.0;
        let soon = now + SKEW.as_secs_f64();
        let is_ours = match aud {
            None => true,
            Some(Audience::One(aud)) => aud == AUDIENCE,
            Some(Audience::Several(all)) => all.iter().any(|aud| aud == AUDIENCE),
        };
        is_ours && *iat <= soon && now < *exp && *exp - *iat <= LIFE.as_secs_f64() && nbf.is_none_or(|nbf| nbf <= soon)
    }
}

#[cfg(test)]
mod tests;
