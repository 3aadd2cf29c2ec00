//! What vendors' callbacks share: our ids, the addresses that they switch off, and how they are believed.

use chasqui_schemas::{OptOut, bucket::address_key, receipt::check_ids};
use ring::digest;
use uuid::Uuid;

/// The SHA-256 of a text that only its holder knows: compared instead of the text, so that the time that a comparison
/// takes tells nothing of it.
pub(crate) type Hash = [u8; digest::SHA256_OUTPUT_LEN];

/// The ids of one of our messages, from what came back with it.
pub(crate) fn ids(notification: Option<&str>, delivery: Option<&str>) -> Option<(Uuid, Uuid)> {
    let notification: Uuid = notification?.parse().ok()?;
    let delivery: Uuid = delivery?.parse().ok()?;
    check_ids(notification, delivery).ok().map(|()| (notification, delivery))
}

/// Nothing more may go to this address.
pub(crate) fn switch_off(address: &str, reason: &str) -> Option<OptOut> {
    let is_address = !address.trim().is_empty();
    is_address.then(|| OptOut::Address { key: address_key(address), reason: reason.to_owned() })
}

/// The hash of a text.
pub(crate) fn hash(text: &str) -> Hash {
    let mut hash = Hash::default();
    hash.copy_from_slice(digest::digest(&digest::SHA256, text.as_bytes()).as_ref());
    hash
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_ids_like_ours_are_ours() {
        let (notification, delivery) = (Uuid::now_v7().to_string(), Uuid::from_u128(9).simple().to_string());
        assert!(ids(Some(&notification), Some(&delivery)).is_some());
        assert_eq!(ids(Some(&delivery), Some(&delivery)), None);
        assert_eq!(ids(Some(&notification), Some("")), None);
        assert_eq!(ids(Some(&notification), Some(&Uuid::nil().to_string())), None);
        assert_eq!(ids(None, Some(&delivery)), None);
    }
}
