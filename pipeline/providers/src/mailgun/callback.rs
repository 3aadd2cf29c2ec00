//! Mailgun: webhooks, one JSON object each: `signature` and `event-data`.
//!
//! Signature: hexadecimal HMAC-SHA256 over timestamp and token with the webhook signing key
//! (<https://documentation.mailgun.com/docs/mailgun/user-manual/webhooks/securing-webhooks>). It does not cover the event, so
//! a signature that somebody has seen could carry any event: therefore its age is bounded, its token counts once, and an
//! event counts only for what proves itself ([`Callback::once`]; the gateway sees to it).
//!
//! An address that Mailgun has on its own suppression list is reported at the next mail to it (`suppress-bounce` and the
//! like), with that mail's ids. So a fact that came without a proof is not lost for good.
//!
//! What cannot be read is not forged: the signature is in it, so nobody can say whose it is.
//!
//! Answered with 200 or 406 it does not come again; otherwise Mailgun tries for about eight hours
//! (<https://help.mailgun.com/hc/en-us/articles/202236504-Webhooks>).
//!
//! Events: <https://documentation.mailgun.com/docs/mailgun/user-manual/webhooks/webhook-payloads>. `notification_id` and
//! `delivery_id` are user variables.

use chasqui_contract::{Callback, Callbacks, Refusal, Reported, SignedRequest};
use chasqui_rules::actor;
use chasqui_schemas::{ReceiptKind, hex, receipt::Actor};
use chasqui_settings::SettingsError;
use jiff::{SignedDuration, Timestamp};
use ring::hmac;
use serde::Deserialize;
use serde_json::Value;

use super::Settings;
use crate::{
    Account,
    mail::{enhanced_of_reply, enhanced_status, is_dead_mailbox},
    reported::{ids, json, switch_off},
};

/// Maximum age of a signature: longer than Mailgun tries again, and than clocks differ; shorter than the ledger remembers
/// its token (`streams.dedupe_window_s`, a day by default).
const MAX_AGE: SignedDuration = SignedDuration::from_hours(12);

/// The account's callbacks, where its signing key is known.
pub(super) fn open(account: &Account<'_>, _: &str) -> Result<Option<Box<dyn Callbacks>>, SettingsError> {
    let settings: Settings = account.settings()?;
    let Some(key) = settings.signing_key.read(&account.key("signing_key"))? else { return Ok(None) };
    Ok(Some(Box::new(Verifier::new(key.expose()))))
}

impl Callbacks for Verifier {
    fn read(&self, request: &SignedRequest<'_>) -> Result<Callback, Refusal> {
        let Envelope { signature, event } = json(request.body).ok_or(Refusal::Unreadable)?;
        self.verify(&signature, request.now)?;
        Ok(Callback { once: Some(signature.token), ..parse(&event)?.into() })
    }
}

#[derive(Debug)]
struct Verifier(hmac::Key);

#[derive(Deserialize)]
struct Envelope {
    signature: Signature,
    #[serde(rename = "event-data")]
    event: Value,
}

#[derive(Deserialize)]
struct Signature {
    timestamp: String,
    token: String,
    signature: String,
}

impl Verifier {
    fn new(key: &str) -> Self {
        Verifier(hmac::Key::new(hmac::HMAC_SHA256, key.as_bytes()))
    }

    fn verify(&self, signature: &Signature, now: Timestamp) -> Result<(), Refusal> {
        let given = hex::decode(&signature.signature).ok_or(Refusal::Forged)?;
        let signed = [signature.timestamp.as_bytes(), signature.token.as_bytes()].concat();
        hmac::verify(&self.0, &signed, &given).map_err(|_| Refusal::Forged)?;
        let at = signature.timestamp.parse().ok().and_then(|seconds| Timestamp::from_second(seconds).ok());
        let age = at.map_or(SignedDuration::MAX, |at| now.duration_since(at).abs());
        if age > MAX_AGE { Err(Refusal::Stale) } else { Ok(()) }
    }
}

/// Whatever else an event has is not of interest; a field of another type than expected counts as absent.
fn parse(event: &Value) -> Result<Vec<Reported>, Refusal> {
    let text = |name: &str| event[name].as_str();
    let address = text("recipient").unwrap_or_default();
    let status = &event["delivery-status"];
    let code = status["enhanced-code"].as_str().unwrap_or_default();
    let is_dead = || {
        let words = ["message", "description"].map(|name| status[name].as_str().unwrap_or_default());
        words.iter().any(|words| is_dead_mailbox(enhanced_status(code).or_else(|| enhanced_of_reply(words)), words))
    };
    let (kind, fact) = match text("event").ok_or(Refusal::Unreadable)? {
        "delivered" => (ReceiptKind::Delivered, None),
        // Mailgun tries again by itself.
        "failed" if text("severity") != Some("permanent") => return Ok(Vec::new()),
        // Mailgun did not try: the address is on its own list.
        "failed" if text("reason") == Some("suppress-bounce") => (ReceiptKind::Bounced, switch_off(address, "bounce")),
        "failed" if text("reason") == Some("suppress-complaint") => {
            (ReceiptKind::Failed, switch_off(address, "complaint"))
        }
        "failed" if text("reason") == Some("suppress-unsubscribe") => {
            (ReceiptKind::Failed, switch_off(address, "unsubscribe"))
        }
        "failed" if is_dead() => (ReceiptKind::Bounced, switch_off(address, "bounce")),
        "failed" if text("reason") == Some("bounce") => (ReceiptKind::Bounced, None),
        "failed" | "rejected" => (ReceiptKind::Failed, None),
        "opened" => (ReceiptKind::Opened, None),
        "clicked" => (ReceiptKind::Clicked, None),
        "unsubscribed" => (ReceiptKind::Unsubscribed, switch_off(address, "unsubscribe")),
        "complained" => (ReceiptKind::Complained, switch_off(address, "complaint")),
        // accepted, stored, list events, and what is to come.
        _ => return Ok(Vec::new()),
    };
    let client = &event["client-info"];
    let by = match kind {
        ReceiptKind::Opened | ReceiptKind::Clicked => match (client["bot"].as_str(), client["user-agent"].as_str()) {
            (Some(bot), _) if !bot.is_empty() => Actor::Machine,
            (_, Some(agent)) => actor::of_user_agent(Some(agent)),
            _ => Actor::Unknown,
        },
        _ => Actor::Unknown,
    };
    let failed = matches!(kind, ReceiptKind::Bounced | ReceiptKind::Failed);
    let number = status["code"].as_i64().filter(|code| *code != 0).map(|code| code.to_string());
    let code = Some(code.to_owned()).filter(|code| !code.is_empty());
    let detail = code.or(number).or_else(|| text("reason").map(str::to_owned)).filter(|_| failed);
    let at = event["timestamp"].as_f64().and_then(|seconds| Timestamp::from_millisecond((seconds * 1e3) as i64).ok());
    // An empty list where there are none.
    let variable = |name: &str| event["user-variables"][name].as_str();
    let ids = ids(variable("notification_id"), variable("delivery_id"));
    Ok(vec![Reported { detail, by, address: fact, ..Reported::new(kind, ids, at) }])
}

#[cfg(test)]
mod tests {
    use chasqui_contract::AddressFact;
    use serde_json::json;
    use uuid::Uuid;

    use super::*;

    // Made with Python's hmac, from the documented rule, not from this code.
    const KEY: &str = "key-3ax6xnjp29jd6fds4gc373sgvjxteol0";
    const AT: i64 = 1_529_006_854;
    const TOKEN: &str = "a8ce0edb2dd8301dee6c2405235584e45aa91d1e9f979f3de0";
    const SIGNATURE: &str = "b63c0701c4f4b614f272106a1b367c5c3369bcdca664ae73ebd52787e45eef07";

    fn body(at: &str, token: &str, signature: &str) -> String {
        json!({"signature": {"timestamp": at, "token": token, "signature": signature}, "event-data": {"event": "opened"}})
            .to_string()
    }

    fn verify(verifier: &Verifier, body: &str, now: i64) -> Result<Option<String>, Refusal> {
        let now = Timestamp::from_second(now).unwrap();
        let request = SignedRequest { url: "", headers: &[], body: body.as_bytes(), now };
        verifier.read(&request).map(|callback| callback.once)
    }

    #[test]
    fn a_signature_over_timestamp_and_token_is_believed_while_it_is_young() {
        let verifier = Verifier::new(KEY);
        let genuine = body(&AT.to_string(), TOKEN, SIGNATURE);
        assert_eq!(verify(&verifier, &genuine, AT + 60), Ok(Some(TOKEN.to_owned())), "it counts once");
        assert_eq!(verify(&verifier, &genuine, AT + 13 * 3_600), Err(Refusal::Stale));
        assert_eq!(verify(&verifier, &genuine, AT - 13 * 3_600), Err(Refusal::Stale));
        for forged in [
            body(&(AT + 1).to_string(), TOKEN, SIGNATURE),
            body(&AT.to_string(), &TOKEN.replace('a', "b"), SIGNATURE),
            body(&AT.to_string(), TOKEN, &SIGNATURE[2..]),
            body(&AT.to_string(), TOKEN, ""),
        ] {
            assert_eq!(verify(&verifier, &forged, AT), Err(Refusal::Forged), "{forged}");
        }
        assert_eq!(verify(&Verifier::new("other"), &genuine, AT), Err(Refusal::Forged));
        for unreadable in ["{}", "nonsense", "", &genuine[..genuine.len() - 1]] {
            assert_eq!(verify(&verifier, unreadable, AT), Err(Refusal::Unreadable), "{unreadable}");
        }
        let cut = genuine.replace("\"opened\"", r#""failed","reason":"\ud83d""#);
        assert_eq!(verify(&verifier, &cut, AT), Ok(Some(TOKEN.to_owned())), "half a character");
    }

    #[test]
    fn events_mean_what_the_vendor_says() {
        let (notification, delivery) = (Uuid::now_v7(), Uuid::from_u128(9));
        let off = |reason: &'static str| Some(AddressFact { address: "ada@example.com".into(), reason });
        let (human, machine, unknown) = (Actor::Human, Actor::Machine, Actor::Unknown);
        let failed = |reason: &str, code: &str| json!({"event": "failed", "severity": "permanent", "reason": reason, "delivery-status": {"code": 550, "enhanced-code": code}});
        let client = |bot: &str| json!({"user-agent": "Mozilla/5.0 (X11; Linux x86_64) Firefox/140.0", "bot": bot});
        for (fields, kind, by, detail, address) in [
            (json!({"event": "delivered"}), ReceiptKind::Delivered, unknown, None, None),
            (failed("bounce", "5.1.1"), ReceiptKind::Bounced, unknown, Some("5.1.1"), off("bounce")),
            (failed("bounce", "5.2.2"), ReceiptKind::Bounced, unknown, Some("5.2.2"), None),
            (failed("bounce", "5.1.10"), ReceiptKind::Bounced, unknown, Some("5.1.10"), off("bounce")),
            (
                json!({"event": "failed", "severity": "permanent", "reason": "bounce", "delivery-status": {"code": 550, "message": "550 Unrouteable address"}}),
                ReceiptKind::Bounced,
                unknown,
                Some("550"),
                off("bounce"),
            ),
            (failed("suppress-bounce", ""), ReceiptKind::Bounced, unknown, Some("550"), off("bounce")),
            (failed("suppress-complaint", ""), ReceiptKind::Failed, unknown, Some("550"), off("complaint")),
            (failed("suppress-unsubscribe", ""), ReceiptKind::Failed, unknown, Some("550"), off("unsubscribe")),
            (failed("generic", ""), ReceiptKind::Failed, unknown, Some("550"), None),
            (json!({"event": "rejected", "reason": "old"}), ReceiptKind::Failed, unknown, Some("old"), None),
            (json!({"event": "opened", "client-info": client("")}), ReceiptKind::Opened, human, None, None),
            (json!({"event": "opened", "client-info": client("apple")}), ReceiptKind::Opened, machine, None, None),
            (json!({"event": "opened"}), ReceiptKind::Opened, unknown, None, None),
            (json!({"event": "clicked", "client-info": client("")}), ReceiptKind::Clicked, human, None, None),
            (json!({"event": "unsubscribed"}), ReceiptKind::Unsubscribed, unknown, None, off("unsubscribe")),
            (json!({"event": "complained"}), ReceiptKind::Complained, unknown, None, off("complaint")),
        ] {
            let mut event = fields.clone();
            event["recipient"] = json!("ada@example.com");
            event["timestamp"] = json!(1_529_006_854.329_574);
            event["user-variables"] = json!({"notification_id": notification, "delivery_id": delivery});
            let expected = Reported {
                kind,
                ids: Some((notification, delivery)),
                at: Some(Timestamp::from_millisecond(1_529_006_854_329).unwrap()),
                detail: detail.map(str::to_owned),
                by,
                address,
            };
            assert_eq!(parse(&event).unwrap(), [expected], "{fields}");
        }
        let parse = |event: Value| parse(&event);
        assert_eq!(parse(json!({"event": "failed", "severity": "temporary"})), Ok(Vec::new()));
        assert_eq!(parse(json!({"event": "accepted"})), Ok(Vec::new()));
        assert_eq!(parse(json!({"event": "opened", "user-variables": []})).unwrap()[0].ids, None);
        assert_eq!(parse(json!({})), Err(Refusal::Unreadable));
    }
}
