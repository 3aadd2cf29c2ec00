//! Apple Push Notification service.
//!
//! Sources: "Sending notification requests to APNs", "Establishing a token-based connection to APNs" and "Handling
//! notification responses from APNs", developer.apple.com/documentation/usernotifications.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use jiff::Timestamp;
use ring::signature::ECDSA_P256_SHA256_FIXED;
use serde_json::{Value, json};

use crate::{
    Accounts,
    exchange::{Accepted, Api, DELIVERY_ID, Reply, Request, find},
    jwt,
    script::{Fault, Trouble},
};

/// Largest payload, in bytes; VoIP may be larger.
const MAX_PAYLOAD: usize = 4096;
const MAX_PAYLOAD_VOIP: usize = 5120;
/// Longest `apns-collapse-id`, in bytes.
const MAX_COLLAPSE_ID: usize = 64;
/// Oldest provider token, in seconds.
const MAX_TOKEN_AGE: i64 = 3600;
/// How long a provider token must be reused, in seconds.
const MIN_TOKEN_AGE: i64 = 20 * 60;
/// Provider tokens allowed in that time. Apple wants one per process; this is room for the processes of a test, and
/// catches a client that signs for every request.
const MAX_TOKENS: usize = 30;
const PUSH_TYPES: [&str; 11] = [
    "alert",
    "background",
    "complication",
    "controls",
    "fileprovider",
    "liveactivity",
    "location",
    "mdm",
    "pushtotalk",
    "voip",
    "widgets",
];

/// Reasons and their statuses.
const REASONS: [(&str, u16); 32] = [
    ("BadCollapseId", 400),
    ("BadDeviceToken", 400),
    ("BadExpirationDate", 400),
    ("BadMessageId", 400),
    ("BadPriority", 400),
    ("BadTopic", 400),
    ("DeviceTokenNotForTopic", 400),
    ("DuplicateHeaders", 400),
    ("IdleTimeout", 400),
    ("InvalidPushType", 400),
    ("MissingDeviceToken", 400),
    ("MissingTopic", 400),
    ("PayloadEmpty", 400),
    ("TopicDisallowed", 400),
    ("BadCertificate", 403),
    ("BadCertificateEnvironment", 403),
    ("BadEnvironmentKeyIdInToken", 403),
    ("ExpiredProviderToken", 403),
    ("Forbidden", 403),
    ("InvalidProviderToken", 403),
    ("MissingProviderToken", 403),
    ("UnrelatedKeyIdInToken", 403),
    ("BadPath", 404),
    ("MethodNotAllowed", 405),
    ("ExpiredToken", 410),
    ("Unregistered", 410),
    ("PayloadTooLarge", 413),
    ("TooManyProviderTokenUpdates", 429),
    ("TooManyRequests", 429),
    ("InternalServerError", 500),
    ("ServiceUnavailable", 503),
    ("Shutdown", 503),
];

pub(crate) struct Apns {
    accounts: Accounts,
    public_key: Vec<u8>,
    /// Provider tokens seen and verified, and when they were issued.
    tokens: Mutex<HashMap<String, i64>>,
}

impl Apns {
    pub(crate) fn new(accounts: &Accounts, public_key: Vec<u8>) -> Self {
        Apns { accounts: accounts.clone(), public_key, tokens: Mutex::default() }
    }

    fn authorize(&self, request: &Request) -> Result<(), &'static str> {
        let token = request.bearer().ok_or("MissingProviderToken")?;
        let now = Timestamp::now().as_second();
        let mut tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        let issued = match tokens.get(token) {
            Some(issued) => *issued,
            None => {
                let issued = self.verify(token)?;
                tokens.retain(|_, issued| now - *issued < MIN_TOKEN_AGE);
                if tokens.len() >= MAX_TOKENS {
                    return Err("TooManyProviderTokenUpdates");
                }
                tokens.insert(token.to_owned(), issued);
                issued
            }
        };
        match now - issued {
            // A clock may be a little ahead.
            ..-60 => Err("InvalidProviderToken"),
            MAX_TOKEN_AGE.. => Err("ExpiredProviderToken"),
            _ => Ok(()),
        }
    }

    /// When the token was issued.
    fn verify(&self, token: &str) -> Result<i64, &'static str> {
        let token =
            jwt::read(token, "ES256", &ECDSA_P256_SHA256_FIXED, &self.public_key).ok_or("InvalidProviderToken")?;
        let known =
            token.header["kid"] == *self.accounts.apns_key_id && token.claims["iss"] == *self.accounts.apns_team_id;
        if !known {
            return Err("InvalidProviderToken");
        }
        token.claims["iat"].as_i64().ok_or("InvalidProviderToken")
    }

    fn judge(&self, request: &Request) -> Result<(String, Value), &'static str> {
        if request.method != hyper::Method::POST {
            return Err("MethodNotAllowed");
        }
        let device = request.path.strip_prefix("/3/device/").ok_or("BadPath")?;
        if request.headers.keys().any(|name| request.headers.get_all(name).iter().count() > 1) {
            return Err("DuplicateHeaders");
        }
        self.authorize(request)?;
        if device.is_empty() {
            return Err("MissingDeviceToken");
        }
        // Apple does not promise a length; whole bytes in hexadecimal, 32 of them until now.
        if device.len() < 64
            || device.len() > 200
            || device.len() % 2 != 0
            || !device.bytes().all(|b| b.is_ascii_hexdigit())
        {
            return Err("BadDeviceToken");
        }
        self.judge_headers(request)?;
        let kind = request.header("apns-push-type");
        let most = if kind == Some("voip") { MAX_PAYLOAD_VOIP } else { MAX_PAYLOAD };
        if request.body.len() > most {
            return Err("PayloadTooLarge");
        }
        // What is no JSON object with `aps` has no reason of its own in the documentation; this is the nearest.
        let payload: Value = serde_json::from_slice(&request.body).map_err(|_| "PayloadEmpty")?;
        let aps = payload["aps"].as_object().ok_or("PayloadEmpty")?;
        // A push type must say what the payload is.
        let silent = !aps.contains_key("alert") && !aps.contains_key("badge") && !aps.contains_key("sound");
        match kind {
            Some("background") if !silent || aps.get("content-available") != Some(&json!(1)) => Err("InvalidPushType"),
            Some("alert") if silent => Err("InvalidPushType"),
            _ => Ok((device.to_owned(), payload)),
        }
    }

    fn judge_headers(&self, request: &Request) -> Result<(), &'static str> {
        let kind = request.header("apns-push-type");
        match request.header("apns-topic") {
            None => return Err("MissingTopic"),
            Some(topic) if topic != self.accounts.apns_topic => return Err("TopicDisallowed"),
            Some(_) => {}
        }
        if !kind.is_some_and(|kind| PUSH_TYPES.contains(&kind)) {
            return Err("InvalidPushType");
        }
        match (request.header("apns-priority").unwrap_or("10"), kind) {
            ("5", _) => {}
            ("1" | "10", kind) if kind != Some("background") => {}
            _ => return Err("BadPriority"),
        }
        if request.header("apns-expiration").is_some_and(|at| at.parse::<u32>().is_err()) {
            return Err("BadExpirationDate");
        }
        if request.header("apns-id").is_some_and(|id| !is_canonical_uuid(id)) {
            return Err("BadMessageId");
        }
        match request.header("apns-collapse-id") {
            Some(id) if id.len() > MAX_COLLAPSE_ID => Err("BadCollapseId"),
            _ => Ok(()),
        }
    }
}

impl Api for Apns {
    fn check(&self, request: &Request) -> Result<Accepted, Reply> {
        let (device, payload) = self.judge(request).map_err(|reason| refusal(reason, None, request))?;
        let id = id(request);
        Ok(Accepted {
            recipient: device,
            delivery_id: find(&payload, DELIVERY_ID).unwrap_or(&id).to_owned(),
            message_id: id.clone(),
            echo: Value::Null,
            reply: Reply::empty(200, "ok").with("apns-id", id),
        })
    }

    fn fault(&self, fault: &Fault, request: &Request) -> Option<Reply> {
        let (reason, _) = REASONS.iter().find(|(reason, _)| *reason == fault.code)?;
        Some(refusal(reason, fault.timestamp_ms, request))
    }

    fn code(&self, trouble: Trouble) -> Option<&'static str> {
        Some(match trouble {
            Trouble::Refused => "BadDeviceToken",
            Trouble::Dead => "Unregistered",
            Trouble::Busy => "TooManyRequests",
            Trouble::Down => "ServiceUnavailable",
        })
    }
}

fn refusal(reason: &'static str, timestamp_ms: Option<u64>, request: &Request) -> Reply {
    let status = REASONS.iter().find(|(known, _)| *known == reason).map_or(500, |(_, status)| *status);
    let mut body = json!({ "reason": reason });
    if status == 410 {
        let now = u64::try_from(Timestamp::now().as_millisecond()).unwrap_or_default();
        body["timestamp"] = json!(timestamp_ms.unwrap_or(now));
    }
    Reply::json(status, reason, &body).with("apns-id", id(request))
}

/// The client's id, or one of ours.
fn id(request: &Request) -> String {
    let given = request.header("apns-id").filter(|id| is_canonical_uuid(id));
    given.map_or_else(
        || {
            let hex = request.hex(32);
            [(0, 8), (8, 12), (12, 16), (16, 20), (20, 32)].map(|(from, to)| hex[from..to].to_owned()).join("-")
        },
        str::to_owned,
    )
}

/// 8-4-4-4-12 lower-case digits; Apple's own ids come in upper case too.
fn is_canonical_uuid(text: &str) -> bool {
    text.len() == 36
        && text
            .char_indices()
            .all(|(at, c)| if [8, 13, 18, 23].contains(&at) { c == '-' } else { c.is_ascii_hexdigit() })
}
