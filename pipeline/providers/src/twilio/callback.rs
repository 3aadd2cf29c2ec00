//! Twilio: message status callbacks, one form each.
//!
//! Signature: base64 of HMAC-SHA1 over the address that was called followed by every parameter's name and value, sorted,
//! with the account's auth token (<https://www.twilio.com/docs/usage/security#validating-requests>). It has no time in
//! it: a callback that somebody has recorded can be played again, and is then a repeat.
//!
//! `notification_id` and `delivery_id` are parameters of the callback's own address, which the signature covers.
//! Statuses: <https://www.twilio.com/docs/messaging/api/message-resource#message-status-values>.

use std::{borrow::Cow, collections::BTreeSet};

use base64::{Engine, engine::general_purpose::STANDARD};
use chasqui_contract::{Callbacks, Refusal, Reported, SignedRequest};
use chasqui_schemas::{ReceiptKind, receipt::Actor};
use chasqui_settings::SettingsError;
use ring::hmac;

use super::{Settings, codes};
use crate::{
    Account,
    reported::{ids, switch_off},
};

const SIGNATURE: &str = "x-twilio-signature";

/// The account's callbacks, where Twilio is asked for some.
pub(super) fn open(account: &Account<'_>, public_url: &str) -> Result<Option<Box<dyn Callbacks>>, SettingsError> {
    let settings: Settings = account.settings()?;
    if settings.callback_url.is_none() {
        return Ok(None);
    }
    let Some(token) = settings.auth_token.read(&account.key("auth_token"))? else { return Ok(None) };
    if public_url.is_empty() {
        let problem = "Twilio signs the address it calls: it must be known";
        return Err(SettingsError::invalid("gateway.public_url", problem));
    }
    Ok(Some(Box::new(Verifier::new(token.expose()))))
}

impl Callbacks for Verifier {
    fn read(&self, request: &SignedRequest<'_>) -> Result<Vec<Reported>, Refusal> {
        self.verify(request)?;
        parse(request)
    }
}

#[derive(Debug)]
struct Verifier(hmac::Key);

impl Verifier {
    fn new(token: &str) -> Self {
        Verifier(hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, token.as_bytes()))
    }

    fn verify(&self, request: &SignedRequest<'_>) -> Result<(), Refusal> {
        let signature = request.header(SIGNATURE).and_then(|text| STANDARD.decode(text).ok()).ok_or(Refusal::Forged)?;
        // A set: a parameter that is there twice with the same value is signed once.
        let parameters: BTreeSet<(Cow<'_, str>, Cow<'_, str>)> = form_urlencoded::parse(request.body).collect();
        let mut signed = request.url.to_owned();
        for (name, value) in parameters {
            signed.push_str(&name);
            signed.push_str(&value);
        }
        hmac::verify(&self.0, signed.as_bytes(), &signature).map_err(|_| Refusal::Forged)
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
    let opt_out = match number {
        _ if kind == ReceiptKind::Bounced => switch_off(&to, "bounce"),
        Some(codes::OPTED_OUT) => switch_off(&to, "unsubscribe"),
        _ => None,
    };
    let by = if kind == ReceiptKind::Opened { Actor::Human } else { Actor::Unknown };
    let failed = matches!(kind, ReceiptKind::Failed | ReceiptKind::Bounced);
    let detail = code.or(Some(status)).filter(|_| failed);
    Ok(vec![Reported { detail, by, opt_out, ..Reported::new(kind, ids, None) }])
}

#[cfg(test)]
mod tests {
    use chasqui_schemas::{OptOut, bucket::address_key};
    use jiff::Timestamp;
    use uuid::Uuid;

    use super::*;

    fn verify(url: &str, body: &str, signature: &str) -> Result<(), Refusal> {
        let headers = [(SIGNATURE, signature)];
        let request = SignedRequest { url, headers: &headers, body: body.as_bytes(), now: Timestamp::UNIX_EPOCH };
        Verifier::new("12345").verify(&request)
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
    fn statuses_mean_what_the_vendor_says() {
        let (notification, delivery) = (Uuid::now_v7(), Uuid::from_u128(9));
        let url = format!("https://x/v1/callbacks/twilio?notification_id={notification}&delivery_id={delivery}");
        let parse = |body: &str| {
            parse(&SignedRequest { url: &url, headers: &[], body: body.as_bytes(), now: Timestamp::UNIX_EPOCH })
        };
        let off = |reason: &str| Some(OptOut::Address { key: address_key("+15551234567"), reason: reason.into() });
        for (body, kind, detail, opt_out) in [
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
            assert_eq!((events[0].detail.as_deref(), &events[0].opt_out), (detail, &opt_out), "{body}");
        }
        for status in ["queued", "sending", "sent", "accepted", "scheduled", "partially_delivered", "new one"] {
            assert_eq!(parse(&format!("MessageStatus={status}")), Ok(Vec::new()), "{status}");
        }
        assert_eq!(parse("nonsense"), Err(Refusal::Unreadable));
    }
}
