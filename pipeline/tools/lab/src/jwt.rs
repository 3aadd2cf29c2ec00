//! JSON Web Tokens in their compact form (RFC 7515), as a vendor reads them.

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use ring::signature::{UnparsedPublicKey, VerificationAlgorithm};
use serde_json::Value;

/// A token whose signature is right.
pub(crate) struct Token {
    pub(crate) header: Value,
    pub(crate) claims: Value,
}

/// Reads a token that must be signed by `key`; the header must name `name` as its algorithm.
pub(crate) fn read(
    token: &str,
    name: &str,
    algorithm: &'static dyn VerificationAlgorithm,
    key: &[u8],
) -> Option<Token> {
    let (signed, signature) = token.rsplit_once('.')?;
    let (header, claims) = signed.split_once('.')?;
    let decode = |text: &str| BASE64_URL_SAFE_NO_PAD.decode(text).ok();
    UnparsedPublicKey::new(algorithm, key).verify(signed.as_bytes(), &decode(signature)?).ok()?;
    let parse = |text: &str| serde_json::from_slice::<Value>(&decode(text)?).ok();
    let token = Token { header: parse(header)?, claims: parse(claims)? };
    (token.header["alg"] == name).then_some(token)
}
