//! State buckets: NATS KV, JSON values, documented by the JSON Schemas in `schemas/json`.

use std::fmt::Write as _;

use sha2::{Digest, Sha256};

crate::vocabulary! {
    /// A NATS KV bucket of the public contract.
    pub enum Bucket "bucket" {
        Contacts = "contacts": "Where each user can be reached: addresses, devices, language, time zone.",
        Preferences = "preferences": "What each user has switched off, and the quiet hours.",
        Templates = "templates": "The texts of each template, by variant, channel and locale.",
        Categories = "categories": "The rules of each category of messages.",
        Suppressions = "suppressions": "Addresses that get nothing any more, by their hash.",
    }
}

/// A bucket for Chasqui's own processes only: what must be the same for all of them and is nobody else's to read.
pub const SECRETS: &str = "secrets";

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

/// The key of an e-mail address or phone number in `suppressions`: a hash, so that the list reveals no address at a
/// glance. Who can read it can try out addresses; it stays on the broker, beside contacts, and out of traces and logs.
///
/// Addresses compare without regard to case or surrounding blanks.
pub fn address_key(address: &str) -> String {
    crate::hex::encode(Sha256::digest(normalised(address)))
}

/// An address as it is compared and hashed.
pub(crate) fn normalised(address: &str) -> String {
    address.trim().to_lowercase()
}

/// The beginning of an [`address_key`], for logs and traces: an operator finds the record by it, but so many addresses
/// begin so that it betrays none.
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
    fn addresses_compare_without_case_and_blanks() {
        assert_eq!(address_key(" Ada@Example.com "), address_key("ada@example.com"));
        assert_ne!(address_key("ada@example.com"), address_key("bob@example.com"));
    }
}
