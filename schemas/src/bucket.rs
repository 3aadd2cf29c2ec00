//! How a record is found in its bucket: every name a user writes has one key, and no two names share one.
//!
//! The buckets themselves are [`crate::record::Bucket::ALL`]: NATS KV, JSON values, documented by the JSON Schemas in
//! `schemas/json`.

use std::fmt::Write as _;

use sha2::{Digest, Sha256};

use crate::normal;

/// How many writes of a record a state bucket keeps, the latest among them: what a provider's word or a mistake took away
/// can be seen and put back. Each costs disk on the broker.
pub const REVISIONS: i64 = 5;

/// The bucket in which Chasqui's own processes share their secret. It is not part of the public contract.
pub const SECRETS: &str = "secrets";

/// What the records of a bucket are named after. It decides their keys, how logs show their names, and whether
/// `chasqui forget` erases them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum KeyedBy {
    /// A user's id. `chasqui forget` erases these records.
    User,
    /// An e-mail address or phone number, which is only stored hashed and never shown.
    Address,
    /// A category's name, which is the same in any case ([`normal::category`]).
    Category,
    /// Any other name that operators choose: a template's key.
    Name,
}

impl KeyedBy {
    /// The key of the record `name`.
    pub fn key(self, name: &str) -> String {
        match self {
            KeyedBy::User | KeyedBy::Name => token(name),
            KeyedBy::Category => token(&normal::category(name)),
            KeyedBy::Address => address_key(name),
        }
    }

    /// Refuses a name under which nobody would look for a record.
    ///
    /// # Errors
    /// What is wrong with the name, and what is right.
    pub fn check(self, name: &str) -> Result<(), &'static str> {
        let is_good = match self {
            KeyedBy::User | KeyedBy::Name => !name.is_empty(),
            KeyedBy::Category => !normal::category(name).is_empty(),
            KeyedBy::Address => normal::mailbox::normal(name).is_ok() || normal::phone::normal(name).is_ok(),
        };
        match self {
            _ if is_good => Ok(()),
            KeyedBy::Address => Err("its name must be an e-mail address, or a phone number with its country's code"),
            _ => Err("its name must not be blank"),
        }
    }

    /// The record `name` as errors, logs and traces may call it.
    pub fn shown(self, name: &str) -> String {
        match self {
            KeyedBy::User | KeyedBy::Name => name.to_owned(),
            KeyedBy::Category => normal::category(name),
            KeyedBy::Address => shown(&address_key(name)),
        }
    }
}

/// Spells any user id, template key or category as a KV key or subject token.
///
/// Letters, digits, `-` and `_` stand for themselves; every other byte becomes `=XX` (hexadecimal), because
/// NATS keys admit few characters and `.` separates tokens. Distinct names have distinct keys.
pub fn token(name: &str) -> String {
    let mut token = String::with_capacity(name.len());
    for byte in name.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' => token.push(byte as char),
            // Writing to a String cannot fail.
            _ => _ = write!(token, "={byte:02X}"),
        }
    }
    token
}

/// The name that [`token`] spelled; `None` where the text is not one of its spellings.
pub fn untoken(token: &str) -> Option<String> {
    let mut name = Vec::with_capacity(token.len());
    let mut rest = token.as_bytes();
    while let [first, tail @ ..] = rest {
        if *first == b'=' {
            let digits = std::str::from_utf8(tail.get(..2)?).ok()?;
            name.push(u8::from_str_radix(digits, 16).ok()?);
            rest = &tail[2..];
        } else {
            name.push(*first);
            rest = tail;
        }
    }
    String::from_utf8(name).ok()
}

/// The key of an e-mail address or phone number in `suppressions`: a hash, so that the list shows no address. A reader
/// of the list could still test whether an address is on it, so the hash never reaches traces or logs (see [`shown`]).
///
/// Addresses compare by their normal form ([`normal::address`]).
pub fn address_key(address: &str) -> String {
    crate::hex::encode(Sha256::digest(normal::address(address)))
}

/// The first four digits of an [`address_key`], for logs and traces. An operator can find the record by them; they
/// identify no person, because one address in 65,536 shares them.
pub fn shown(address_key: &str) -> String {
    address_key.chars().take(4).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_token_is_reversible_and_safe_as_a_key(name in ".*") {
            let token = token(&name);
            prop_assert!(token.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_=".contains(&b)));
            prop_assert_eq!(untoken(&token), Some(name));
        }
    }

    #[test]
    fn an_address_is_neither_stored_nor_shown() {
        let (key, shown) = (KeyedBy::Address.key("Ada@example.com"), KeyedBy::Address.shown("Ada@example.com"));
        assert_eq!(key, address_key("ada@example.com"));
        assert_eq!(shown, format!("{}…", &key[..4]));
        assert_eq!((KeyedBy::User.key("a.b"), KeyedBy::User.shown("a.b")), ("a=2Eb".to_owned(), "a.b".to_owned()));
    }

    #[test]
    fn addresses_and_categories_have_one_key_in_any_spelling() {
        assert_eq!(address_key(" Ada@Example.com "), address_key("ada@example.com"));
        assert_eq!(address_key("+1 (555) 201-0199"), address_key("0015552010199"));
        assert_eq!(KeyedBy::Category.key("Marketing"), "marketing");
        assert_eq!(KeyedBy::Name.key("Order"), "Order");
        assert!(
            KeyedBy::Address.check("+1 (555) 201-0199").is_ok() && KeyedBy::Address.check("ada@example.com").is_ok()
        );
        assert!(KeyedBy::Address.check("555 201-0199").is_err(), "nobody's number: the country is missing");
        assert!(KeyedBy::Category.check(" ").is_err() && KeyedBy::User.check("ada").is_ok());
        assert_ne!(address_key("ada@example.com"), address_key("bob@example.com"));
    }
}
