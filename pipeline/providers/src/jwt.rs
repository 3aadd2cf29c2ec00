//! JSON Web Tokens as the push vendors want them: [RFC 7519](https://www.rfc-editor.org/rfc/rfc7519), signed as
//! ES256 or RS256 ([RFC 7518, 3.3 and 3.4](https://www.rfc-editor.org/rfc/rfc7518#section-3.3)).
//!
//! Guarantee: no error shows any of a key.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use chasqui_contract::{Answer, Outcome};
use ring::{
    error::{KeyRejected, Unspecified},
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, RSA_PKCS1_SHA256, RsaKeyPair},
};
use rustls::pki_types::{PrivatePkcs8KeyDer, pem::PemObject};
use serde::Serialize;

/// A private key, and what it signs as.
pub(crate) enum Signer {
    /// ECDSA on P-256 with SHA-256; the signature is r and s, 32 bytes each, not DER.
    Es256(EcdsaKeyPair),
    /// RSA PKCS #1 v1.5 with SHA-256.
    Rs256(RsaKeyPair),
}

/// A key cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KeyError {
    /// There is none.
    #[error("there is no PKCS #8 key in it, as PEM (`-----BEGIN PRIVATE KEY-----`)")]
    NoPem,
    /// It is of another kind, broken, or too weak.
    #[error("the key is not usable: {0}")]
    Rejected(KeyRejected),
}

/// A token could not be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SignError {
    /// The system gave no random numbers.
    #[error("the system gave no random numbers to sign with")]
    Random,
    /// The claims are no JSON.
    #[error("the claims cannot be written as JSON")]
    Claims(#[from] serde_json::Error),
}

impl From<Unspecified> for SignError {
    fn from(_: Unspecified) -> Self {
        SignError::Random
    }
}

impl From<SignError> for Answer {
    fn from(error: SignError) -> Self {
        Answer::new(Outcome::TryLater { after: None }, "sign", error.to_string())
    }
}

#[derive(Serialize)]
struct Header<'a> {
    typ: &'static str,
    alg: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    kid: Option<&'a str>,
}

impl Signer {
    /// An elliptic-curve key: a file of Apple's (`AuthKey_….p8`).
    pub(crate) fn es256_pem(pem: &str) -> Result<Self, KeyError> {
        let key = EcdsaKeyPair::from_pkcs8(
            &ECDSA_P256_SHA256_FIXED_SIGNING,
            pkcs8(pem)?.secret_pkcs8_der(),
            &SystemRandom::new(),
        );
        key.map(Signer::Es256).map_err(KeyError::Rejected)
    }

    /// An elliptic-curve key as its two numbers: private, 32 bytes; public, 65 bytes, uncompressed. They must belong
    /// together.
    pub(crate) fn es256_pair(private: &[u8], public: &[u8]) -> Result<Self, KeyError> {
        let algorithm = &ECDSA_P256_SHA256_FIXED_SIGNING;
        let key = EcdsaKeyPair::from_private_key_and_public_key(algorithm, private, public, &SystemRandom::new());
        key.map(Signer::Es256).map_err(KeyError::Rejected)
    }

    /// An RSA key, of 2,048 bits at least: Google's service accounts.
    pub(crate) fn rs256_pem(pem: &str) -> Result<Self, KeyError> {
        let key = RsaKeyPair::from_pkcs8(pkcs8(pem)?.secret_pkcs8_der());
        key.map(Signer::Rs256).map_err(KeyError::Rejected)
    }

    /// A signed token; `kid` names the key where the vendor wants to know.
    pub(crate) fn sign(&self, kid: Option<&str>, claims: &impl Serialize) -> Result<String, SignError> {
        let random = SystemRandom::new();
        let alg = match self {
            Signer::Es256(_) => "ES256",
            Signer::Rs256(_) => "RS256",
        };
        let message = format!("{}.{}", part(&Header { typ: "JWT", alg, kid })?, part(claims)?);
        let signature = match self {
            Signer::Es256(key) => key.sign(&random, message.as_bytes())?.as_ref().to_vec(),
            Signer::Rs256(key) => {
                let mut signature = vec![0; key.public().modulus_len()];
                key.sign(&RSA_PKCS1_SHA256, &random, message.as_bytes(), &mut signature)?;
                signature
            }
        };
        Ok(format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }
}

fn part(json: &impl Serialize) -> Result<String, SignError> {
    Ok(URL_SAFE_NO_PAD.encode(serde_json::to_vec(json)?))
}

fn pkcs8(pem: &str) -> Result<PrivatePkcs8KeyDer<'static>, KeyError> {
    PrivatePkcs8KeyDer::from_pem_slice(pem.as_bytes()).map_err(|_| KeyError::NoPem)
}

#[cfg(test)]
mod tests {
    use ring::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};
    use serde_json::{Value, json};

    use super::*;

    fn decode(part: &str) -> Vec<u8> {
        URL_SAFE_NO_PAD.decode(part).unwrap()
    }

    #[test]
    fn a_token_is_header_claims_and_a_signature_that_holds() {
        let key = rcgen::KeyPair::generate().unwrap();
        let signer = Signer::es256_pem(&key.serialize_pem()).unwrap();
        let token = signer.sign(Some("KEY1"), &json!({ "iss": "TEAM1", "iat": 7 })).unwrap();
        let (message, signature) = token.rsplit_once('.').unwrap();
        let (header, claims) = message.split_once('.').unwrap();
        let json = |part| serde_json::from_slice::<Value>(&decode(part)).unwrap();
        assert_eq!(json(header), json!({ "typ": "JWT", "alg": "ES256", "kid": "KEY1" }));
        assert_eq!(json(claims), json!({ "iss": "TEAM1", "iat": 7 }));
        assert_eq!(decode(signature).len(), 64, "r and s, not DER");
        let public = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, key.public_key_raw());
        public.verify(message.as_bytes(), &decode(signature)).unwrap();
        assert!(public.verify(b"another message", &decode(signature)).is_err());
    }

    #[test]
    fn what_is_no_key_is_refused_without_being_shown() {
        let pem = rcgen::KeyPair::generate().unwrap().serialize_pem();
        for text in ["", "hunter2", "-----BEGIN PRIVATE KEY-----\naHVudGVyMg==\n-----END PRIVATE KEY-----"] {
            for result in [Signer::es256_pem(text), Signer::rs256_pem(text)] {
                let error = result.err().unwrap();
                assert!(!format!("{error} {error:?}").contains("unter"), "{error:?}");
            }
        }
        assert!(matches!(Signer::rs256_pem(&pem), Err(KeyError::Rejected(_))), "a key of another kind");
        assert!(matches!(Signer::es256_pair(&[1; 32], &[4; 65]), Err(KeyError::Rejected(_))));
    }
}
