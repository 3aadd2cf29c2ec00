//! Vonage: delivery receipts of the SMS API, one each as a JSON object, a form, or the query of a GET, as the account is set
//! (`DeliveryReceipt` of its OpenAPI document; <https://developer.vonage.com/en/dashboard/control/api-settings>).
//!
//! Signed, where the account has signed webhooks: `sig` is hexadecimal HMAC over `&name=value` of all other parameters,
//! sorted by name, `&` and `=` in values replaced by `_`
//! (<https://developer.vonage.com/en/getting-started/concepts/signing-messages>). An account with the vendor's
//! default, a bare MD5, has to be set to HMAC. Otherwise a secret in the callback's
//! address, `?secret=…`, which is as good as TLS and the logs of proxies are.
//!
//! `client-ref` is `<notification>.<delivery>`, both without hyphens.

use std::collections::BTreeMap;

use chasqui_contract::{Callback, Callbacks, Refusal, Reported, SignedRequest};
use chasqui_schemas::{ReceiptKind, hex};
use chasqui_settings::SettingsError;
use ring::digest;
use serde_json::Value;

use super::{Settings, signature::Signing};
use crate::{
    Account,
    reported::{ids, json, switch_off},
};

/// The number is gone, or barred for good: absent subscriber (permanent), call barred by user.
const DEAD_NUMBER: [&str; 2] = ["3", "4"];
/// The recipient has opted out.
const OPTED_OUT: &str = "9";

/// The account's callbacks, where its settings say how they are believed.
pub(super) fn open(account: &Account<'_>, _: &str) -> Result<Option<Box<dyn Callbacks>>, SettingsError> {
    let settings: Settings = account.settings()?;
    let signature = settings.signature_secret.read(&account.key("signature_secret"))?;
    let address = settings.address_secret.read(&account.key("address_secret"))?;
    let verifier = match (signature, address) {
        (Some(secret), _) => Verifier::Signature(Signing::new(settings.signature_method, &secret)),
        (None, Some(secret)) => Verifier::Address(hash(secret.expose())),
        (None, None) => return Ok(None),
    };
    Ok(Some(Box::new(verifier)))
}

impl Callbacks for Verifier {
    fn read(&self, request: &SignedRequest<'_>) -> Result<Callback, Refusal> {
        self.verify(request)?;
        parse(request).map(Callback::from)
    }
}

/// The SHA-256 of the secret in the address: compared instead of it, so that the time that a comparison takes tells
/// nothing of it.
type Hash = [u8; digest::SHA256_OUTPUT_LEN];

fn hash(text: &str) -> Hash {
    let mut hash = Hash::default();
    hash.copy_from_slice(digest::digest(&digest::SHA256, text.as_bytes()).as_ref());
    hash
}

#[derive(Debug)]
enum Verifier {
    /// By `sig`.
    Signature(Signing),
    /// By `?secret=`.
    Address(Hash),
}

impl Verifier {
    fn verify(&self, request: &SignedRequest<'_>) -> Result<(), Refusal> {
        let is_genuine = match self {
            Verifier::Address(known) => form_urlencoded::parse(request.query().as_bytes())
                .any(|(name, value)| name == "secret" && hash(&value) == *known),
            Verifier::Signature(signing) => {
                let mut parameters = parameters(request)?;
                let signature = parameters.remove("sig").and_then(|text| hex::decode(&text)).ok_or(Refusal::Forged)?;
                signing.verifies(&parameters.into_iter().collect(), &signature)
            }
        };
        if is_genuine { Ok(()) } else { Err(Refusal::Forged) }
    }
}

/// The parameters, whichever of the three ways they are sent: as JSON, as a form, or in the address of a GET.
fn parameters(request: &SignedRequest<'_>) -> Result<BTreeMap<String, String>, Refusal> {
    let body = match request.body.trim_ascii_start() {
        b"" => request.query().as_bytes(),
        body => body,
    };
    if body.first() != Some(&b'{') {
        return Ok(form_urlencoded::parse(body).into_owned().collect());
    }
    let object: BTreeMap<String, Value> = json(body).ok_or(Refusal::Unreadable)?;
    let text = |value| match value {
        Value::String(text) => text,
        other => other.to_string(),
    };
    Ok(object.into_iter().map(|(name, value)| (name, text(value))).collect())
}

fn parse(request: &SignedRequest<'_>) -> Result<Vec<Reported>, Refusal> {
    let parameters = parameters(request)?;
    let get = |name: &str| parameters.get(name).map(String::as_str);
    let status = get("status").ok_or(Refusal::Unreadable)?;
    let code = get("err-code").unwrap_or_default();
    let kind = match status {
        "delivered" => ReceiptKind::Delivered,
        "expired" | "failed" | "rejected" if DEAD_NUMBER.contains(&code) => ReceiptKind::Bounced,
        "expired" | "failed" | "rejected" => ReceiptKind::Failed,
        // accepted, buffered, unknown, and what is to come.
        _ => return Ok(Vec::new()),
    };
    let (notification, delivery) = get("client-ref").and_then(|text| text.split_once('.')).unzip();
    // E.164 without its plus.
    let number = get("msisdn").map(|number| format!("+{}", number.trim_start_matches('+'))).unwrap_or_default();
    let address = match kind {
        ReceiptKind::Bounced => switch_off(&number, "bounce"),
        ReceiptKind::Failed if code == OPTED_OUT => switch_off(&number, "unsubscribe"),
        _ => None,
    };
    let failed = matches!(kind, ReceiptKind::Failed | ReceiptKind::Bounced);
    let detail = failed.then(|| if matches!(code, "" | "0") { status.to_owned() } else { code.to_owned() });
    let at = get("message-timestamp").and_then(|at| at.parse().ok());
    Ok(vec![Reported { detail, address, ..Reported::new(kind, ids(notification, delivery), at) }])
}

#[cfg(test)]
mod tests {
    use chasqui_contract::AddressFact;
    use chasqui_settings::Secret;
    use jiff::Timestamp;
    use serde_json::json;
    use uuid::Uuid;

    use super::*;
    use crate::vonage::signature::Method;

    fn with<T>(url: &str, body: &str, check: impl FnOnce(&SignedRequest<'_>) -> T) -> T {
        check(&SignedRequest { url, headers: &[], body: body.as_bytes(), now: Timestamp::UNIX_EPOCH })
    }

    // Made with Python's hmac, from the documented rule, not from this code.
    const SECRET: &str = "my-signature-secret";
    const SIGNED: &str = r#"{"msisdn":"447700900000","to":"A=c&me","network-code":"23410","messageId":"0A0000001234567B","price":"0.03330000","status":"delivered","scts":"2001011400","err-code":"0","api-key":"abcd1234","message-timestamp":"2025-10-15T13:51:56.361Z","timestamp":"1582650446","nonce":"ec11dd3e-1e7f-4db5-9467-82b02cd223b9","sig":"@SIG"}"#;

    fn signed(secret: &str, method: Method) -> Verifier {
        Verifier::Signature(Signing::new(method, &Secret::from(secret)))
    }

    #[test]
    fn a_signature_over_the_sorted_parameters_is_believed_in_either_form() {
        let verifier = signed(SECRET, Method::Sha256);
        let verify = |body: &str| with("", body, |request| verifier.verify(request));
        let sig = "C6477D8E0C8CE672B659DB2D960576331BC039413D3D13782407403C96B70B84";
        let json = SIGNED.replace("@SIG", sig);
        assert_eq!(verify(&json), Ok(()));
        assert_eq!(verify(&SIGNED.replace("@SIG", &sig.to_lowercase())), Ok(()));
        let pairs = with("", &json, parameters).unwrap();
        let form = form_urlencoded::Serializer::new(String::new()).extend_pairs(pairs).finish();
        assert_eq!(verify(&form), Ok(()));
        let get = |url: &str| with(url, "", |request| verifier.read(request).map(|callback| callback.events.len()));
        assert_eq!(get(&format!("https://x/v1/callbacks/vonage?{form}")), Ok(1));
        assert_eq!(get(&format!("https://x/v1/callbacks/vonage?{form}&more=1")), Err(Refusal::Forged));
        assert_eq!(verify("{"), Err(Refusal::Unreadable), "nobody can say whose it is");
        for changed in [
            json.replace("delivered", "failed"),
            json.replace("0.03330000", "0"),
            json.replace("\"nonce\"", "\"once\""),
            json.replace(&sig[..2], "00"),
            SIGNED.replace("@SIG", ""),
            "{}".to_owned(),
            String::new(),
        ] {
            assert_eq!(verify(&changed), Err(Refusal::Forged), "{changed}");
        }
        let other = signed("another", Method::Sha256);
        assert_eq!(with("", &json, |request| other.verify(request)), Err(Refusal::Forged));
        let wide = signed(SECRET, Method::Sha512);
        let json = SIGNED.replace("@SIG", "4AB965C11CA33BEE8C7126244E4E4B3173CC3CCD48800E84507846C1EEBC4EBF28383B55D6D6C530F78A345B5856E02735267297E20DD9FCB0F35B87CA9FC317");
        assert_eq!(with("", &json, |request| wide.verify(request)), Ok(()));
    }

    #[test]
    fn a_secret_in_the_address_is_believed() {
        let verifier = Verifier::Address(hash("s3cret&"));
        let verify = |url: &str| with(url, "{}", |request| verifier.verify(request));
        assert_eq!(verify("https://x/v1/callbacks/vonage?a=b&secret=s3cret%26"), Ok(()));
        for url in [
            "https://x/v1/callbacks/vonage",
            "https://x?secret=",
            "https://x?secret=s3cret",
            "https://x?other=s3cret%26",
        ] {
            assert_eq!(verify(url), Err(Refusal::Forged), "{url}");
        }
    }

    #[test]
    fn statuses_and_codes_mean_what_the_vendor_says() {
        let (notification, delivery) = (Uuid::now_v7(), Uuid::from_u128(9));
        let reference = format!("{}.{}", notification.simple(), delivery.simple());
        let off = |reason: &'static str| Some(AddressFact { address: "+447700900000".into(), reason });
        for (status, code, kind, detail, address) in [
            ("delivered", "0", ReceiptKind::Delivered, None, None),
            ("failed", "1", ReceiptKind::Failed, Some("1"), None),
            ("failed", "3", ReceiptKind::Bounced, Some("3"), off("bounce")),
            ("rejected", "4", ReceiptKind::Bounced, Some("4"), off("bounce")),
            ("rejected", "9", ReceiptKind::Failed, Some("9"), off("unsubscribe")),
            ("expired", "0", ReceiptKind::Failed, Some("expired"), None),
        ] {
            let body = json!({
                "status": status, "err-code": code, "client-ref": reference, "msisdn": "447700900000",
                "message-timestamp": "2025-10-15T13:51:56.361Z",
            });
            let events = with("", &body.to_string(), parse).unwrap();
            assert_eq!(
                (events.len(), events[0].kind, events[0].detail.as_deref()),
                (1, kind, detail),
                "{status} {code}"
            );
            assert_eq!((events[0].ids, &events[0].address), (Some((notification, delivery)), &address), "{status}");
            assert_eq!(events[0].at, Some("2025-10-15T13:51:56.361Z".parse().unwrap()));
        }
        for status in ["accepted", "buffered", "unknown", "new one"] {
            let body = json!({ "status": status }).to_string();
            assert_eq!(with("", &body, parse), Ok(Vec::new()), "{status}");
        }
        let foreign = with("", r#"{"status":"delivered","client-ref":"my-personal-reference"}"#, parse).unwrap();
        assert_eq!(foreign[0].ids, None);
        assert_eq!(with("", "{}", parse), Err(Refusal::Unreadable));
        assert_eq!(with("", "{", parse), Err(Refusal::Unreadable));
    }
}
