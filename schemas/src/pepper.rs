//! Keyed hashes of recipients and addresses, for the ids that leave the broker, and the check in those that come back.
//!
//! Ids of notifications and deliveries are derived from recipient and address. They are visible in ClickHouse, in links
//! and to providers. From a plain hash anybody could find a phone number by trying all numbers; so the recipient enters
//! the ids through HMAC-SHA-256 ([RFC 2104](https://www.rfc-editor.org/rfc/rfc2104)) with a secret of
//! the installation.
//!
//! A delivery's id has a check in it too, made with the same secret ([`Pepper::delivery`]): whoever sees an id that comes
//! back from outside can tell, without looking anything up, that it is one of ours, and whether it is of a given app.
//!
//! Guarantee: the same secret and recipient give the same hash, in every process and after every crash: that is what
//! makes ids repeatable. Without the secret a hash can neither be computed nor tried out.

use std::{fmt, ops::Range};

use hmac::{Hmac, Mac};
use sha2::{Digest, Sha256};
use uuid::{Builder, Uuid};

use crate::{Channel, hex, id, normal, notification::Recipient};

/// Minimum bytes of a secret: 256 bits, which cannot be guessed.
pub const MIN_SECRET_BYTES: usize = 32;
/// Bytes of a hash.
const HASH_BYTES: usize = 16;
/// Bytes of an endpoint's hash: enough to distinguish the few addresses of one recipient.
const ENDPOINT_BYTES: usize = 8;
/// Where in a delivery's id the check of the app is. Two of these bits say what kind of UUID it is.
const OF_APP: Range<usize> = 8..12;
/// Where the check is that the id is ours.
const OURS: Range<usize> = 12..16;

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
        self.hash::<ENDPOINT_BYTES>("endpoint", &normal::address(address))
    }

    /// One endpoint's delivery; `endpoint` is [`crate::delivery::Endpoint::id`].
    ///
    /// A UUIDv8. Its first 64 bits say which endpoint; of the others, the last 32 bits prove that it is ours, and the 30
    /// bits before them that it is of `app`. Whoever knows neither the secret nor the id has one chance in 2^62 to name a
    /// delivery of an app's, and for each guess must ask us. Two checks and not one, because a vendor that reports does not
    /// say which app's delivery it was.
    pub fn delivery(&self, app: &str, notification_id: Uuid, channel: Channel, endpoint: &str) -> Uuid {
        self.checked(app, notification_id, id::place(notification_id, channel, endpoint))
    }

    /// Whether this is a delivery of that notification, and both are ours.
    pub fn is_ours(&self, notification_id: Uuid, delivery_id: Uuid) -> bool {
        self.is_like(OURS, "", notification_id, delivery_id)
    }

    /// Whether it is also of that app.
    pub fn is_of(&self, app: &str, notification_id: Uuid, delivery_id: Uuid) -> bool {
        // Without a short cut: the time that it takes tells nothing of the id.
        self.is_ours(notification_id, delivery_id) & self.is_like(OF_APP, app, notification_id, delivery_id)
    }

    /// Whether the delivery goes to this e-mail address or phone number. [`Pepper::is_ours`] is another question.
    pub fn is_to(&self, address: &str, notification_id: Uuid, delivery_id: Uuid) -> bool {
        let endpoint = self.endpoint(address);
        let is_by = |channel| id::place(notification_id, channel, &endpoint) == delivery_id.as_bytes()[..8];
        is_by(Channel::Email) || is_by(Channel::Sms)
    }

    /// Whether an id is what [`Pepper::checked`] makes, in these bytes.
    fn is_like(&self, bytes: Range<usize>, app: &str, notification_id: Uuid, delivery_id: Uuid) -> bool {
        let place = std::array::from_fn(|i| delivery_id.as_bytes()[i]);
        let genuine = self.checked(app, notification_id, place);
        let pairs = genuine.as_bytes().iter().zip(delivery_id.as_bytes());
        pairs.skip(bytes.start).take(bytes.len()).fold(0, |differs, (a, b)| differs | (a ^ b)) == 0
    }

    fn checked(&self, app: &str, notification_id: Uuid, place: [u8; 8]) -> Uuid {
        let (notification, place) = (notification_id.as_bytes(), &place[..]);
        let ours = self.mac("delivery", &[notification, place]);
        let of_app = self.mac("delivery of app", &[notification, place, app.as_bytes()]);
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(place);
        bytes[OF_APP].copy_from_slice(&of_app[..OF_APP.len()]);
        bytes[OURS].copy_from_slice(&ours[..OURS.len()]);
        Builder::from_custom_bytes(bytes).into_uuid()
    }

    /// A hash that identifies the secret without revealing it.
    pub fn fingerprint(&self) -> String {
        self.hash::<HASH_BYTES>("fingerprint", "")
    }

    /// `what` for: hashes for one use say nothing about those for another.
    fn hash<const N: usize>(&self, what: &str, text: &str) -> String {
        hex::encode(&self.mac(what, &[text.as_bytes()])[..N])
    }

    /// All parts but the last one have a length that goes without saying.
    fn mac(&self, what: &str, parts: &[&[u8]]) -> [u8; 32] {
        let mut mac = self.0.clone();
        mac.update(what.as_bytes());
        mac.update(&[0]);
        parts.iter().for_each(|part| mac.update(part));
        mac.finalize().into_bytes().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bucket;

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
    fn an_id_proves_whose_it_is_and_where_it_goes_and_nothing_near_it_does() {
        let (ours, notification) = (Pepper::new(b"ours"), Uuid::now_v7());
        let of = |pepper: &Pepper, app| {
            pepper.delivery(app, notification, Channel::Email, &pepper.endpoint("ada@example.com"))
        };
        let delivery = of(&ours, "shop");
        assert_eq!((delivery, delivery.get_version_num()), (of(&ours, "shop"), 8));
        assert!(ours.is_ours(notification, delivery) && ours.is_of("shop", notification, delivery));
        assert!(!ours.is_of("bank", notification, delivery) && !ours.is_of("", notification, delivery));
        assert!(!ours.is_ours(Uuid::now_v7(), delivery), "of another notification");
        assert!(!ours.is_ours(notification, of(&Pepper::new(b"theirs"), "shop")));
        for bit in 0..128 {
            let near = Uuid::from_u128(delivery.as_u128() ^ 1 << bit);
            assert!(!ours.is_of("shop", notification, near), "bit {bit}");
            // What only proves the app does not concern a vendor, which knows none.
            assert_eq!(ours.is_ours(notification, near), (32..64).contains(&bit), "bit {bit}");
        }
        for (address, expected) in [("Ada@example.com ", true), ("bob@example.com", false), ("", false)] {
            assert_eq!(ours.is_to(address, notification, delivery), expected, "{address}");
        }
        assert!(!ours.is_to("ada@example.com", Uuid::now_v7(), delivery));
    }

    #[test]
    fn no_hash_shows_the_address_or_its_plain_hash() {
        let pepper = Pepper::new(b"ours");
        assert!(!bucket::address_key("+15551234567").starts_with(&pepper.endpoint("+15551234567")));
        assert_eq!(pepper.endpoint("+15551234567").len(), 16);
    }
}
