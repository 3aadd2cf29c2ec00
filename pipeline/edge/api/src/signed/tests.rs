use std::collections::BTreeMap;

use chasqui_rules::Apps;
use chasqui_schemas::app::{Bytes32, Key, KeyId, Scope};
use ring::{
    rand::SystemRandom,
    signature::{Ed25519KeyPair, KeyPair},
};
use serde_json::{Value, json};

use super::*;
use crate::keys::NamedKeys;

const SECRET: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";
const NOW: i64 = 1_790_000_000;

struct World {
    keys: Keys,
    pair: Ed25519KeyPair,
}

fn id(text: &str) -> KeyId {
    text.to_owned().try_into().unwrap()
}

fn world() -> World {
    let pair =
        Ed25519KeyPair::from_pkcs8(Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap().as_ref()).unwrap();
    let public = Bytes32(pair.public_key().as_ref().try_into().unwrap());
    let key = |proof| Key { proof, scopes: [Scope::Send].into(), test: false, created_at: None, expires_at: None };
    let hash = Bytes32(chasqui_http::token::hash(SECRET));
    let named = NamedKeys::from([(
        "shop".to_owned(),
        BTreeMap::from([
            (id("hmackey1"), key(Proof::Hs256(SECRET.to_owned()))),
            (id("edwards1"), key(Proof::Ed25519(public))),
            (id("apikey01"), key(Proof::Sha256(hash))),
        ]),
    )]);
    World { keys: Keys::new(Apps::default(), named), pair }
}

impl World {
    fn accepts(&self, token: &str) -> Option<String> {
        key(&self.keys, token, Timestamp::from_second(NOW).unwrap()).map(|known| known.id.to_string())
    }

    fn eddsa(&self, head: Value, claims: Value) -> String {
        let signed = signed(head, claims);
        let signature = BASE64_URL_SAFE_NO_PAD.encode(self.pair.sign(signed.as_bytes()));
        format!("{signed}.{signature}")
    }
}

fn signed(head: Value, claims: Value) -> String {
    let part = |value: Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
    format!("{}.{}", part(head), part(claims))
}

fn hs256_by(secret: &[u8], head: Value, claims: Value) -> String {
    tagged(secret, &signed(head, claims))
}

fn tagged(secret: &[u8], signed: &str) -> String {
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), signed.as_bytes());
    format!("{signed}.{}", BASE64_URL_SAFE_NO_PAD.encode(tag))
}

fn head() -> Value {
    json!({ "alg": "HS256", "typ": "JWT", "kid": "hmackey1" })
}

fn hs256(claims: Value) -> String {
    hs256_by(SECRET.as_bytes(), head(), claims)
}

fn good() -> Value {
    json!({ "iat": NOW, "exp": NOW + 60 })
}

#[test]
fn a_token_proves_the_key_that_signed_it() {
    let world = world();
    assert_eq!(world.accepts(&hs256(good())).as_deref(), Some("hmackey1"));
    for alg in ["EdDSA", "Ed25519"] {
        let token = world.eddsa(json!({ "alg": alg, "kid": "edwards1" }), good());
        assert_eq!(world.accepts(&token).as_deref(), Some("edwards1"), "{alg}");
    }
}

#[test]
fn times_have_an_end_and_a_tolerance() {
    let world = world();
    for (claims, expected) in [
        (json!({ "iat": NOW + 30, "exp": NOW + 330 }), true),
        (json!({ "iat": NOW - 299, "exp": NOW + 1 }), true),
        (json!({ "iat": NOW as f64 - 0.5, "exp": NOW as f64 + 0.5, "nbf": NOW, "sub": "x" }), true),
        (json!({ "iat": NOW, "exp": NOW + 60, "aud": "chasqui" }), true),
        (json!({ "iat": NOW, "exp": NOW + 60, "aud": ["other", "chasqui"] }), true),
        (json!({ "iat": NOW, "exp": NOW + 60, "aud": "other" }), false),
        (json!({ "iat": NOW, "exp": NOW + 60, "aud": [] }), false),
        (json!({ "iat": NOW, "exp": NOW + 60, "aud": 7 }), false),
        (json!({ "iat": NOW, "exp": NOW + 60, "nbf": NOW + 31 }), false),
        (json!({ "iat": NOW + 31, "exp": NOW + 60 }), false),
        (json!({ "iat": NOW, "exp": NOW + 301 }), false),
        (json!({ "iat": NOW - 60, "exp": NOW }), false),
        (json!({ "iat": NOW - 600, "exp": NOW - 300 }), false),
        (json!({ "iat": -1e308, "exp": 1e308 }), false),
        (json!({ "iat": NOW }), false),
        (json!({ "exp": NOW + 60 }), false),
        (json!({ "iat": NOW.to_string(), "exp": NOW + 60 }), false),
        (json!({ "iat": null, "exp": NOW + 60 }), false),
        (json!([]), false),
    ] {
        assert_eq!(world.accepts(&hs256(claims.clone())).is_some(), expected, "{claims}");
    }
}

#[test]
fn no_other_signature_is_taken_for_the_keys_own() {
    let world = world();
    let public = world.pair.public_key().as_ref();
    let with = |change: Value| {
        let mut head = head();
        head.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        head
    };
    let by = |secret: &[u8], change: Value| hs256_by(secret, with(change), good());
    let none = format!("{}.", signed(with(json!({ "alg": "none" })), good()));
    let mut cases = vec![
        ("none, without a signature", none.clone()),
        ("none, with one", by(SECRET.as_bytes(), json!({ "alg": "none" }))),
        ("None", by(SECRET.as_bytes(), json!({ "alg": "None" }))),
        ("hs256", by(SECRET.as_bytes(), json!({ "alg": "hs256" }))),
        ("HS384", by(SECRET.as_bytes(), json!({ "alg": "HS384" }))),
        ("RS256", by(SECRET.as_bytes(), json!({ "alg": "RS256" }))),
        ("no alg", by(SECRET.as_bytes(), json!({ "alg": null }))),
        ("several algs", by(SECRET.as_bytes(), json!({ "alg": ["HS256"] }))),
        ("another's secret", by(b"00112233445566778899aabbccddeef0", json!({}))),
        ("an empty secret", by(b"", json!({}))),
        ("the secret of no key", by(&NO_SECRET, json!({ "kid": "nosuchkey" }))),
        ("the secret of no key, with a key of another kind", by(&NO_SECRET, json!({ "kid": "edwards1" }))),
        ("a public key as a secret", by(public, json!({ "kid": "edwards1" }))),
        ("a public key as a secret, in hexadecimal", {
            by(chasqui_schemas::hex::encode(public).as_bytes(), json!({ "kid": "edwards1" }))
        }),
        ("an API key's hash as a secret", by(&chasqui_http::token::hash(SECRET), json!({ "kid": "apikey01" }))),
        ("an API key's hash as a secret, in hexadecimal", {
            let hash = chasqui_schemas::hex::encode(chasqui_http::token::hash(SECRET));
            by(hash.as_bytes(), json!({ "kid": "apikey01" }))
        }),
        ("an API key's secret", by(SECRET.as_bytes(), json!({ "kid": "apikey01" }))),
        ("a secret as a private key", world.eddsa(json!({ "alg": "EdDSA", "kid": "hmackey1" }), good())),
        ("an extension that must be understood", by(SECRET.as_bytes(), json!({ "crit": ["b64"], "b64": false }))),
        ("no kid", by(SECRET.as_bytes(), json!({ "kid": null }))),
        ("a kid that is a path", by(SECRET.as_bytes(), json!({ "kid": "../../dev/null" }))),
        ("a kid that is an empty text", by(SECRET.as_bytes(), json!({ "kid": "" }))),
        ("a key that comes with the token", {
            let own = BASE64_URL_SAFE_NO_PAD.encode([7; 32]);
            by(&[7; 32], json!({ "jwk": { "kty": "oct", "k": own } }))
        }),
    ];
    // The claims are signed too.
    let token = hs256(good());
    let mut parts = token.split('.');
    let (head_part, _, signature) = (parts.next().unwrap(), parts.next(), parts.next().unwrap());
    let later = BASE64_URL_SAFE_NO_PAD.encode(json!({ "iat": NOW, "exp": NOW + 299 }).to_string());
    cases.push(("other claims", format!("{head_part}.{later}.{signature}")));
    for (what, token) in cases {
        assert_eq!(world.accepts(&token), None, "{what}");
    }
}

#[test]
fn a_token_has_one_spelling() {
    let world = world();
    let token = hs256(good());
    assert!(world.accepts(&token).is_some());
    let long = json!({ "iat": NOW, "exp": NOW + 60, "x": "x".repeat(MAX_BYTES) });
    let twice = {
        let part = |text: &str| BASE64_URL_SAFE_NO_PAD.encode(text);
        let head = part(r#"{"alg":"none","alg":"HS256","kid":"hmackey1"}"#);
        tagged(SECRET.as_bytes(), &format!("{head}.{}", part(&good().to_string())))
    };
    for other in [
        String::new(),
        ".".to_owned(),
        "..".to_owned(),
        "...".to_owned(),
        format!("{token}="),
        format!("{token}."),
        format!(".{token}"),
        format!("{token} "),
        token.replace('.', ".."),
        token[..token.len() - 1].to_owned(),
        token.rsplit_once('.').unwrap().0.to_owned(),
        hs256(long),
        twice,
    ] {
        assert_eq!(world.accepts(&other), None, "{other}");
    }
    // Each character counts, even where Base64 has bits to spare.
    for (place, old) in token.char_indices() {
        let new = if old == 'A' { 'B' } else { 'A' };
        let changed = format!("{}{new}{}", &token[..place], &token[place + 1..]);
        assert_eq!(world.accepts(&changed), None, "{place}");
    }
}
