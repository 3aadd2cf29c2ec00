//! SendGrid: the Event Webhook, a JSON array of events.
//!
//! Signature: base64 of ECDSA P-256 with SHA-256 (ASN.1) over the timestamp header followed by the body as it came,
//! including the line break at its end, with the public key that the account shows in base64
//! (<https://www.twilio.com/docs/sendgrid/for-developers/tracking-events/getting-started-event-webhook-security-features>).
//!
//! Events: <https://www.twilio.com/docs/sendgrid/for-developers/tracking-events/event>. `notification_id` and
//! `delivery_id` are unique arguments, which SendGrid puts into each event beside its own fields. Unanswered events come
//! again for 24 hours, so their time is no reason to refuse them.

use base64::{Engine, engine::general_purpose::STANDARD};
use chasqui_contract::{Callback, Callbacks, Refusal, Reported, SignedRequest};
use chasqui_rules::actor;
use chasqui_schemas::{ReceiptKind, receipt::Actor};
use chasqui_settings::SettingsError;
use jiff::Timestamp;
use ring::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use serde_json::{Value, value::RawValue};

use super::Settings;
use crate::{
    Account,
    mail::{enhanced_status, is_dead_mailbox},
    reported::{ids, json, switch_off},
};

const SIGNATURE: &str = "x-twilio-email-event-webhook-signature";
const TIMESTAMP: &str = "x-twilio-email-event-webhook-timestamp";
/// What precedes the point in the DER of a P-256 public key (RFC 5480, section 2): algorithm and curve, a bit string.
const P256_PREFIX: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce,
    0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];
const POINT_BYTES: usize = 65;

/// The account's callbacks, where its key is known.
pub(super) fn open(account: &Account<'_>, _: &str) -> Result<Option<Box<dyn Callbacks>>, SettingsError> {
    let settings: Settings = account.settings()?;
    let Some(key) = settings.webhook_public_key else { return Ok(None) };
    let wrong = || account.invalid("webhook_public_key", "is not a P-256 public key in base64");
    Ok(Some(Box::new(Verifier::new(&key).ok_or_else(wrong)?)))
}

impl Callbacks for Verifier {
    fn read(&self, request: &SignedRequest<'_>) -> Result<Callback, Refusal> {
        self.verify(request)?;
        parse(request.body)
    }
}

#[derive(Debug)]
struct Verifier(UnparsedPublicKey<[u8; POINT_BYTES]>);

impl Verifier {
    fn new(key: &str) -> Option<Self> {
        let der = STANDARD.decode(key.trim()).ok()?;
        let point: [u8; POINT_BYTES] = der.strip_prefix(&P256_PREFIX)?.try_into().ok()?;
        Some(Verifier(UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, point)))
    }

    fn verify(&self, request: &SignedRequest<'_>) -> Result<(), Refusal> {
        let signature = request.header(SIGNATURE).and_then(|text| STANDARD.decode(text).ok()).ok_or(Refusal::Forged)?;
        let timestamp = request.header(TIMESTAMP).ok_or(Refusal::Forged)?;
        let signed = [timestamp.as_bytes(), request.body].concat();
        self.0.verify(&signed, &signature).map_err(|_| Refusal::Forged)
    }
}

/// Each event by itself: one that cannot be read takes no other with it. Whatever else an event has is not of interest; a
/// field of another type than expected counts as absent.
fn parse(body: &[u8]) -> Result<Callback, Refusal> {
    let text = String::from_utf8_lossy(body);
    let events: Vec<&RawValue> = serde_json::from_str(&text).map_err(|_| Refusal::Unreadable)?;
    let read: Vec<Value> = events.iter().filter_map(|event| json(event.get().as_bytes())).collect();
    Ok(Callback { unreadable: events.len() - read.len(), ..read.iter().filter_map(event).collect::<Vec<_>>().into() })
}

fn event(event: &Value) -> Option<Reported> {
    let text = |name: &str| event[name].as_str();
    let address = text("email").unwrap_or_default();
    let status = text("status").unwrap_or_default();
    let (kind, fact) = match text("event")? {
        "delivered" => (ReceiptKind::Delivered, None),
        // A block is about the moment or the message, not the address.
        "bounce" if text("type") == Some("blocked") => (ReceiptKind::Failed, None),
        "bounce" if is_dead(event) => (ReceiptKind::Bounced, switch_off(address, "bounce")),
        "bounce" => (ReceiptKind::Bounced, None),
        "dropped" => (ReceiptKind::Failed, None),
        "open" => (ReceiptKind::Opened, None),
        "click" => (ReceiptKind::Clicked, None),
        "unsubscribe" => (ReceiptKind::Unsubscribed, switch_off(address, "unsubscribe")),
        "group_unsubscribe" => (ReceiptKind::Unsubscribed, None),
        "spamreport" => (ReceiptKind::Complained, switch_off(address, "complaint")),
        // processed, deferred, group_resubscribe, and what is to come.
        _ => return None,
    };
    let by = match (kind, event["sg_machine_open"].as_bool()) {
        (ReceiptKind::Opened, Some(true)) => Actor::Machine,
        (ReceiptKind::Opened, Some(false)) => Actor::Human,
        (ReceiptKind::Opened | ReceiptKind::Clicked, _) => {
            text("useragent").map_or(Actor::Unknown, |agent| actor::of_user_agent(Some(agent)))
        }
        _ => Actor::Unknown,
    };
    let failed = matches!(kind, ReceiptKind::Bounced | ReceiptKind::Failed);
    let code = Some(status).filter(|status| !status.is_empty());
    let detail = code.or_else(|| text("reason")).filter(|_| failed).map(str::to_owned);
    let at = event["timestamp"].as_i64().and_then(|seconds| Timestamp::from_second(seconds).ok());
    let ids = ids(text("notification_id"), text("delivery_id"));
    Some(Reported { detail, by, address: fact, ..Reported::new(kind, ids, at) })
}

/// Whether a bounce is about the address: by its status, the server's words, or SendGrid's own classification
/// (<https://www.twilio.com/docs/sendgrid/for-developers/tracking-events/event#bounce>).
fn is_dead(event: &Value) -> bool {
    let text = |name: &str| event[name].as_str().unwrap_or_default();
    text("bounce_classification") == "Invalid Address"
        || is_dead_mailbox(enhanced_status(text("status")), text("reason"))
}

#[cfg(test)]
mod tests {
    use chasqui_contract::AddressFact;
    use serde_json::json;
    use uuid::Uuid;

    use super::*;
    use crate::testing::account;

    // The known answer that SendGrid's own libraries are tested with.
    const KEY: &str = "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE83T4O/n84iotIvIW4mdBgQ/7dAfSmpqIM8kF9mN1flpVKS3GRqe62gw+2fNNRaINXvVpiglSI8eNEc6wEA3F+g==";
    const OTHER_KEY: &str = "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEqTxd43gyp8IOEto2LdIfjRQrIbsd4SXZkLW6jDutdhXSJCWHw8REntlo7aNDthvj+y7GjUuFDb/R1NGe1OPzpA==";
    const SIGNED: &str =
        "MEUCIGHQVtGj+Y3LkG9fLcxf3qfI10QysgDWmMOVmxG0u6ZUAiEAyBiXDWzM+uOe5W0JuG+luQAbPIqHh89M15TluLtEZtM=";
    const AT: &str = "1600112502";
    const BODY: &str = "[{\"email\":\"hello@world.com\",\"event\":\"dropped\",\"reason\":\"Bounced Address\",\
        \"sg_event_id\":\"ZHJvcC0xMDk5NDkxOS1MUnpYbF9OSFN0T0doUTRrb2ZTbV9BLTA\",\
        \"sg_message_id\":\"LRzXl_NHStOGhQ4kofSm_A.filterdrecv-p3mdw1-756b745b58-kmzbl-18-5F5FC76C-9.0\",\
        \"smtp-id\":\"<LRzXl_NHStOGhQ4kofSm_A@ismtpd0039p1iad1.sendgrid.net>\",\"timestamp\":1600112492}]\r\n";

    fn verify(key: &str, at: &str, signature: &str, body: &str) -> Result<(), Refusal> {
        let headers = [(SIGNATURE, signature), (TIMESTAMP, at)];
        let request = SignedRequest { url: "", headers: &headers, body: body.as_bytes(), now: Timestamp::UNIX_EPOCH };
        Verifier::new(key).unwrap().verify(&request)
    }

    #[test]
    fn the_vendors_known_answer_is_believed_and_nothing_near_it() {
        assert_eq!(verify(KEY, AT, SIGNED, BODY), Ok(()));
        for (key, at, signature, body) in [
            (OTHER_KEY, AT, SIGNED, BODY),
            (KEY, "1600112503", SIGNED, BODY),
            (KEY, AT, SIGNED, BODY.trim_end()),
            (KEY, AT, SIGNED, &BODY.replace("dropped", "delivered")),
            (KEY, AT, &SIGNED.replace("MEUC", "MEUD"), BODY),
            (KEY, AT, "", BODY),
        ] {
            assert_eq!(verify(key, at, signature, body), Err(Refusal::Forged));
        }
    }

    #[test]
    fn a_key_that_is_none_is_refused_at_start() {
        let open = |webhook_public_key: Option<String>| {
            let own = json!({ "from": "a@b.example", "webhook_public_key": webhook_public_key });
            let own = own.as_object().unwrap().clone();
            open(&Account { own: &own, ..account(&super::super::VENDOR) }, "")
        };
        for key in ["x", "AAAA", &KEY[4..], &format!("{KEY}AAAA")] {
            let error = open(Some(key.to_owned())).err().unwrap().to_string();
            assert!(error.starts_with("accounts.sendgrid.webhook_public_key"), "{error}");
        }
        assert!(open(None).unwrap().is_none());
    }

    #[test]
    fn events_mean_what_the_vendor_says() {
        let (notification, delivery) = (Uuid::now_v7(), Uuid::from_u128(9));
        let off = |reason: &'static str| Some(AddressFact { address: "ada@example.com".into(), reason });
        let firefox = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0";
        let unknown = Actor::Unknown;
        for (fields, kind, by, detail, address) in [
            (json!({"event": "delivered", "response": "250 OK"}), ReceiptKind::Delivered, unknown, None, None),
            (
                json!({"event": "bounce", "type": "bounce", "status": "5.1.1", "reason": "no"}),
                ReceiptKind::Bounced,
                unknown,
                Some("5.1.1"),
                off("bounce"),
            ),
            (
                json!({"event": "bounce", "type": "bounce", "status": "5.2.2"}),
                ReceiptKind::Bounced,
                unknown,
                Some("5.2.2"),
                None,
            ),
            (
                json!({"event": "bounce", "type": "blocked", "status": "5.1.1"}),
                ReceiptKind::Failed,
                unknown,
                Some("5.1.1"),
                None,
            ),
            (
                json!({"event": "dropped", "reason": "Bounced Address"}),
                ReceiptKind::Failed,
                unknown,
                Some("Bounced Address"),
                None,
            ),
            (
                json!({"event": "open", "sg_machine_open": true, "useragent": firefox}),
                ReceiptKind::Opened,
                Actor::Machine,
                None,
                None,
            ),
            (json!({"event": "open", "sg_machine_open": false}), ReceiptKind::Opened, Actor::Human, None, None),
            (json!({"event": "open"}), ReceiptKind::Opened, unknown, None, None),
            (json!({"event": "open", "useragent": "Mozilla/5.0"}), ReceiptKind::Opened, Actor::Machine, None, None),
            (
                json!({"event": "click", "useragent": firefox, "url": "https://x"}),
                ReceiptKind::Clicked,
                Actor::Human,
                None,
                None,
            ),
            (json!({"event": "unsubscribe"}), ReceiptKind::Unsubscribed, unknown, None, off("unsubscribe")),
            (json!({"event": "group_unsubscribe"}), ReceiptKind::Unsubscribed, unknown, None, None),
            (json!({"event": "spamreport"}), ReceiptKind::Complained, unknown, None, off("complaint")),
        ] {
            let mut event = fields.clone();
            event["email"] = json!("ada@example.com");
            event["timestamp"] = json!(1_600_112_492);
            event["notification_id"] = json!(notification);
            event["delivery_id"] = json!(delivery);
            let expected = Reported {
                kind,
                ids: Some((notification, delivery)),
                at: Some(Timestamp::from_second(1_600_112_492).unwrap()),
                detail: detail.map(str::to_owned),
                by,
                address,
            };
            assert_eq!(parse(json!([event]).to_string().as_bytes()).unwrap().events, [expected], "{fields}");
        }
        for event in ["processed", "deferred", "group_resubscribe", "new one"] {
            assert_eq!(parse(json!([{ "event": event }]).to_string().as_bytes()), Ok(Vec::new().into()), "{event}");
        }
        let foreign = parse(BODY.as_bytes()).unwrap().events;
        assert_eq!((foreign.len(), foreign[0].ids), (1, None));
        assert_eq!(parse(b"[1, {}, null, {\"event\": 3}]"), Ok(Vec::new().into()), "strange events harm no other");
        assert_eq!(parse(b"{}"), Err(Refusal::Unreadable));
    }

    #[test]
    fn an_event_that_cannot_be_read_takes_no_other_with_it() {
        let cut = br#"[{"event":"unsubscribe","email":"a@b.example"},{"event":"dropped","reason":"full \ud83d"},{"event":"spamreport","email":"c@d.example"}]"#;
        let kinds: Vec<_> = parse(cut).unwrap().events.iter().map(|event| (event.kind, event.detail.clone())).collect();
        let dropped = (ReceiptKind::Failed, Some("full \u{fffd}".to_owned()));
        assert_eq!(kinds, [(ReceiptKind::Unsubscribed, None), dropped, (ReceiptKind::Complained, None)]);
        let strange = br#"[{"event":"unsubscribe","email":"a@b.example"},{"event":"delivered","timestamp":1e999}]"#;
        let read = parse(strange).unwrap();
        assert_eq!((read.events.len(), read.unreadable), (1, 1));
        assert_eq!(read.events[0].address.as_ref().unwrap().address, "a@b.example", "without ids of ours");
    }

    #[test]
    fn a_bounce_is_of_a_dead_address_by_status_words_or_classification() {
        for (event, dead) in [
            (json!({"status": "5.1.10", "reason": "550 5.1.10 RESOLVER.ADR.RecipientNotFound"}), true),
            (json!({"status": "5.0.0", "reason": "550 Unrouteable address"}), true),
            (json!({"status": "", "reason": "550 Unknown user"}), true),
            (json!({"status": "5.5.0", "reason": "550 5.5.0 Requested action not taken: mailbox unavailable"}), true),
            (json!({"status": "5.0.0", "reason": "550 mailbox unavailable"}), false),
            (json!({"status": "5.4.1", "reason": "550 5.4.1 Recipient address rejected: Access denied."}), true),
            (json!({"status": "5.0.0", "bounce_classification": "Invalid Address"}), true),
            (json!({"status": "5.7.1", "reason": "550 no such user, by policy"}), false),
            (
                json!({"status": "5.2.2", "reason": "552 mailbox full", "bounce_classification": "Mailbox Unavailable"}),
                false,
            ),
            (json!({}), false),
        ] {
            assert_eq!(is_dead(&event), dead, "{event}");
        }
    }
}
