//! What the demo publishes: single cases first, then a crowd. It is the same in every run but for ids and the time.

use chasqui_schemas::{
    Lane,
    record::{Contacts, Device, Platform, Preferences, QuietHours},
};
use jiff::{SignedDuration, Timestamp, tz::TimeZone};
use serde_json::{Value, json};
use uuid::Uuid;

/// A submission, and what has to become of it.
pub(crate) struct Submission {
    pub(crate) lane: Lane,
    pub(crate) app: &'static str,
    pub(crate) message_id: Option<String>,
    pub(crate) payload: Vec<u8>,
    /// Number of notifications that it becomes; 0 if it has to be rejected.
    pub(crate) notifications: u64,
    /// Whether its time comes long after the demo.
    pub(crate) scheduled: bool,
}

/// Users that are not in the fixtures. Their addresses say what the vendor has to do with a message to them.
pub(crate) fn people() -> Vec<(&'static str, Contacts)> {
    let person = |email: &str, token: &str| Contacts {
        locale: Some("en-US".into()),
        timezone: Some("America/New_York".into()),
        emails: if email.is_empty() { vec![] } else { vec![email.into()] },
        phones: vec![],
        devices: if token.is_empty() {
            vec![]
        } else {
            vec![Device { id: "phone".into(), platform: Platform::Android, token: token.into(), registered_at: None }]
        },
    };
    vec![
        ("mira", person("mira-opens@example.com", "fails-2-times-mira")),
        ("noor", person("", "always-fails-noor")),
        ("oleg", person("", "dead-endpoint-oleg")),
        ("pia", person("pia-bounces@example.com", "")),
        ("quinn", person("", "slow-300-quinn")),
        ("rafa", person("rafa@example.com", "rafa-phone")),
        ("gone", person("gone@example.com", "")),
    ]
}

/// Rafa's quiet hours, which include the present time whenever the demo runs.
pub(crate) fn rafas_preferences(now: Timestamp) -> Preferences {
    let clock = |offset_hours: i64| {
        let at = now + SignedDuration::from_hours(offset_hours);
        let at = at.to_zoned(TimeZone::UTC).time();
        jiff::civil::Time::constant(at.hour(), at.minute(), 0, 0)
    };
    Preferences {
        quiet_hours: Some(QuietHours { start: clock(-1), end: clock(2), timezone: Some("UTC".into()) }),
        ..Preferences::default()
    }
}

/// Submissions that show one case each.
pub(crate) fn cases(now: Timestamp) -> Vec<Submission> {
    let json = |lane, notifications, value: Value| Submission {
        lane,
        app: "shop",
        message_id: None,
        payload: value.to_string().into_bytes(),
        notifications,
        scheduled: false,
    };
    let order = |user: &str| {
        json!({
            "category": "order", "template": "order.shipped", "recipients": [user],
            "data": order_data(1042), "transaction_id": "order-1042",
        })
    };
    let text = |to: &str| {
        json!({
            "category": "otp", "recipients": [{ "phone": to }], "channels": ["sms"],
            "template": "otp.code", "data": { "code": "418 210", "minutes": 5 },
        })
    };
    let hello = json!({ "title": "Hello", "body": "A word to everybody." });

    let mut cases = vec![
        // Providers that fail at first, for good, slowly, and addresses that are dead.
        json(Lane::High, 1, order("mira")),
        json(Lane::High, 1, {
            let mut only_push = order("noor");
            only_push["channels"] = json!(["push"]);
            only_push
        }),
        json(Lane::High, 1, order("oleg")),
        json(Lane::High, 1, order("pia")),
        json(Lane::High, 1, order("quinn")),
        json(Lane::Critical, 1, text("+15550000101")),
        json(Lane::Critical, 1, text("+15550000002")),
        json(Lane::Critical, 1, text("+15550000004")),
        json(Lane::Critical, 1, text("+15550000005")),
        // Quiet hours; critical passes them.
        json(Lane::Normal, 1, order("rafa")),
        json(
            Lane::Critical,
            1,
            json!({ "category": "security", "template": "security.new-device", "recipients": ["rafa"],
                    "data": { "device": "Firefox on Linux", "place": "Lima" } }),
        ),
        // Opted out altogether; a mandatory category passes.
        json(Lane::Normal, 1, order("amelie")),
        json(
            Lane::Critical,
            1,
            json!({ "category": "security", "template": "security.new-device", "recipients": ["amelie"],
                    "data": { "device": "Chrome on Windows", "place": "Lyon" } }),
        ),
        // On the suppression list; unknown.
        json(Lane::Normal, 1, order("gone")),
        json(Lane::Normal, 1, order("nobody-we-know")),
        // Too late, later, and much later.
        json(
            Lane::Normal,
            1,
            json!({ "category": "chat", "content": hello, "recipients": ["ada"],
                    "expires_at": now - SignedDuration::from_mins(1) }),
        ),
        json(
            Lane::Normal,
            1,
            json!({ "category": "chat", "content": hello, "recipients": ["priya"],
                    "send_at": now + SignedDuration::from_secs(3) }),
        ),
        Submission {
            scheduled: true,
            ..json(
                Lane::Normal,
                1,
                json!({ "category": "chat", "content": hello, "recipients": ["priya"],
                        "send_at": now + SignedDuration::from_hours(24), "expires_at": now + SignedDuration::from_hours(25) }),
            )
        },
        // A template that needs what the data does not have, and one that does not exist.
        json(Lane::Normal, 1, json!({ "category": "order", "template": "order.shipped", "recipients": ["ada"] })),
        json(Lane::Normal, 1, json!({ "category": "order", "template": "order.lost", "recipients": ["ada"] })),
        // One submission to many, in their languages.
        json(
            Lane::Bulk,
            9,
            json!({ "category": "marketing", "template": "marketing.spring", "data": { "percent": 20 },
                    "recipients": ["ada", "jiho", "lucia", "joao", "sam", "priya", "kenji", "olivia", "tane"] }),
        ),
        // Breaks the contract.
        json(Lane::Normal, 0, json!({ "recipients": [], "colour": "red", "send_at": "tomorrow" })),
        json(
            Lane::Normal,
            0,
            json!({ "category": "chat", "content": hello, "template": "chat.message",
                    "recipients": [{ "email": "not an address" }] }),
        ),
        Submission {
            payload: br#"{"category": "chat", "recipients": ["ada"], "cont"#.to_vec(),
            ..json(Lane::Normal, 0, Value::Null)
        },
        // As another team's code spells it.
        json(
            Lane::Normal,
            1,
            json!({ "category": "chat", "templateType": "chat.message", "recipients": [{ "userId": "lucia" }],
                    "data": { "from": "Joao", "text": "Vamos?", "chat": "77" }, "collapseKey": "chat-77" }),
        ),
    ];
    // The same key twice, as a producer that was not sure does: the second names the first.
    for attempt in 0..2 {
        let mut case = json(Lane::High, 1, order("ada"));
        case.payload = {
            let mut value = order("ada");
            value["idempotency_key"] = "order-1042-shipped".into();
            value["id"] = Uuid::now_v7().to_string().into();
            value.to_string().into_bytes()
        };
        // JetStream itself would drop the same message id; another one gets as far as the ledger.
        case.message_id = Some(format!("demo-{attempt}-{}", Uuid::now_v7()));
        cases.push(case);
    }
    cases
}

/// Ordinary traffic: all lanes, channels and languages.
pub(crate) fn crowd(count: u32) -> impl Iterator<Item = Submission> {
    const USERS: [&str; 10] = ["ada", "jiho", "lucia", "joao", "sam", "priya", "kenji", "fatima", "olivia", "tane"];
    (0..count).map(|i| {
        let user = USERS[i as usize % USERS.len()];
        let (lane, app, value) = match i % 11 {
            0 | 1 => (
                Lane::Critical,
                "login",
                json!({ "category": "otp", "template": "otp.code", "recipients": [user],
                        "data": { "code": format!("{:06}", u64::from(i) * 7919 % 1_000_000), "minutes": 5 } }),
            ),
            2..=4 => (
                Lane::High,
                "shop",
                json!({ "category": "order", "template": "order.shipped", "recipients": [user],
                        "data": order_data(2000 + i) }),
            ),
            5 => (
                Lane::High,
                "chat",
                json!({ "category": "chat", "template": "chat.message", "recipients": [user],
                        "data": { "from": "Ada", "text": "See you at eight?", "chat": i.to_string() } }),
            ),
            6 => (
                Lane::Normal,
                "news",
                json!({ "category": "digest", "template": "digest.weekly", "recipients": [user],
                        "data": { "stories": [
                            { "title": "Runners cross the pass", "url": "https://example.com/1" },
                            { "title": "Rope bridges hold", "url": "https://example.com/2" } ] } }),
            ),
            7 => (
                Lane::Normal,
                "shop",
                json!({ "category": "order", "recipients": [{ "email": format!("guest-{i}-opens@example.com") }],
                        "channels": ["email"],
                        "content": { "title": "Your receipt", "body": "Thank you for your order.",
                                     "html": "<p>Thank you for your order.</p>" } }),
            ),
            _ => (
                Lane::Bulk,
                "shop",
                json!({ "category": "marketing", "template": "marketing.spring", "recipients": [user],
                        "data": { "percent": 10 + i % 40 } }),
            ),
        };
        Submission {
            lane,
            app,
            message_id: None,
            payload: value.to_string().into_bytes(),
            notifications: 1,
            scheduled: false,
        }
    })
}

fn order_data(order: u32) -> Value {
    json!({
        "name": "Ada", "order": order.to_string(), "arrives": "Tuesday", "total": 59.9, "currency": "EUR",
        "items": [{ "name": "Rope", "count": 2 }, { "name": "Sandals", "count": 1 }],
    })
}
