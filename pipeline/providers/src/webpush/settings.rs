//! Settings of an account for Web Push: the VAPID key pair.

use chasqui_schemas::normal::mailbox;
use chasqui_settings::{SecretSource, SettingsError};
use reqwest::Url;
use serde::Deserialize;

use super::subscription::decode;
use crate::{Account, http::HttpSettings, jwt::Signer};

/// See `webpush.toml`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Settings {
    /// The VAPID key's public half, 65 bytes, base64url: what browsers subscribe with.
    pub(crate) public_key: String,
    /// Its private half, 32 bytes, base64url.
    #[serde(default)]
    pub(crate) private_key: SecretSource,
    /// Whom a push service may ask: a `mailto:` or `https:` address.
    pub(crate) subject: String,
    /// Push services beside the known ones.
    pub(crate) hosts: Vec<String>,
    /// A push service may have an address of a private network.
    pub(crate) allow_private_addresses: bool,
    /// Any endpoint is taken, over `http://` too: a lab.
    pub(crate) allow_insecure_endpoints: bool,
    #[serde(flatten)]
    pub(crate) http: HttpSettings,
}

impl Settings {
    /// The key pair: its public half, and what signs with it.
    pub(super) fn keys(&self, account: &Account<'_>) -> Result<(Vec<u8>, Signer), SettingsError> {
        let wrong = |key: &str, problem: &str| Err(account.invalid(key, problem));
        let Some(public) = decode(&self.public_key).filter(|key| key.len() == 65) else {
            return wrong("public_key", "must be 65 bytes in base64url: the VAPID key that browsers subscribe with");
        };
        let private = account.secret("private_key", &self.private_key)?;
        let Some(private) = decode(private.expose()).filter(|key| key.len() == 32) else {
            return wrong("private_key", "must be 32 bytes in base64url: the VAPID key's private half");
        };
        match Signer::es256_pair(&private, &public) {
            Ok(signer) => Ok((public, signer)),
            Err(error) => wrong("private_key", &format!("does not go with `public_key`: {error}")),
        }
    }

    /// The subject, where it is one ([RFC 8292, 2.1](https://www.rfc-editor.org/rfc/rfc8292#section-2.1)).
    pub(super) fn checked_subject(&self, account: &Account<'_>) -> Result<String, SettingsError> {
        let reaches_somebody = match Url::parse(&self.subject) {
            Ok(url) if url.scheme() == "mailto" => mailbox::normal(url.path()).is_ok() && is_public(url.path()),
            Ok(url) if url.scheme() == "https" => url.host_str().is_some_and(is_public),
            _ => false,
        };
        // Apple answers 403 (BadJwtToken) to an address that leads nowhere, for every browser of its own.
        match reaches_somebody {
            true => Ok(self.subject.clone()),
            false => Err(account.invalid(
                "subject",
                "must be a `mailto:` or `https:` address that a push service can reach, such as mailto:push@example.com",
            )),
        }
    }
}

/// Whether a host, or a mailbox there, may be reached from elsewhere.
fn is_public(address: &str) -> bool {
    let host = address.rsplit('@').next().unwrap_or_default().trim_end_matches('.');
    // Names for use at home (RFC 6761, RFC 6762, RFC 8375).
    let is_local = ["localhost", ".localhost", ".local", ".localdomain", ".internal", ".invalid", ".home.arpa"];
    host.contains('.') && !is_local.iter().any(|end| host.to_ascii_lowercase().ends_with(end))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        testing::{account, settings},
        webpush::VENDOR,
    };

    #[test]
    fn a_subject_reaches_somebody() {
        let checked = |subject: &str| {
            let own: Settings = settings(&VENDOR, &format!("public_key = ''\nsubject = '{subject}'"));
            own.checked_subject(&account(&VENDOR))
        };
        for good in ["mailto:push@example.com", "https://example.com/push", "mailto:Push@Shop.example.co"] {
            assert_eq!(checked(good).unwrap(), good);
        }
        for bad in [
            "mailto:x@localhost",
            "mailto:x",
            "mailto:",
            "mailto:x@mail.local",
            "mailto:Push <push@example.com>",
            "push@example.com",
            "https://localhost/",
            "https://localhost:8443",
            "http://example.com",
            "https:///",
            "",
        ] {
            let error = checked(bad).unwrap_err().to_string();
            assert!(error.contains("subject") && error.contains("mailto:push@example.com"), "{bad}: {error}");
        }
    }
}
