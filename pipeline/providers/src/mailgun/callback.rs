//! Mailgun: webhooks, one JSON object each: `signature` and `event-data`.
//!
//! Signature: hexadecimal HMAC-SHA256 over timestamp and token with the webhook signing key
//! (<https://documentation.mailgun.com/docs/mailgun/user-manual/webhooks/securing-webhooks>). It does not cover the event, so
//! a signature that somebody has seen could carry any event: therefore its age is bounded and its token counts once. The
//! memory of tokens is bounded too, and forgotten with the process; what gets through is at worst a receipt about a
//! delivery whose ids the sender must know.
//!
//! Answered with 200 or 406 it does not come again; otherwise Mailgun tries for about eight hours
//! (<https://help.mailgun.com/hc/en-us/articles/202236504-Webhooks>).
//!
//! Events: <https://documentation.mailgun.com/docs/mailgun/user-manual/webhooks/webhook-payloads>. `notification_id` and
//! `delivery_id` are user variables.

use std::{
    collections::HashSet,
    sync::{Mutex, PoisonError},
};

use chasqui_contract::{Callbacks, Refusal, Reported, SignedRequest};
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
    mail::{enhanced_status, is_dead_mailbox},
    reported::{Hash, hash, ids, switch_off},
};

/// Maximum age of a signature: longer than Mailgun tries again, and longer than clocks differ.
const MAX_AGE: SignedDuration = SignedDuration::from_hours(12);
/// Maximum tokens remembered in each of two generations: some 12 MB in all.
const REMEMBERED: usize = 100_000;

/// The account's callbacks, where its signing key is known.
pub(super) fn open(account: &Account<'_>, _: &str) -> Result<Option<Box<dyn Callbacks>>, SettingsError> {
    let settings: Settings = account.settings()?;
    let Some(key) = settings.signing_key.read(&account.key("signing_key"))? else { return Ok(None) };
    Ok(Some(Box::new(Verifier::new(key.expose()))))
}

impl Callbacks for Verifier {
    fn read(&self, request: &SignedRequest<'_>) -> Result<Vec<Reported>, Refusal> {
        self.verify(request)?;
        parse(request.body)
    }

    fn kept(&self, request: &SignedRequest<'_>) {
        self.remember(request.body);
    }

    fn refused(&self, refusal: Refusal) -> u16 {
        match refusal {
            Refusal::Forged => 401,
            // Mailgun's word for "do not try again".
            Refusal::Unreadable | Refusal::Stale => 406,
        }
    }
}

#[derive(Debug)]
struct Verifier {
    key: hmac::Key,
    /// Young and old.
    tokens: Mutex<[HashSet<Hash>; 2]>,
}

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
        let key = hmac::Key::new(hmac::HMAC_SHA256, key.as_bytes());
        Verifier { key, tokens: Mutex::default() }
    }

    fn verify(&self, request: &SignedRequest<'_>) -> Result<(), Refusal> {
        // The signature is inside: what cannot be read is not signed.
        let Envelope { signature, .. } = serde_json::from_slice(request.body).map_err(|_| Refusal::Forged)?;
        let given = hex::decode(&signature.signature).ok_or(Refusal::Forged)?;
        let signed = [signature.timestamp.as_bytes(), signature.token.as_bytes()].concat();
        hmac::verify(&self.key, &signed, &given).map_err(|_| Refusal::Forged)?;
        let at = signature.timestamp.parse().ok().and_then(|seconds| Timestamp::from_second(seconds).ok());
        let age = at.map_or(SignedDuration::MAX, |at| request.now.duration_since(at).abs());
        let is_known = self.tokens().iter().any(|tokens| tokens.contains(&hash(&signature.token)));
        if age > MAX_AGE || is_known { Err(Refusal::Stale) } else { Ok(()) }
    }

    /// Remembers the token of a body whose event is stored.
    fn remember(&self, body: &[u8]) {
        let Ok(Envelope { signature, .. }) = serde_json::from_slice(body) else { return };
        let mut tokens = self.tokens();
        tokens[0].insert(hash(&signature.token));
        if tokens[0].len() >= REMEMBERED {
            tokens.swap(0, 1);
            tokens[0].clear();
        }
    }

    /// Nothing is left half done under this lock.
    fn tokens(&self) -> std::sync::MutexGuard<'_, [HashSet<Hash>; 2]> {
        self.tokens.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whatever else an event has is not of interest; a field of another type than expected counts as absent.
fn parse(body: &[u8]) -> Result<Vec<Reported>, Refusal> {
    let Envelope { event, .. } = serde_json::from_slice(body).map_err(|_| Refusal::Unreadable)?;
    let text = |name: &str| event[name].as_str();
    let address = text("recipient").unwrap_or_default();
    let status = &event["delivery-status"];
    let code = status["enhanced-code"].as_str().unwrap_or_default();
    let (kind, opt_out) = match text("event").ok_or(Refusal::Unreadable)? {
        "delivered" => (ReceiptKind::Delivered, None),
        // Mailgun tries again by itself.
        "failed" if text("severity") != Some("permanent") => return Ok(Vec::new()),
        "failed" if enhanced_status(code).is_some_and(is_dead_mailbox) => {
            (ReceiptKind::Bounced, switch_off(address, "bounce"))
        }
        "failed" if matches!(text("reason"), Some("bounce" | "suppress-bounce")) => (ReceiptKind::Bounced, None),
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
    Ok(vec![Reported { detail, by, opt_out, ..Reported::new(kind, ids, at) }])
}

#[cfg(test)]
mod tests {
    use chasqui_schemas::{OptOut, bucket::address_key};
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

    fn verify(verifier: &Verifier, body: &str, now: i64) -> Result<(), Refusal> {
        let now = Timestamp::from_second(now).unwrap();
        verifier.verify(&SignedRequest { url: "", headers: &[], body: body.as_bytes(), now })
    }

    #[test]
    fn a_signature_over_timestamp_and_token_is_believed_while_it_is_young() {
        let verifier = Verifier::new(KEY);
        let genuine = body(&AT.to_string(), TOKEN, SIGNATURE);
        assert_eq!(verify(&verifier, &genuine, AT + 60), Ok(()));
        assert_eq!(verify(&verifier, &genuine, AT + 13 * 3_600), Err(Refusal::Stale));
        assert_eq!(verify(&verifier, &genuine, AT - 13 * 3_600), Err(Refusal::Stale));
        for forged in [
            body(&(AT + 1).to_string(), TOKEN, SIGNATURE),
            body(&AT.to_string(), &TOKEN.replace('a', "b"), SIGNATURE),
            body(&AT.to_string(), TOKEN, &SIGNATURE[2..]),
            body(&AT.to_string(), TOKEN, ""),
            "{}".to_owned(),
            "nonsense".to_owned(),
        ] {
            assert_eq!(verify(&verifier, &forged, AT), Err(Refusal::Forged), "{forged}");
        }
        assert_eq!(verify(&Verifier::new("other"), &genuine, AT), Err(Refusal::Forged));
    }

    #[test]
    fn a_token_counts_once_and_the_memory_is_bounded() {
        let verifier = Verifier::new(KEY);
        let genuine = body(&AT.to_string(), TOKEN, SIGNATURE);
        verifier.remember(genuine.as_bytes());
        assert_eq!(verify(&verifier, &genuine, AT), Err(Refusal::Stale));
        for n in 0..REMEMBERED {
            verifier.remember(body("1", &n.to_string(), "").as_bytes());
        }
        assert_eq!(verify(&verifier, &genuine, AT), Err(Refusal::Stale), "of the generation before");
        for n in 0..2 * REMEMBERED {
            verifier.remember(body("1", &format!("more {n}"), "").as_bytes());
        }
        assert!(verifier.tokens().iter().map(HashSet::len).sum::<usize>() <= 2 * REMEMBERED);
        assert_eq!(verify(&verifier, &genuine, AT), Ok(()), "forgotten");
    }

    #[test]
    fn events_mean_what_the_vendor_says() {
        let (notification, delivery) = (Uuid::now_v7(), Uuid::from_u128(9));
        let off = |reason: &str| Some(OptOut::Address { key: address_key("ada@example.com"), reason: reason.into() });
        let (human, machine, unknown) = (Actor::Human, Actor::Machine, Actor::Unknown);
        let failed = |reason: &str, code: &str| json!({"event": "failed", "severity": "permanent", "reason": reason, "delivery-status": {"code": 550, "enhanced-code": code}});
        let client = |bot: &str| json!({"user-agent": "Mozilla/5.0 (X11; Linux x86_64) Firefox/140.0", "bot": bot});
        for (fields, kind, by, detail, opt_out) in [
            (json!({"event": "delivered"}), ReceiptKind::Delivered, unknown, None, None),
            (failed("bounce", "5.1.1"), ReceiptKind::Bounced, unknown, Some("5.1.1"), off("bounce")),
            (failed("bounce", "5.2.2"), ReceiptKind::Bounced, unknown, Some("5.2.2"), None),
            (failed("suppress-bounce", ""), ReceiptKind::Bounced, unknown, Some("550"), None),
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
            let signature = json!({"timestamp": "1", "token": "t", "signature": "s"});
            let body = json!({"signature": signature, "event-data": event}).to_string();
            let expected = Reported {
                kind,
                ids: Some((notification, delivery)),
                at: Some(Timestamp::from_millisecond(1_529_006_854_329).unwrap()),
                detail: detail.map(str::to_owned),
                by,
                opt_out,
            };
            assert_eq!(parse(body.as_bytes()).unwrap(), [expected], "{fields}");
        }
        let parse = |event: Value| {
            let signature = json!({"timestamp": "1", "token": "t", "signature": "s"});
            parse(json!({"signature": signature, "event-data": event}).to_string().as_bytes())
        };
        assert_eq!(parse(json!({"event": "failed", "severity": "temporary"})), Ok(Vec::new()));
        assert_eq!(parse(json!({"event": "accepted"})), Ok(Vec::new()));
        assert_eq!(parse(json!({"event": "opened", "user-variables": []})).unwrap()[0].ids, None);
        assert_eq!(parse(json!({})), Err(Refusal::Unreadable));
    }
}
