//! Keyed hashes of recipients and addresses, for the ids that leave the broker.
//!
//! Ids of notifications and deliveries are derived from recipient and address. They are visible in ClickHouse, in links
//! and to providers. From a plain hash anybody could find a phone number by trying all numbers; so the recipient enters
//! the ids through HMAC-SHA-256 ([RFC 2104](https://www.rfc-editor.org/rfc/rfc2104)) with a secret of
//! the installation.
//!
//! Guarantee: the same secret and recipient give the same hash, in every process and after every crash: that is what
//! makes ids repeatable. Without the secret a hash can neither be computed nor tried out.

use std::fmt;

use hmac::{Hmac, Mac};
use sha2::{Digest, Sha256};

use crate::{bucket, hex, notification::Recipient};

/// Minimum bytes of a secret: 256 bits, which cannot be guessed.
pub const MIN_SECRET_BYTES: usize = 32;
/// Bytes of a hash.
const HASH_BYTES: usize = 16;
/// Bytes of an endpoint's hash: enough to distinguish the few addresses of one recipient.
const ENDPOINT_BYTES: usize = 8;

/// The installation's secret, ready to hash with.
#[derive(Clone)]
pub struct Pepper(Hmac<Sha256>);

/// Never the secret.
impl fmt::Debug for Pepper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pepper")
    }
}

impl Pepper {
    /// Of a secret of any length; one shorter than [`MIN_SECRET_BYTES`] can be guessed.
    pub fn new(secret: &[u8]) -> Self {
        // As HMAC takes it: filled up to SHA-256's block with zeros.
        let mut block = [0; 64];
        block[..32].copy_from_slice(&Sha256::digest(secret));
        Pepper(<Hmac<Sha256> as Mac>::new(&block.into()))
    }

    /// A recipient, for [`crate::id::notification`]. 128 bits, hexadecimal.
    pub fn recipient(&self, recipient: &Recipient) -> String {
        self.hash::<HASH_BYTES>("recipient", &recipient.key())
    }

    /// An e-mail address or phone number, for [`crate::delivery::Endpoint::id`]. 64 bits, hexadecimal.
    pub fn endpoint(&self, address: &str) -> String {
        self.hash::<ENDPOINT_BYTES>("endpoint", &bucket::normalised(address))
    }

    /// A hash that identifies the secret without revealing it.
    pub fn fingerprint(&self) -> String {
        self.hash::<HASH_BYTES>("fingerprint", "")
    }

    /// `what` for: hashes for one use say nothing about those for another.
    fn hash<const N: usize>(&self, what: &str, text: &str) -> String {
        let mut mac = self.0.clone();
        mac.update(what.as_bytes());
        mac.update(&[0]);
        mac.update(text.as_bytes());
        hex::encode(&mac.finalize().into_bytes()[..N])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_depend_on_the_secret_and_on_what_they_are_for() {
        let (ours, theirs) = (Pepper::new(b"ours"), Pepper::new(b"theirs"));
        assert_eq!(ours.endpoint("+15551234567"), Pepper::new(b"ours").endpoint(" +15551234567"));
        assert_eq!(ours.endpoint("Ada@Example.com"), ours.endpoint("ada@example.com"));
        assert_ne!(ours.endpoint("+15551234567"), theirs.endpoint("+15551234567"));
        let ada = Recipient::User("ada".into());
        assert_ne!(ours.recipient(&ada), theirs.recipient(&ada));
        assert_ne!(ours.fingerprint(), theirs.fingerprint());
        assert_ne!(ours.hash::<16>("a", "b"), ours.hash::<16>("ab", ""));
        assert_eq!(format!("{ours:?}"), "Pepper");
    }

    #[test]
    fn no_hash_shows_the_address_or_its_plain_hash() {
        let pepper = Pepper::new(b"ours");
        assert!(!bucket::address_key("+15551234567").starts_with(&pepper.endpoint("+15551234567")));
        assert_eq!(pepper.endpoint("+15551234567").len(), 16);
    }
}
