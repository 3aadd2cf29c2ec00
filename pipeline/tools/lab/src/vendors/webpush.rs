//! A push service and the browsers behind it.
//!
//! Sources: RFC 8030 (the service), RFC 8291 (encryption), RFC 8188 (`aes128gcm`), RFC 8292 (VAPID). A real service
//! cannot read messages; the lab is the browser too, and says 400 to what its browser could not decrypt.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use jiff::Timestamp;
use p256::elliptic_curve::sec1::ToEncodedPoint as _;
use ring::{
    aead::{AES_128_GCM, Aad, LessSafeKey, Nonce, UnboundKey},
    hkdf,
    rand::{SecureRandom as _, SystemRandom},
    signature::ECDSA_P256_SHA256_FIXED,
};
use serde_json::{Value, json};

use crate::{
    StartError,
    accounts::random_p256,
    exchange::{Accepted, Api, DELIVERY_ID, Reply, Request, find, hex},
    jwt,
    script::{Fault, Trouble},
};

/// Largest body, in bytes: what every push service must take (RFC 8030, 7.2).
const MAX_BODY: usize = 4096;
/// Subscriptions at most.
const MAX_SUBSCRIPTIONS: usize = 1_000_000;
/// Verified VAPID tokens remembered; then all are verified again.
const MAX_TOKENS: usize = 10_000;
/// Furthest expiry of a VAPID token, in seconds (RFC 8292, 2).
const MAX_EXPIRY: i64 = 24 * 3600;
/// Salt, record size, key length, key: the header of `aes128gcm` as Web Push uses it.
const HEADER: usize = 16 + 4 + 1 + 65;
/// What Chrome's push service says of a subscription that was made with another key.
const ANOTHERS: &str = "the VAPID credentials in the authorization header do not correspond to the credentials used to \
                        create the subscriptions.";

pub(crate) struct WebPush {
    origin: String,
    /// The only sender whose messages the subscriptions take.
    sender: Vec<u8>,
    subscriptions: Mutex<HashMap<String, Browser>>,
    /// VAPID tokens that were verified, with their expiry.
    tokens: Mutex<HashMap<String, i64>>,
}

/// What a browser keeps of a subscription.
#[derive(Clone)]
struct Browser {
    key: p256::SecretKey,
    auth: [u8; 16],
    gone: bool,
}

impl WebPush {
    pub(crate) fn new(origin: &str, sender: Vec<u8>) -> Self {
        WebPush { origin: origin.to_owned(), sender, subscriptions: Mutex::default(), tokens: Mutex::default() }
    }

    /// A new subscription, as `PushSubscription.toJSON()` gives it. `word` stands in its endpoint.
    pub(crate) fn subscribe(&self, word: &str) -> Result<Value, StartError> {
        let random = SystemRandom::new();
        let key = random_p256(&random)?;
        let (mut auth, mut id) = ([0; 16], [0; 16]);
        random.fill(&mut auth).and(random.fill(&mut id)).map_err(|_| StartError::Key("no randomness"))?;
        let path = format!("/push/{word}{}{}", if word.is_empty() { "" } else { "-" }, hex(&id));
        let subscription = json!({
            "endpoint": format!("{}{path}", self.origin),
            "expirationTime": null,
            "keys": {
                "p256dh": BASE64_URL_SAFE_NO_PAD.encode(key.public_key().to_encoded_point(false).as_bytes()),
                "auth": BASE64_URL_SAFE_NO_PAD.encode(auth),
            },
        });
        let mut subscriptions = self.subscriptions.lock().unwrap_or_else(PoisonError::into_inner);
        if subscriptions.len() == MAX_SUBSCRIPTIONS {
            return Err(StartError::Key("no room for more subscriptions"));
        }
        subscriptions.insert(path, Browser { key, auth, gone: false });
        Ok(subscription)
    }

    /// The user takes the permission back: 410 from now on.
    pub(crate) fn unsubscribe(&self, endpoint: &str) {
        let path = endpoint.strip_prefix(self.origin.as_str()).unwrap_or_default();
        let mut subscriptions = self.subscriptions.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(browser) = subscriptions.get_mut(path) {
            browser.gone = true;
        }
    }

    fn judge(&self, request: &Request) -> Result<Value, (u16, &'static str)> {
        if request.method != hyper::Method::POST {
            return Err((405, "POST messages"));
        }
        let browser = self.subscriptions.lock().unwrap_or_else(PoisonError::into_inner).get(&request.path).cloned();
        let browser = browser.ok_or((404, "no such subscription"))?;
        if browser.gone {
            return Err((410, "the subscription is gone"));
        }
        self.authorize(request)?;
        if request.body.len() > MAX_BODY {
            return Err((413, "at most 4096 bytes"));
        }
        let ttl = request.header("ttl").ok_or((400, "TTL is missing"))?;
        if ttl.is_empty() || !ttl.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err((400, "TTL is no number of seconds"));
        }
        if request.header("urgency").is_some_and(|u| !["very-low", "low", "normal", "high"].contains(&u)) {
            return Err((400, "no such Urgency"));
        }
        let base64url = |text: &str| text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
        if request.header("topic").is_some_and(|topic| topic.is_empty() || topic.len() > 32 || !base64url(topic)) {
            return Err((400, "Topic is at most 32 characters of base64url"));
        }
        if request.body.is_empty() {
            return Ok(Value::Null);
        }
        if request.header("content-encoding") != Some("aes128gcm") {
            return Err((400, "Content-Encoding must be aes128gcm"));
        }
        let plain = decrypt(&browser.key, browser.auth, &request.body).ok_or((400, "the browser cannot decrypt it"))?;
        Ok(serde_json::from_slice(&plain).unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&plain).into())))
    }

    /// RFC 8292, 4.2: 401 where nobody signs, 403 where the signature is wrong or another's.
    fn authorize(&self, request: &Request) -> Result<(), (u16, &'static str)> {
        let authorization = request.header("authorization").ok_or((401, "vapid authentication is missing"))?;
        let (scheme, parameters) = authorization.split_once(' ').ok_or((401, "vapid authentication is missing"))?;
        if !scheme.eq_ignore_ascii_case("vapid") {
            return Err((401, "the scheme is vapid"));
        }
        let parameter =
            |name: &str| parameters.split(',').find_map(|part| part.trim().strip_prefix(name)?.strip_prefix('='));
        let token = parameter("t").ok_or((403, "t is missing"))?;
        let key = parameter("k").and_then(|k| BASE64_URL_SAFE_NO_PAD.decode(k).ok()).ok_or((403, "k is missing"))?;
        if key != self.sender {
            return Err((403, ANOTHERS));
        }
        let now = Timestamp::now().as_second();
        let known = self.tokens.lock().unwrap_or_else(PoisonError::into_inner).get(token).copied();
        let expiry = match known {
            Some(expiry) => expiry,
            None => {
                let read = jwt::read(token, "ES256", &ECDSA_P256_SHA256_FIXED, &key).ok_or((403, "wrong signature"))?;
                if read.claims["aud"] != *self.origin {
                    return Err((403, "aud is not this service"));
                }
                let contact = read.claims["sub"].as_str();
                if contact.is_some_and(|sub| !sub.starts_with("mailto:") && !sub.starts_with("https:")) {
                    return Err((403, "sub is no mailto: or https: address"));
                }
                let expiry = read.claims["exp"].as_i64().ok_or((403, "exp is missing"))?;
                let mut tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
                if tokens.len() == MAX_TOKENS {
                    tokens.clear();
                }
                tokens.insert(token.to_owned(), expiry);
                expiry
            }
        };
        // A clock may be a little ahead.
        if expiry <= now || expiry > now + MAX_EXPIRY + 60 {
            Err((403, "exp is past, or over 24 hours ahead"))
        } else {
            Ok(())
        }
    }
}

impl Api for std::sync::Arc<WebPush> {
    fn check(&self, request: &Request) -> Result<Accepted, Reply> {
        let message = self.judge(request).map_err(|(status, words)| refusal(status, words))?;
        let location = format!("{}/message/{}", self.origin, request.hex(32));
        let reply = Reply::empty(201, "ok")
            .with("location", location.clone())
            .with("ttl", request.header("ttl").unwrap_or("0"));
        Ok(Accepted {
            recipient: format!("{}{}", self.origin, request.path),
            delivery_id: find(&message, DELIVERY_ID).unwrap_or_default().to_owned(),
            message_id: location,
            echo: message,
            reply,
        })
    }

    fn fault(&self, fault: &Fault, _: &Request) -> Option<Reply> {
        let status = fault.code.parse().ok()?;
        [400, 401, 403, 404, 410, 413, 429, 500, 502, 503]
            .contains(&status)
            .then(|| refusal(status, "as the script says").retry_after(fault))
    }

    fn code(&self, trouble: Trouble) -> Option<&'static str> {
        Some(match trouble {
            Trouble::Refused => "400",
            Trouble::Dead => "410",
            Trouble::Busy => "429",
            Trouble::Down => "503",
        })
    }
}

/// The RFCs leave the body to the service.
fn refusal(status: u16, words: &str) -> Reply {
    let reply = Reply::text(status, status.to_string(), words);
    if status == 401 { reply.with("www-authenticate", "vapid") } else { reply }
}

/// What the browser reads, or nothing where it cannot.
fn decrypt(key: &p256::SecretKey, auth: [u8; 16], body: &[u8]) -> Option<Vec<u8>> {
    let (header, record) = body.split_at_checked(HEADER)?;
    let (salt, rest) = header.split_at(16);
    let size = u32::from_be_bytes(rest.get(..4)?.try_into().ok()?) as usize;
    // Web Push sends one record (RFC 8291, 4), of at most the size given, and its key is an uncompressed point.
    if record.len() > size || rest[4] != 65 {
        return None;
    }
    let sender = p256::PublicKey::from_sec1_bytes(&rest[5..]).ok()?;
    let shared = p256::ecdh::diffie_hellman(key.to_nonzero_scalar(), sender.as_affine());
    let browser = key.public_key().to_encoded_point(false);
    let mut ikm = [0; 32];
    let info = [b"WebPush: info\0", browser.as_bytes(), &rest[5..]];
    expand(&auth, shared.raw_secret_bytes(), &info, &mut ikm)?;
    let (mut content_key, mut nonce) = ([0; 16], [0; 12]);
    expand(salt, &ikm, &[b"Content-Encoding: aes128gcm\0"], &mut content_key)?;
    expand(salt, &ikm, &[b"Content-Encoding: nonce\0"], &mut nonce)?;
    let opener = LessSafeKey::new(UnboundKey::new(&AES_128_GCM, &content_key).ok()?);
    let mut record = record.to_vec();
    let plain = opener.open_in_place(Nonce::assume_unique_for_key(nonce), Aad::empty(), &mut record).ok()?;
    // Zeros of padding after the delimiter of the last record, 2 (RFC 8188, 2).
    let end = plain.iter().rposition(|byte| *byte != 0)?;
    (plain[end] == 2).then(|| plain[..end].to_vec())
}

/// HKDF with SHA-256 (RFC 5869).
fn expand(salt: &[u8], secret: &[u8], info: &[&[u8]], out: &mut [u8]) -> Option<()> {
    struct Length(usize);
    impl hkdf::KeyType for Length {
        fn len(&self) -> usize {
            self.0
        }
    }
    let key = hkdf::Salt::new(hkdf::HKDF_SHA256, salt).extract(secret);
    key.expand(info, Length(out.len())).ok()?.fill(out).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vectors() -> Value {
        serde_json::from_str(include_str!("../../specs/webpush_vectors.json")).unwrap()
    }

    fn bytes(value: &Value) -> Vec<u8> {
        BASE64_URL_SAFE_NO_PAD.decode(value.as_str().unwrap()).unwrap()
    }

    #[test]
    fn the_message_of_rfc_8291_is_read() {
        let vector = &vectors()["rfc8291"];
        let key = p256::SecretKey::from_slice(&bytes(&vector["ua_private"])).unwrap();
        let auth: [u8; 16] = bytes(&vector["auth_secret"]).try_into().unwrap();
        let mut body = bytes(&vector["body"]);
        assert_eq!(decrypt(&key, auth, &body).unwrap(), bytes(&vector["plaintext"]));
        *body.last_mut().unwrap() ^= 1;
        assert_eq!(decrypt(&key, auth, &body), None, "a changed message");
        assert_eq!(decrypt(&key, [0; 16], &bytes(&vector["body"])), None, "another browser");
        for length in 0..body.len() {
            assert_eq!(decrypt(&key, auth, &bytes(&vector["body"])[..length]), None, "cut at {length}");
        }
    }

    #[test]
    fn the_token_of_rfc_8292_is_verified() {
        let authorization = vectors()["rfc8292"]["authorization"].as_str().unwrap().to_owned();
        let (token, key) = authorization.strip_prefix("vapid t=").unwrap().split_once(", k=").unwrap();
        let key = BASE64_URL_SAFE_NO_PAD.decode(key).unwrap();
        let read = jwt::read(token, "ES256", &ECDSA_P256_SHA256_FIXED, &key).unwrap();
        assert_eq!(read.claims, vectors()["rfc8292"]["claims"]);
        assert!(jwt::read(token, "RS256", &ECDSA_P256_SHA256_FIXED, &key).is_none(), "another algorithm");
    }
}
