//! Tokens: how a client sends one, and how it is compared.
//!
//! Guarantee: how long a comparison takes says nothing about a token: hashes are compared, and all of each.

use axum::http::{HeaderMap, header::AUTHORIZATION};
use base64::{Engine, prelude::BASE64_STANDARD};
use ring::digest;

/// A token's SHA-256.
pub type TokenHash = [u8; 32];

/// What is compared.
pub fn hash(token: &str) -> TokenHash {
    let hash = digest::digest(&digest::SHA256, token.as_bytes());
    std::array::from_fn(|i| hash.as_ref()[i])
}

/// Whether two hashes are the same; takes as long wherever they differ.
pub fn same(a: &TokenHash, b: &TokenHash) -> bool {
    a.iter().zip(b).fold(0, |difference, (a, b)| difference | (a ^ b)) == 0
}

/// The token of `Authorization: Bearer …` (RFC 6750).
pub fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = credentials(headers)?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token)
}

/// The token of `Authorization: Bearer …`, or the password of `Authorization: Basic …` (RFC 7617), which browsers ask for.
pub fn bearer_or_password(headers: &HeaderMap) -> Option<String> {
    if let Some(token) = bearer(headers) {
        return Some(token.to_owned());
    }
    let (scheme, encoded) = credentials(headers)?;
    let decoded = scheme.eq_ignore_ascii_case("basic").then(|| BASE64_STANDARD.decode(encoded).ok())??;
    let text = String::from_utf8(decoded).ok()?;
    Some(text.split_once(':')?.1.to_owned())
}

fn credentials(headers: &HeaderMap) -> Option<(&str, &str)> {
    let (scheme, rest) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    Some((scheme, rest.trim()))
}
