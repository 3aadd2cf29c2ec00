//! nkeys: how a user of nats-server proves who it is. The server knows the public key, which is no secret; the seed stays
//! with the user and never crosses the network.

use std::fmt;

use chasqui_settings::{Secret, SettingsError};
use nkeys::{KeyPair, KeyPairType};
use serde::{Deserialize, Serialize};

/// The public key of a user: `U` and 55 more letters and digits.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub struct PublicKey(String);

impl PublicKey {
    /// The key itself.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for PublicKey {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        // A seed in the settings would be copied into the server's configuration. The error does not repeat it.
        match KeyPair::from_public_key(&text).map(|pair| pair.key_pair_type()) {
            Ok(KeyPairType::User) => Ok(PublicKey(text)),
            _ => Err("expected the public key of a user, `U…`, which `chasqui apps nats-key FILE` prints".to_owned()),
        }
    }
}

/// Makes a key: its seed, and its public key.
///
/// # Errors
/// The seed cannot be written as text.
pub fn make() -> Result<(Secret, PublicKey), nkeys::error::Error> {
    let pair = KeyPair::new_user();
    Ok((Secret::from(pair.seed()?.as_str()), PublicKey(pair.public_key())))
}

/// The public key of `seed`, which the setting `key` names.
///
/// # Errors
/// It is not the seed of a user.
pub fn public_key(seed: &Secret, key: &str) -> Result<PublicKey, SettingsError> {
    let wrong =
        || SettingsError::invalid(key, "expected the seed of a user, `SU…`, as `chasqui apps nats-key` makes it");
    let pair = KeyPair::from_seed(seed.expose()).map_err(|_| wrong())?;
    match pair.key_pair_type() {
        KeyPairType::User => Ok(PublicKey(pair.public_key())),
        _ => Err(wrong()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_is_no_public_key_and_a_public_key_no_seed() {
        let (seed, public) = make().unwrap();
        assert_eq!(public_key(&seed, "nats.nkey").unwrap(), public);
        let error = PublicKey::try_from(seed.expose().to_owned()).unwrap_err();
        assert!(!error.contains(seed.expose()), "{error}");
        let account = KeyPair::new_account();
        assert!(PublicKey::try_from(account.public_key()).is_err());
        for wrong in [public.to_string(), account.seed().unwrap(), "SU".to_owned()] {
            assert_eq!(public_key(&Secret::from(wrong.as_str()), "nats.nkey").unwrap_err().key, "nats.nkey");
        }
    }
}
