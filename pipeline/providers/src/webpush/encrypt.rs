//! Encryption for one browser: [RFC 8291](https://www.rfc-editor.org/rfc/rfc8291), one record of aes128gcm
//! ([RFC 8188](https://www.rfc-editor.org/rfc/rfc8188)).
//!
//! Guarantee: every message has a key pair and a salt of its own. All but drawing them and agreeing on a secret is a
//! pure function, [`seal`], which reproduces the RFC's vectors.
//!
//! HKDF (RFC 5869) stands here as the HMACs that it is: no output is longer than one block.

use ring::{
    aead::{AES_128_GCM, Aad, LessSafeKey, Nonce, UnboundKey},
    agreement::{ECDH_P256, EphemeralPrivateKey, UnparsedPublicKey, agree_ephemeral},
    error::Unspecified,
    hmac,
    rand::{SecureRandom, SystemRandom},
};

use super::subscription::Subscription;

/// Largest body that a push service must take, in bytes (RFC 8030, 7.2), and our record's size.
const MAX_BODY: u32 = 4_096;
/// Largest message, in bytes: what is left of the body for it (RFC 8291, 4).
pub(super) const MAX_MESSAGE: usize = 3_993;

/// The body of a push.
///
/// # Errors
/// Where the browser's key is not one, or the system gives no random numbers.
pub(super) fn encrypt(subscription: &Subscription, message: &[u8]) -> Result<Vec<u8>, Unspecified> {
    let random = SystemRandom::new();
    let mut salt = [0; 16];
    random.fill(&mut salt)?;
    let ours = EphemeralPrivateKey::generate(&ECDH_P256, &random)?;
    let our_public: [u8; 65] = ours.compute_public_key()?.as_ref().try_into().map_err(|_| Unspecified)?;
    let Subscription { public_key, auth, .. } = subscription;
    agree_ephemeral(ours, &UnparsedPublicKey::new(&ECDH_P256, public_key), |secret| {
        let keys = Keys::derive(secret, auth, public_key, &our_public, &salt);
        seal(&keys, &our_public, &salt, message)
    })?
}

/// The keys of one message.
struct Keys {
    /// Encrypts the content.
    content: [u8; 16],
    nonce: [u8; 12],
}

impl Keys {
    /// RFC 8291, 3.4.
    fn derive(secret: &[u8], auth: &[u8; 16], theirs: &[u8; 65], ours: &[u8; 65], salt: &[u8; 16]) -> Self {
        let prk = hmac_sha256(auth, &[secret]);
        let ikm = hmac_sha256(&prk, &[b"WebPush: info\0", theirs, ours, &[1]]);
        let prk = hmac_sha256(salt, &[&ikm]);
        Keys {
            content: first(&hmac_sha256(&prk, &[b"Content-Encoding: aes128gcm\0", &[1]])),
            nonce: first(&hmac_sha256(&prk, &[b"Content-Encoding: nonce\0", &[1]])),
        }
    }
}

/// Header and the only record: RFC 8188, 2.
fn seal(keys: &Keys, ours: &[u8; 65], salt: &[u8; 16], message: &[u8]) -> Result<Vec<u8>, Unspecified> {
    // The two marks the last record; nothing is padded.
    let mut record = [message, &[2]].concat();
    let key = LessSafeKey::new(UnboundKey::new(&AES_128_GCM, &keys.content)?);
    key.seal_in_place_append_tag(Nonce::assume_unique_for_key(keys.nonce), Aad::empty(), &mut record)?;
    Ok([salt.as_slice(), &MAX_BODY.to_be_bytes(), &[65], ours, &record].concat())
}

fn hmac_sha256(key: &[u8], parts: &[&[u8]]) -> [u8; 32] {
    let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, key));
    parts.iter().for_each(|part| context.update(part));
    let mut tag = [0; 32];
    tag.copy_from_slice(context.sign().as_ref());
    tag
}

fn first<const N: usize>(bytes: &[u8; 32]) -> [u8; N] {
    std::array::from_fn(|i| bytes[i])
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;
    use ring::agreement;
    use serde_json::Value;

    use super::*;
    use crate::webpush::subscription::decode;

    /// The vectors of RFC 8291 and RFC 8292.
    pub(in crate::webpush) fn vectors() -> Value {
        serde_json::from_str(include_str!("../../specs/webpush_vectors.json")).unwrap()
    }

    fn vector(name: &str) -> Vec<u8> {
        decode(vectors()["rfc8291"][name].as_str().unwrap()).unwrap()
    }

    fn fixed<const N: usize>(name: &str) -> [u8; N] {
        vector(name).try_into().unwrap()
    }

    #[test]
    fn the_rfcs_keys_and_body_are_reproduced() {
        let (ours, salt) = (fixed("as_public"), fixed("salt"));
        let keys = Keys::derive(&vector("ecdh_secret"), &fixed("auth_secret"), &fixed("ua_public"), &ours, &salt);
        assert_eq!((keys.content.to_vec(), keys.nonce.to_vec()), (vector("cek"), vector("nonce")));
        assert_eq!(seal(&keys, &ours, &salt, &vector("plaintext")).unwrap(), vector("body"));
        assert_eq!(vector("body").len(), 144);
    }

    #[test]
    fn the_steps_between_are_the_rfcs() {
        let prk_key = hmac_sha256(&vector("auth_secret"), &[&vector("ecdh_secret")]);
        assert_eq!(prk_key.to_vec(), vector("prk_key"));
        let ikm = hmac_sha256(&prk_key, &[&vector("key_info"), &[1]]);
        assert_eq!(ikm.to_vec(), vector("ikm"));
        assert_eq!(hmac_sha256(&vector("salt"), &[&ikm]).to_vec(), vector("prk"));
    }

    /// A browser, which can read what it is sent: the other side of RFC 8291, written apart.
    pub(in crate::webpush) struct Browser {
        private: EphemeralPrivateKey,
        pub(in crate::webpush) public: [u8; 65],
        pub(in crate::webpush) auth: [u8; 16],
    }

    impl Browser {
        pub(in crate::webpush) fn new() -> Self {
            let random = SystemRandom::new();
            let private = EphemeralPrivateKey::generate(&ECDH_P256, &random).unwrap();
            let public = private.compute_public_key().unwrap().as_ref().try_into().unwrap();
            let mut auth = [0; 16];
            random.fill(&mut auth).unwrap();
            Browser { private, public, auth }
        }

        pub(in crate::webpush) fn decrypt(self, body: &[u8]) -> Vec<u8> {
            let (salt, rest) = body.split_at(16);
            let (size, rest) = rest.split_at(4);
            assert!(u32::from_be_bytes(size.try_into().unwrap()) as usize >= body.len(), "one record");
            let (theirs, record) = rest[1..].split_at(rest[0].into());
            let peer = agreement::UnparsedPublicKey::new(&ECDH_P256, theirs);
            let secret = agree_ephemeral(self.private, &peer, |secret| secret.to_vec()).unwrap();
            let theirs = theirs.try_into().unwrap();
            let keys = Keys::derive(&secret, &self.auth, &self.public, theirs, salt.try_into().unwrap());
            let key = LessSafeKey::new(UnboundKey::new(&AES_128_GCM, &keys.content).unwrap());
            let mut record = record.to_vec();
            let nonce = Nonce::assume_unique_for_key(keys.nonce);
            let plain = key.open_in_place(nonce, Aad::empty(), &mut record).unwrap();
            plain.strip_suffix(&[2]).unwrap().to_vec()
        }

        fn subscription(&self) -> Subscription {
            let endpoint = "https://push.example.net/abc".parse().unwrap();
            Subscription { endpoint, public_key: self.public, auth: self.auth }
        }
    }

    #[test]
    fn two_encryptions_have_nothing_in_common() {
        let subscription = Browser::new().subscription();
        let [a, b] = [(); 2].map(|()| encrypt(&subscription, b"hello").unwrap());
        assert_ne!(a[..16], b[..16], "salt");
        assert_ne!(a[21..86], b[21..86], "key");
    }

    #[test]
    fn the_largest_message_fills_the_largest_body() {
        let body = encrypt(&Browser::new().subscription(), &[b'x'; MAX_MESSAGE]).unwrap();
        assert_eq!(body.len(), MAX_BODY as usize);
    }

    #[test]
    fn a_key_that_is_no_point_is_refused() {
        let subscription = Subscription { public_key: [4; 65], ..Browser::new().subscription() };
        assert!(encrypt(&subscription, b"hello").is_err());
    }

    proptest! {
        #[test]
        fn a_browser_reads_what_it_is_sent(message in prop::collection::vec(any::<u8>(), 0..300)) {
            let browser = Browser::new();
            let body = encrypt(&browser.subscription(), &message).unwrap();
            prop_assert_eq!(browser.decrypt(&body), message);
        }
    }
}
