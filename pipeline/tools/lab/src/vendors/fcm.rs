//! Firebase Cloud Messaging, HTTP v1: `projects.messages.send`.
//!
//! Sources: `specs/fcm.v1.discovery.json`; "REST error codes for the HTTP v1 API",
//! firebase.google.com/docs/cloud-messaging/error-codes; "About FCM messages" for the limits.

use serde_json::{Value, json};

use super::oauth::Tokens;
use crate::{
    Accounts, StartError,
    exchange::{Accepted, Api, DELIVERY_ID, Reply, Request, find},
    script::{Fault, Trouble},
    spec::Spec,
};

/// Largest payload, in bytes; to a topic it is half.
const MAX_PAYLOAD: usize = 4096;
const MAX_PAYLOAD_TOPIC: usize = 2048;
/// Longest time to live: four weeks, in seconds.
const MAX_TTL: f64 = 2_419_200.0;

/// `errorCode`, status, canonical code, words.
const ERRORS: [(&str, u16, &str, &str); 8] = [
    ("INVALID_ARGUMENT", 400, "INVALID_ARGUMENT", "The registration token is not a valid FCM registration token"),
    ("THIRD_PARTY_AUTH_ERROR", 401, "UNAUTHENTICATED", "Request is missing required authentication credential."),
    ("UNAUTHENTICATED", 401, "UNAUTHENTICATED", "Request had invalid authentication credentials."),
    ("SENDER_ID_MISMATCH", 403, "PERMISSION_DENIED", "SenderId mismatch"),
    ("UNREGISTERED", 404, "NOT_FOUND", "Requested entity was not found."),
    ("QUOTA_EXCEEDED", 429, "RESOURCE_EXHAUSTED", "Quota exceeded for this device or project."),
    ("INTERNAL", 500, "INTERNAL", "Internal error encountered."),
    ("UNAVAILABLE", 503, "UNAVAILABLE", "The service is currently unavailable."),
];

pub(crate) struct Fcm {
    project: String,
    spec: Spec,
    tokens: Tokens,
}

impl Fcm {
    pub(crate) fn new(accounts: &Accounts, tokens: Tokens) -> Result<Self, StartError> {
        let text = include_str!("../../specs/fcm.v1.discovery.json");
        let spec = Spec::discovery("fcm", text, "SendMessageRequest")?;
        Ok(Fcm { project: accounts.fcm_project_id.clone(), spec, tokens })
    }

    fn judge(&self, request: &Request) -> Result<Value, Reply> {
        let project = request.path.strip_prefix("/v1/projects/").and_then(|path| path.strip_suffix("/messages:send"));
        let Some(project) = project.filter(|_| request.method == hyper::Method::POST) else {
            return Err(error(404, "NOT_FOUND", "Requested entity was not found.", None));
        };
        if !request.bearer().is_some_and(|token| self.tokens.valid(token)) {
            return Err(known("UNAUTHENTICATED"));
        }
        if project != self.project {
            let words = format!("Permission 'cloudmessaging.messages.create' denied on resource 'projects/{project}'");
            return Err(error(403, "PERMISSION_DENIED", &words, None));
        }
        if request.media_type() != "application/json" {
            return Err(bad("", "Request body must be JSON."));
        }
        let document: Value = serde_json::from_slice(&request.body)
            .map_err(|_| bad("", "Invalid JSON payload received. Unable to parse."))?;
        if let Some((place, why)) = self.spec.violation(&document) {
            return Err(bad(&place, &format!("Invalid value at '{place}': {why}")));
        }
        judge_message(&document["message"])?;
        Ok(document)
    }
}

/// What the schema does not say.
fn judge_message(message: &Value) -> Result<(), Reply> {
    let targets = ["token", "fid", "topic", "condition"];
    if targets.iter().filter(|target| message[**target].as_str().is_some_and(|to| !to.is_empty())).count() != 1 {
        return Err(bad("message", "Exactly one of the recipient fields must be set."));
    }
    for data in [&message["data"], &message["android"]["data"]] {
        let reserved = |key: &str| {
            ["from", "message_type"].contains(&key)
                || key.starts_with("google.")
                || key.starts_with("gcm.notification.")
        };
        if let Some(key) = data.as_object().and_then(|data| data.keys().find(|key| reserved(key))) {
            return Err(bad("message.data", &format!("Invalid data payload key: {key}")));
        }
    }
    if let Some(ttl) = message["android"]["ttl"].as_str() {
        let seconds = ttl.trim_end_matches('s').parse().unwrap_or(-1.0);
        if !(0.0..=MAX_TTL).contains(&seconds) {
            return Err(bad("message.android.ttl", "Invalid TTL: must be between 0 and 4 weeks."));
        }
    }
    let parts =
        [&message["data"], &message["notification"], &message["android"]["data"], &message["android"]["notification"]];
    let size: usize = parts.iter().filter(|part| !part.is_null()).map(|part| part.to_string().len()).sum();
    let most = if message["topic"].is_null() { MAX_PAYLOAD } else { MAX_PAYLOAD_TOPIC };
    if size > most {
        // The code of a bad token too; only the words tell them apart.
        let words = "Android message is too big";
        return Err(error(400, "INVALID_ARGUMENT", words, Some(fcm_error("INVALID_ARGUMENT"))));
    }
    Ok(())
}

impl Api for Fcm {
    fn check(&self, request: &Request) -> Result<Accepted, Reply> {
        let document = self.judge(request)?;
        let message = &document["message"];
        let recipient = ["token", "fid", "topic", "condition"].iter().find_map(|target| message[*target].as_str());
        let name = format!("projects/{}/messages/0:{}", self.project, request.hex(24));
        Ok(Accepted {
            recipient: recipient.unwrap_or_default().to_owned(),
            delivery_id: find(message, DELIVERY_ID).unwrap_or_default().to_owned(),
            message_id: name.clone(),
            echo: Value::Null,
            reply: Reply::json(200, "ok", &json!({ "name": name })),
        })
    }

    fn fault(&self, fault: &Fault, _: &Request) -> Option<Reply> {
        let reply = match fault.code.as_str() {
            // Google's front end speaks HTML where there is no FCM behind it.
            "502" => Reply::text(502, "502", "<!DOCTYPE html><title>Error 502 (Server Error)!!1</title>"),
            code => known(ERRORS.iter().find(|(known, ..)| *known == code)?.0),
        };
        Some(reply.retry_after(fault))
    }

    fn code(&self, trouble: Trouble) -> Option<&'static str> {
        Some(match trouble {
            Trouble::Refused => "INVALID_ARGUMENT",
            Trouble::Dead => "UNREGISTERED",
            Trouble::Busy => "QUOTA_EXCEEDED",
            Trouble::Down => "UNAVAILABLE",
        })
    }
}

/// The error of an `errorCode`. Google's own layers before FCM have none.
fn known(code: &'static str) -> Reply {
    let (_, status, canonical, words) = ERRORS.into_iter().find(|(known, ..)| *known == code).unwrap_or(ERRORS[6]);
    let detail = (code != "UNAUTHENTICATED").then(|| fcm_error(code));
    Reply { code: code.to_owned(), ..error(status, canonical, words, detail) }
}

/// The detail that holds an `errorCode`.
fn fcm_error(code: &str) -> Value {
    json!({ "@type": "type.googleapis.com/google.firebase.fcm.v1.FcmError", "errorCode": code })
}

/// The request itself is wrong.
fn bad(field: &str, words: &str) -> Reply {
    let detail = json!({
        "@type": "type.googleapis.com/google.rpc.BadRequest",
        "fieldViolations": [{ "field": field, "description": words }],
    });
    error(400, "INVALID_ARGUMENT", words, Some(detail))
}

fn error(status: u16, canonical: &str, words: &str, detail: Option<Value>) -> Reply {
    let mut error = json!({ "code": status, "message": words, "status": canonical });
    if let Some(detail) = detail {
        error["details"] = json!([detail]);
    }
    Reply::json(status, canonical, &json!({ "error": error }))
}
