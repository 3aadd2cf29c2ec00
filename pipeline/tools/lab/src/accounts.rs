//! The accounts that the lab's vendors know: made up at every start, so that they open nothing elsewhere.
//!
//! One key is the same everywhere and in the repository: the RSA key of FCM's service account, because making one
//! takes a library (ring makes none) and seconds. That it is public is safe: Google knows no such account, it opens
//! nothing but a lab, and a lab listens on loopback only and forgets everything with its process.

use std::path::Path;

use base64::{Engine as _, prelude::BASE64_STANDARD, prelude::BASE64_URL_SAFE_NO_PAD};
use p256::elliptic_curve::sec1::ToEncodedPoint as _;
use ring::{
    rand::{SecureRandom as _, SystemRandom},
    signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _, RsaKeyPair},
};
use serde_json::json;

use crate::{StartError, exchange::hex};

/// A PEM file with a PKCS #8 key.
const RSA_PEM: &str = include_str!("../keys/loopback-rsa.pem");
/// What precedes the point in the DER of a P-256 public key (RFC 5480).
const SPKI_P256: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce,
    0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];

/// What a client must present, and what it must check callbacks with.
#[derive(Debug, Clone)]
pub struct Accounts {
    /// APNs: the developer account.
    pub apns_team_id: String,
    /// APNs: the id of the signing key.
    pub apns_key_id: String,
    /// APNs: the signing key, PKCS #8 as PEM, as Apple's `.p8` files.
    pub apns_key_pem: String,
    /// APNs: the app's bundle id.
    pub apns_topic: String,
    /// FCM: the project.
    pub fcm_project_id: String,
    /// FCM: the service account's address.
    pub fcm_client_email: String,
    /// FCM: its private key, PKCS #8 as PEM.
    pub fcm_key_pem: String,
    /// Web Push: the sender's private key: 32 bytes, base64url.
    pub vapid_private_key: String,
    /// Web Push: its public key: an uncompressed point, base64url.
    pub vapid_public_key: String,
    /// Twilio: the account.
    pub twilio_account_sid: String,
    /// Twilio: the password, which also signs callbacks.
    pub twilio_auth_token: String,
    /// Twilio: the number that messages come from: the one that always works with test credentials.
    pub twilio_from: String,
    /// Vonage: the user.
    pub vonage_api_key: String,
    /// Vonage: the password.
    pub vonage_api_secret: String,
    /// Vonage: the key of callbacks' `sig`, HMAC-SHA-256.
    pub vonage_signature_secret: String,
    /// Vonage: the name that messages come from.
    pub vonage_from: String,
    /// SendGrid: the API key.
    pub sendgrid_api_key: String,
    /// SendGrid: the key that event webhooks are verified with, as SendGrid shows it: DER, base64.
    pub sendgrid_webhook_public_key: String,
    /// Mailgun: the sending domain.
    pub mailgun_domain: String,
    /// Mailgun: the API key.
    pub mailgun_api_key: String,
    /// Mailgun: the key that webhooks are signed with.
    pub mailgun_signing_key: String,
    /// Slack: the secret path of the webhook.
    pub slack_path: String,
    /// Who mails come from.
    pub mail_from: String,
}

/// The vendors' side of the keys.
pub(crate) struct VendorKeys {
    pub(crate) apns_public: Vec<u8>,
    pub(crate) fcm_public: Vec<u8>,
    pub(crate) vapid_public: Vec<u8>,
    pub(crate) sendgrid: EcdsaKeyPair,
}

/// Makes up accounts.
pub(crate) fn make() -> Result<(Accounts, VendorKeys), StartError> {
    let random = SystemRandom::new();
    let secret = |bytes: usize| {
        let mut secret = vec![0; bytes];
        random.fill(&mut secret).map_err(|_| StartError::Key("no randomness"))?;
        Ok::<String, StartError>(hex(&secret))
    };
    let (apns_pem, apns_public) = p256_key(&random)?;
    let vapid = random_p256(&random)?;
    let vapid_public = vapid.public_key().to_encoded_point(false).as_bytes().to_vec();
    let sendgrid = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &random)
        .map_err(|_| StartError::Key("SendGrid's key"))?;
    let sendgrid = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, sendgrid.as_ref(), &random)
        .map_err(|_| StartError::Key("SendGrid's key"))?;
    let rsa_der = BASE64_STANDARD
        .decode(RSA_PEM.lines().filter(|line| !line.starts_with('-')).collect::<String>())
        .map_err(|_| StartError::Key("the RSA key"))?;
    let rsa = RsaKeyPair::from_pkcs8(&rsa_der).map_err(|_| StartError::Key("the RSA key"))?;
    let accounts = Accounts {
        apns_team_id: "LABTEAM001".to_owned(),
        apns_key_id: "LABKEY0001".to_owned(),
        apns_key_pem: apns_pem,
        apns_topic: "com.example.chasqui".to_owned(),
        fcm_project_id: "chasqui-lab".to_owned(),
        fcm_client_email: "sender@chasqui-lab.iam.gserviceaccount.com".to_owned(),
        fcm_key_pem: RSA_PEM.to_owned(),
        vapid_private_key: BASE64_URL_SAFE_NO_PAD.encode(vapid.to_bytes()),
        vapid_public_key: BASE64_URL_SAFE_NO_PAD.encode(&vapid_public),
        twilio_account_sid: format!("AC{}", secret(16)?),
        twilio_auth_token: secret(16)?,
        twilio_from: "+15005550006".to_owned(),
        vonage_api_key: secret(4)?,
        vonage_api_secret: secret(8)?,
        vonage_signature_secret: secret(25)?,
        vonage_from: "Chasqui".to_owned(),
        sendgrid_api_key: format!("SG.{}.{}", secret(11)?, secret(21)?),
        sendgrid_webhook_public_key: BASE64_STANDARD.encode([&SPKI_P256, sendgrid.public_key().as_ref()].concat()),
        mailgun_domain: "mail.example.com".to_owned(),
        mailgun_api_key: format!("key-{}", secret(16)?),
        mailgun_signing_key: secret(16)?,
        slack_path: format!("/services/T00000000/B00000000/{}", secret(12)?),
        mail_from: "no-reply@mail.example.com".to_owned(),
    };
    let keys = VendorKeys { apns_public, fcm_public: rsa.public().as_ref().to_vec(), vapid_public, sendgrid };
    Ok((accounts, keys))
}

/// A P-256 key as PKCS #8 PEM, and its public point.
fn p256_key(random: &SystemRandom) -> Result<(String, Vec<u8>), StartError> {
    let algorithm = &ring::signature::ECDSA_P256_SHA256_FIXED_SIGNING;
    let der = EcdsaKeyPair::generate_pkcs8(algorithm, random).map_err(|_| StartError::Key("APNs' key"))?;
    let key = EcdsaKeyPair::from_pkcs8(algorithm, der.as_ref(), random).map_err(|_| StartError::Key("APNs' key"))?;
    Ok((pem(der.as_ref()), key.public_key().as_ref().to_vec()))
}

/// A P-256 key that can be used more than once, as a browser's must be; ring's cannot.
pub(crate) fn random_p256(random: &SystemRandom) -> Result<p256::SecretKey, StartError> {
    let mut bytes = [0; 32];
    random.fill(&mut bytes).map_err(|_| StartError::Key("no randomness"))?;
    // Out of range once in 2^32 calls.
    p256::SecretKey::from_slice(&bytes).map_err(|_| StartError::Key("a P-256 key"))
}

fn pem(der: &[u8]) -> String {
    let text = BASE64_STANDARD.encode(der);
    let mut pem = String::from("-----BEGIN PRIVATE KEY-----\n");
    for line in text.as_bytes().chunks(64) {
        pem.push_str(&String::from_utf8_lossy(line));
        pem.push('\n');
    }
    pem + "-----END PRIVATE KEY-----\n"
}

impl Accounts {
    /// The service account's file, as Google's console gives it out. `token_uri` is where tokens are asked for.
    pub fn service_account(&self, token_uri: &str) -> String {
        let file = json!({
            "type": "service_account",
            "project_id": self.fcm_project_id,
            "private_key_id": "lab",
            "private_key": self.fcm_key_pem,
            "client_email": self.fcm_client_email,
            "client_id": "100000000000000000001",
            "auth_uri": "https://accounts.google.com/o/oauth2/auth",
            "token_uri": token_uri,
        });
        file.to_string()
    }

    /// Writes a credential to a file that only its owner may read.
    pub(crate) fn write(path: &Path, text: &str) -> std::io::Result<()> {
        use std::{io::Write as _, os::unix::fs::OpenOptionsExt as _};
        let mut file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
        file.write_all(text.as_bytes())
    }
}
