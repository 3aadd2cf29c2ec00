//! Twilio: message status callbacks, one form each.
//!
//! Signature: base64 of HMAC-SHA1 over the address that was called followed by every parameter's name and value, sorted,
//! with the account's auth token (<https://www.twilio.com/docs/usage/security#validating-requests>). Where an account
//! signs with a shared key, a header says so, and which hash is under the HMAC
//! (<https://www.twilio.com/docs/usage/webhooks/webhook-shared-keys>). The signature has no time in it: a callback that
//! somebody has recorded can be played again, and is then a repeat.
//!
//! `notification_id` and `delivery_id` are parameters of the callback's own address, which the signature covers.
//! Statuses: <https://www.twilio.com/docs/messaging/api/message-resource#message-status-values>.

use std::{borrow::Cow, collections::BTreeSet};

use base64::{Engine, engine::general_purpose::STANDARD};
use chasqui_contract::{Callback, Callbacks, Refusal, Reported, SignedRequest};
use chasqui_schemas::{ReceiptKind, receipt::Actor};
use chasqui_settings::{Secret, SettingsError};
use ring::hmac;

use super::{Settings, codes};
use crate::{
    Account,
    reported::{ids, switch_off},
};

const SIGNATURE: &str = "x-twilio-signature";
/// `key=<id>,algorithm=<HMAC_SHA1 or HMAC_SHA256>`, where a shared key signs.
const SIGNED_BY: &str = "x-twilio-webhooks-signature-settings";

/// The account's callbacks, where Twilio is asked for some.
pub(super) fn open(account: &Account<'_>, public_url: &str) -> Result<Option<Box<dyn Callbacks>>, SettingsError> {
    let settings = account.settings::<Settings>()?.reporting_to(account, public_url);
    if settings.callback_url.is_none() {
        return Ok(None);
    }
    let token = settings.auth_token.read(&account.key("auth_token"))?;
    let shared = settings.webhook_shared_key.read(&account.key("webhook_shared_key"))?;
    if token.is_none() && shared.is_none() {
        return Ok(None);
    }
    if public_url.is_empty() {
        let problem = "Twilio signs the address it calls: it must be known";
        return Err(SettingsError::invalid("gateway.public_url", problem));
    }
    Ok(Some(Box::new(Verifier { token, shared })))
}

impl Callbacks for Verifier {
    fn read(&self, request: &SignedRequest<'_>) -> Result<Callback, Refusal> {
        self.verify(request)?;
        parse(request).map(Callback::from)
    }
}

#[derive(Debug)]
struct Verifier {
    token: Option<Secret>,
    shared: Option<Secret>,
}

impl Verifier {
    /// What the request is signed with, as it says itself; `None` where we do not have that.
    fn key(&self, request: &SignedRequest<'_>) -> Option<hmac::Key> {
        let (secret, algorithm) = match request.header(SIGNED_BY) {
            None => (&self.token, hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY),
            Some(settings) => {
                let algorithm = settings.split(',').find_map(|setting| setting.trim().strip_prefix("algorithm="));
                let algorithm = match algorithm? {
                    "HMAC_SHA256" => hmac::HMAC_SHA256,
                    "HMAC_SHA1" => hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY,
                    _ => return None,
                };
                (&self.shared, algorithm)
            }
        };
        Some(hmac::Key::new(algorithm, secret.as_ref()?.expose().as_bytes()))
    }

    fn verify(&self, request: &SignedRequest<'_>) -> Result<(), Refusal> {
        let signature = request.header(SIGNATURE).and_then(|text| STANDARD.decode(text).ok()).ok_or(Refusal::Forged)?;
        // A set: a parameter that is there twice with the same value is signed once.
        let parameters: BTreeSet<(Cow<'_, str>, Cow<'_, str>)> = form_urlencoded::parse(request.body).collect();
        let parameters: String = parameters.iter().flat_map(|(name, value)| [&**name, &**value]).collect();
        let key = self.key(request).ok_or(Refusal::Forged)?;
        let is_over = |url: &str| hmac::verify(&key, format!("{url}{parameters}").as_bytes(), &signature).is_ok();
        let urls = [Some(request.url.to_owned()), other_port(request.url)];
        if urls.into_iter().flatten().any(|url| is_over(&url)) { Ok(()) } else { Err(Refusal::Forged) }
    }
}

/// The address with the port that its scheme implies, or without it where it has it: Twilio signs either.
fn other_port(url: &str) -> Option<String> {
    let (scheme, rest) = url.split_once("://")?;
    let port = match scheme {
        "https" => ":443",
        "http" => ":80",
        _ => return None,
    };
    let (host, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    match host.strip_suffix(port) {
        Some(host) => Some(format!("{scheme}://{host}{path}")),
        // Not after another port; the colons of an IPv6 address are in brackets.
        None if host.rsplit(']').next()?.contains(':') => None,
        None => Some(format!("{scheme}://{host}{port}{path}")),
    }
}

fn parse(request: &SignedRequest<'_>) -> Result<Vec<Reported>, Refusal> {
    let find = |text: &[u8], name: &str| {
        form_urlencoded::parse(text).find(|(each, _)| each == name).map(|(_, value)| value.into_owned())
    };
    let of_body = |name| find(request.body, name).filter(|value| !value.is_empty());
    let of_address = |name| find(request.query().as_bytes(), name);
    let status = of_body("MessageStatus").or_else(|| of_body("SmsStatus")).ok_or(Refusal::Unreadable)?;
    let code = of_body("ErrorCode");
    let number = code.as_deref().and_then(|code| code.parse().ok());
    let is_dead = number.is_some_and(codes::is_dead_number);
    let kind = match status.as_str() {
        "delivered" => ReceiptKind::Delivered,
        "undelivered" | "failed" if is_dead => ReceiptKind::Bounced,
        "undelivered" | "failed" | "canceled" => ReceiptKind::Failed,
        // WhatsApp and RCS only: the recipient has looked at it.
        "read" => ReceiptKind::Opened,
        // queued, sending, sent, accepted, scheduled, and what is to come.
        _ => return Ok(Vec::new()),
    };
    let ids = ids(of_address("notification_id").as_deref(), of_address("delivery_id").as_deref());
    let to = of_body("To").unwrap_or_default();
    let address = match number {
        _ if kind == ReceiptKind::Bounced => switch_off(&to, "bounce"),
        Some(codes::OPTED_OUT) => switch_off(&to, "unsubscribe"),
        _ => None,
    };
    let by = if kind == ReceiptKind::Opened { Actor::Human } else { Actor::Unknown };
    let failed = matches!(kind, ReceiptKind::Failed | ReceiptKind::Bounced);
    let detail = code.or(Some(status)).filter(|_| failed);
    Ok(vec![Reported { detail, by, address, ..Reported::new(kind, ids, None) }])
}

#[cfg(test)]
mod tests {
    use chasqui_contract::AddressFact;
    use jiff::Timestamp;
    use uuid::Uuid;

    use super::*;

    fn verify(url: &str, body: &str, signature: &str) -> Result<(), Refusal> {
        let headers = [(SIGNATURE, signature)];
        let request = SignedRequest { url, headers: &headers, body: body.as_bytes(), now: Timestamp::UNIX_EPOCH };
        verifier().verify(&request)
    }

    fn verifier() -> Verifier {
        Verifier { token: Some(Secret::from("12345")), shared: Some(Secret::from("shared")) }
    }

    #[test]
    fn the_vendors_examples_are_believed_and_nothing_near_them() {
        // Of Twilio's documentation and of the tests of its libraries.
        let url = "https://mycompany.com/myapp.php?foo=1&bar=2";
        let body = "CallSid=CA1234567890ABCDE&Digits=1234&From=%2B14158675309&To=%2B18005551212&Caller=%2B14158675309";
        let signature = "RSOYDt4T1cUTdK1PDd93/VVr8B8=";
        assert_eq!(verify(url, body, signature), Ok(()));
        let repeated = "Sid=CA123&SidAccount=AC123&Digits=5678&Digits=1234&Digits=1234";
        assert_eq!(verify(url, repeated, "IK+Dwps556ElfBT0I3Rgjkr1wJU="), Ok(()));
        for (url, body, signature) in [
            ("https://mycompany.com/myapp.php?foo=1&bar=3", body, signature),
            (url, &body.replace("1234&", "1235&"), signature),
            (url, &format!("{body}&More=1"), signature),
            (url, body, "RSOYDt4T1cUTdK1PDd93/VVr8B9="),
            (url, body, "not base64"),
            (url, body, ""),
        ] {
            assert_eq!(verify(url, body, signature), Err(Refusal::Forged), "{url} {body} {signature}");
        }
    }

    #[test]
    fn a_shared_key_is_believed_where_the_request_says_that_it_signed() {
        let (url, body) = ("https://x/v1/callbacks/twilio", "MessageStatus=delivered");
        let sign = |algorithm, key: &[u8]| {
            let signed = format!("{url}MessageStatusdelivered");
            STANDARD.encode(hmac::sign(&hmac::Key::new(algorithm, key), signed.as_bytes()))
        };
        let (sha1, sha256) = (hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, hmac::HMAC_SHA256);
        for (settings, signature, believed) in [
            (Some("key=WK1,algorithm=HMAC_SHA256"), sign(sha256, b"shared"), true),
            (Some("key=WK1,algorithm=HMAC_SHA1"), sign(sha1, b"shared"), true),
            (Some("key=WK1,algorithm=HMAC_SHA256"), sign(sha1, b"shared"), false),
            (Some("key=WK1,algorithm=HMAC_SHA256"), sign(sha256, b"12345"), false),
            (Some("key=WK1,algorithm=NONE"), sign(sha256, b"shared"), false),
            (Some(""), sign(sha1, b"12345"), false),
            (None, sign(sha1, b"12345"), true),
            (None, sign(sha256, b"shared"), false),
        ] {
            let headers: Vec<_> =
                [(SIGNATURE, signature.as_str())].into_iter().chain(settings.map(|text| (SIGNED_BY, text))).collect();
            let request = SignedRequest { url, headers: &headers, body: body.as_bytes(), now: Timestamp::UNIX_EPOCH };
            assert_eq!(verifier().verify(&request).is_ok(), believed, "{settings:?}");
            assert!(Verifier { token: None, shared: None }.verify(&request).is_err());
        }
    }

    #[test]
    fn the_port_that_goes_without_saying_may_be_signed_or_not() {
        let sign = |url: &str| {
            let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, b"12345");
            STANDARD.encode(hmac::sign(&key, format!("{url}MessageStatusdelivered").as_bytes()))
        };
        let (bare, with, other) =
            ("https://n.example.com/a?b=c", "https://n.example.com:443/a?b=c", "https://n.example.com:80/a?b=c");
        for (called, signed, expected) in [
            (bare, bare, Ok(())),
            (bare, with, Ok(())),
            (with, bare, Ok(())),
            (with, with, Ok(())),
            (bare, other, Err(Refusal::Forged)),
            (other, bare, Err(Refusal::Forged)),
        ] {
            assert_eq!(verify(called, "MessageStatus=delivered", &sign(signed)), expected, "{called} {signed}");
        }
        assert_eq!(other_port("http://[::1]/a").as_deref(), Some("http://[::1]:80/a"));
        assert_eq!((other_port("http://[::1]:8080/a"), other_port("nonsense")), (None, None));
    }

    #[test]
    fn statuses_mean_what_the_vendor_says() {
        let (notification, delivery) = (Uuid::now_v7(), Uuid::from_u128(9));
        let url = format!("https://x/v1/callbacks/twilio?notification_id={notification}&delivery_id={delivery}");
        let parse = |body: &str| {
            parse(&SignedRequest { url: &url, headers: &[], body: body.as_bytes(), now: Timestamp::UNIX_EPOCH })
        };
        let off = |reason: &'static str| Some(AddressFact { address: "+15551234567".into(), reason });
        for (body, kind, detail, address) in [
            ("MessageStatus=delivered", ReceiptKind::Delivered, None, None),
            ("SmsStatus=delivered", ReceiptKind::Delivered, None, None),
            ("MessageStatus=undelivered&ErrorCode=30003", ReceiptKind::Failed, Some("30003"), None),
            ("MessageStatus=undelivered&ErrorCode=30005", ReceiptKind::Bounced, Some("30005"), off("bounce")),
            ("MessageStatus=failed&ErrorCode=21614", ReceiptKind::Bounced, Some("21614"), off("bounce")),
            ("MessageStatus=failed&ErrorCode=21610", ReceiptKind::Failed, Some("21610"), off("unsubscribe")),
            ("MessageStatus=failed", ReceiptKind::Failed, Some("failed"), None),
            ("MessageStatus=canceled", ReceiptKind::Failed, Some("canceled"), None),
            ("MessageStatus=read", ReceiptKind::Opened, None, None),
        ] {
            let events = parse(&format!("{body}&To=%2B15551234567&MessageSid=SM1")).unwrap();
            assert_eq!((events.len(), events[0].kind), (1, kind), "{body}");
            assert_eq!(events[0].ids, Some((notification, delivery)), "{body}");
            assert_eq!((events[0].detail.as_deref(), &events[0].address), (detail, &address), "{body}");
        }
        for status in ["queued", "sending", "sent", "accepted", "scheduled", "partially_delivered", "new one"] {
            assert_eq!(parse(&format!("MessageStatus={status}")), Ok(Vec::new()), "{status}");
        }
        assert_eq!(parse("nonsense"), Err(Refusal::Unreadable));
    }
}
