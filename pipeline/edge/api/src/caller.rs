//! Who asks: what a request shows of itself, held against the keys.
//!
//! | `Authorization: Bearer …` | proves |
//! |---|---|
//! | `chq_live_<id>_<secret>` | an API key, by the SHA-256 of its secret |
//! | `chq_test_<id>_<secret>` | the same, of a key whose submissions end in the sandbox |
//! | a JSON Web Token | a key that signs: [`crate::signed`] |
//!
//! A client certificate would be a third way, where this process ends TLS itself: a [`Proof`] with its subject, and a look
//! at the connection here.
//!
//! Guarantee: neither an answer nor its time says whether there is a key of an id. What proves nothing is
//! [`Refused::Unknown`], whatever is wrong with it.

use std::sync::Arc;

use axum::http::{
    HeaderMap, StatusCode,
    header::{AUTHORIZATION, ORIGIN},
};
use chasqui_http::token;
use chasqui_schemas::app::{App, KeyId, Proof, Scope, Scopes};
use jiff::Timestamp;

use crate::{
    keys::{Keys, Known},
    signed,
};

/// Who asks, as their key proves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// Whose key it is.
    pub app: Arc<App>,
    /// Which key: for the trace.
    pub key: KeyId,
    /// What the key may be used for.
    pub scopes: Scopes,
    /// Whether what is submitted with it ends in the sandbox.
    pub test: bool,
}

/// Why a request is refused for who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// It does not prove who asks.
    #[error("no valid key of an app came with the request: send one as `Authorization: Bearer …`")]
    Unknown,
    /// The key is good, and not for this.
    #[error("the key is not for this")]
    Forbidden,
}

impl Refused {
    /// 401 or 403.
    pub const fn status(self) -> StatusCode {
        match self {
            Refused::Unknown => StatusCode::UNAUTHORIZED,
            Refused::Forbidden => StatusCode::FORBIDDEN,
        }
    }

    /// The value of `WWW-Authenticate` (RFC 6750, section 3), which goes with a 401.
    pub const fn challenge(self) -> Option<&'static str> {
        match self {
            Refused::Unknown => Some("Bearer realm=\"chasqui\""),
            Refused::Forbidden => None,
        }
    }
}

impl Caller {
    /// Whether the key is for this.
    ///
    /// # Errors
    /// [`Refused::Forbidden`] where it is not.
    pub fn may(&self, scope: Scope) -> Result<(), Refused> {
        if self.scopes.contains(&scope) { Ok(()) } else { Err(Refused::Forbidden) }
    }
}

/// Who sent a request with these headers.
///
/// # Errors
/// [`Refused::Unknown`] where they prove nobody, [`Refused::Forbidden`] where a web page asks that the app does not name.
pub fn identify(keys: &Keys, headers: &HeaderMap, now: Timestamp) -> Result<Caller, Refused> {
    // Of two, a proxy in front may have judged the other.
    if headers.get_all(AUTHORIZATION).iter().count() != 1 {
        return Err(Refused::Unknown);
    }
    let shown = token::bearer(headers).ok_or(Refused::Unknown)?;
    let known = if shown.starts_with("chq_") { api_key(keys, shown) } else { signed::key(keys, shown, now) };
    let known = known.ok_or(Refused::Unknown)?;
    if known.key.expires_at.is_some_and(|expires_at| expires_at <= now) {
        return Err(Refused::Unknown);
    }
    let is_named = |origin: &str| known.app.may.origins.iter().any(|named| named == origin);
    if headers.get_all(ORIGIN).iter().any(|origin| !origin.to_str().is_ok_and(is_named)) {
        return Err(Refused::Forbidden);
    }
    let key = known.id.clone();
    Ok(Caller { app: Arc::clone(&known.app), key, scopes: known.key.scopes.clone(), test: known.key.test })
}

/// The key that `chq_live_<id>_<secret>` or `chq_test_<id>_<secret>` proves.
fn api_key(keys: &Keys, shown: &str) -> Option<Arc<Known>> {
    let (test, rest) = match shown.strip_prefix("chq_live_") {
        Some(rest) => (false, rest),
        None => (true, shown.strip_prefix("chq_test_")?),
    };
    let (id, secret) = rest.split_once('_')?;
    let hash = token::hash(secret);
    let known = keys.find(id);
    // Compared with something where there is nothing, so that it takes as long.
    let stored = match known.as_ref().map(|known| &known.key.proof) {
        Some(Proof::Sha256(stored)) => stored.0,
        _ => [0; 32],
    };
    let proven = token::same(&hash, &stored);
    known.filter(|known| proven && known.key.test == test)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use chasqui_rules::{Apps, Permissions};
    use chasqui_schemas::app::{Bytes32, Key};
    use jiff::SignedDuration;

    use super::*;
    use crate::keys::NamedKeys;

    const SECRET: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

    fn now() -> Timestamp {
        Timestamp::from_second(1_790_000_000).unwrap()
    }

    fn key(secret: &str) -> Key {
        let proof = Proof::Sha256(Bytes32(token::hash(secret)));
        Key { proof, scopes: [Scope::Send].into(), test: false, created_at: None, expires_at: None }
    }

    fn keys(all: impl IntoIterator<Item = (&'static str, Key)>) -> Keys {
        let of = |id: &str| KeyId::try_from(id.to_owned()).unwrap();
        let all: BTreeMap<_, _> = all.into_iter().map(|(id, key)| (of(id), key)).collect();
        let may = Permissions { origins: vec!["https://shop.example".to_owned()], ..Permissions::default() };
        let listed = BTreeMap::from([("shop".to_owned(), may)]);
        Keys::new(Apps { listed, ..Apps::default() }, NamedKeys::from([("shop".to_owned(), all)]))
    }

    fn ask(keys: &Keys, headers: &[(&'static str, &str)]) -> Result<Caller, Refused> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, value.parse().unwrap());
        }
        identify(keys, &map, now())
    }

    #[test]
    fn a_key_tells_its_app_and_what_it_is_for() {
        let keys = keys([("aaaaaaaa", key(SECRET))]);
        let bearer = format!("Bearer chq_live_aaaaaaaa_{SECRET}");
        let caller = ask(&keys, &[("authorization", &bearer)]).unwrap();
        assert_eq!((caller.app.name.as_str(), caller.key.as_str(), caller.test), ("shop", "aaaaaaaa", false));
        assert_eq!((caller.may(Scope::Send), caller.may(Scope::Admin)), (Ok(()), Err(Refused::Forbidden)));
    }

    #[test]
    fn whatever_is_no_key_is_unknown() {
        let over = Key { expires_at: Some(now()), ..key(SECRET) };
        let test = Key { test: true, ..key(SECRET) };
        let signs = Key { proof: Proof::Hs256(SECRET.to_owned()), ..key(SECRET) };
        let public = Key { proof: Proof::Ed25519(Bytes32(token::hash(SECRET))), ..key(SECRET) };
        let keys = keys([
            ("aaaaaaaa", key(SECRET)),
            ("bbbbbbbb", over),
            ("cccccccc", test),
            ("dddddddd", signs),
            ("eeeeeeee", public),
        ]);
        let other = SECRET.replace('0', "1");
        for shown in [
            "",
            "Bearer",
            "Bearer ",
            "Bearer chq_live_",
            "Bearer chq_live_aaaaaaaa",
            "Bearer chq_live_aaaaaaaa_",
            "Bearer chq_live__",
            &format!("Bearer chq_live_aaaaaaaa_{other}"),
            &format!("Bearer chq_live_aaaaaaaa_{}", SECRET.to_uppercase()),
            &format!("Bearer chq_live_aaaaaaaa_{}", &SECRET[1..]),
            &format!("Bearer chq_live_AAAAAAAA_{SECRET}"),
            &format!("Bearer chq_live_zzzzzzzz_{SECRET}"),
            &format!("Bearer chq_test_aaaaaaaa_{SECRET}"),
            &format!("Bearer chq_live_cccccccc_{SECRET}"),
            &format!("Bearer chq_prod_aaaaaaaa_{SECRET}"),
            &format!("Bearer chq_live_bbbbbbbb_{SECRET}"),
            &format!("Bearer chq_live_dddddddd_{SECRET}"),
            &format!("Bearer chq_live_eeeeeeee_{SECRET}"),
            &format!("Bearer chq_live_aaaaaaaa_{}", "0".repeat(64)),
            &format!("Bearer chq_live_aaaaaaaa_{}", chasqui_schemas::hex::encode(token::hash(SECRET))),
            &format!("Bearer {SECRET}"),
            &format!("Basic chq_live_aaaaaaaa_{SECRET}"),
            &format!("chq_live_aaaaaaaa_{SECRET}"),
        ] {
            assert_eq!(ask(&keys, &[("authorization", shown)]), Err(Refused::Unknown), "{shown}");
        }
        assert_eq!(ask(&keys, &[]), Err(Refused::Unknown));
        let good = format!("Bearer chq_live_aaaaaaaa_{SECRET}");
        assert_eq!(ask(&keys, &[("authorization", &good), ("authorization", &good)]), Err(Refused::Unknown));
        assert_eq!(Refused::Unknown.challenge(), Some("Bearer realm=\"chasqui\""));
        assert!(ask(&keys, &[("authorization", &format!("bearer chq_test_cccccccc_{SECRET}"))]).unwrap().test);
    }

    #[test]
    fn keys_that_follow_each_other_are_valid_side_by_side() {
        let old = Key { expires_at: Some(now() + SignedDuration::from_secs(1)), ..key(SECRET) };
        let new = SECRET.replace('0', "1");
        let keys = keys([("aaaaaaaa", old), ("bbbbbbbb", key(&new))]);
        for shown in [format!("Bearer chq_live_aaaaaaaa_{SECRET}"), format!("Bearer chq_live_bbbbbbbb_{new}")] {
            assert_eq!(ask(&keys, &[("authorization", &shown)]).unwrap().app.name, "shop");
        }
    }

    #[test]
    fn a_web_page_that_the_app_does_not_name_is_refused_with_a_good_key_too() {
        let keys = keys([("aaaaaaaa", key(SECRET))]);
        let bearer = format!("Bearer chq_live_aaaaaaaa_{SECRET}");
        let from = |origin| ask(&keys, &[("authorization", &bearer), ("origin", origin)]);
        assert!(from("https://shop.example").is_ok());
        for origin in ["https://evil.example", "http://shop.example", "https://shop.example:444", "null", ""] {
            assert_eq!(from(origin), Err(Refused::Forbidden), "{origin}");
        }
    }
}
