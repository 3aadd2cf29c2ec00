//! Twilio SendGrid's Mail Send, v3, and its Event Webhook.
//!
//! Sources: `specs/sendgrid_mail_v3.openapi.json`; "Event Webhook Reference" and "Getting Started with the Event
//! Webhook Security Features", www.twilio.com/docs/sendgrid. Messages with several recipients are known by the first.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use jiff::Timestamp;
use ring::{digest, rand::SystemRandom, signature::EcdsaKeyPair};
use serde_json::{Map, Value, json};

use crate::{
    Accounts, Fate, StartError,
    callback::{Callback, Report},
    exchange::{Accepted, Api, DELIVERY_ID, Reply, Request},
    ledger::Call,
    script::{Fault, Trouble},
    spec::Spec,
};

/// Largest message, in bytes.
const MAX_BODY: usize = 30 * 1024 * 1024;
/// Most recipients of a request.
const MAX_RECIPIENTS: usize = 1000;
/// Largest custom arguments, in bytes.
const MAX_CUSTOM_ARGS: usize = 10_000;
/// Headers that a request may not set.
const RESERVED: [&str; 12] = [
    "x-sg-id",
    "x-sg-eid",
    "received",
    "dkim-signature",
    "content-type",
    "content-transfer-encoding",
    "to",
    "from",
    "subject",
    "reply-to",
    "cc",
    "bcc",
];
const ERRORS: [(u16, &str); 10] = [
    (400, "invalid request"),
    (401, "authorization required"),
    (403, "access forbidden"),
    (404, "not found"),
    (405, "method not allowed"),
    (413, "content too large"),
    (415, "unsupported media type"),
    (429, "too many requests"),
    (500, "internal server error"),
    (503, "service unavailable"),
];

pub(crate) struct SendGrid {
    api_key: String,
    from: String,
    spec: Spec,
}

impl SendGrid {
    pub(crate) fn new(accounts: &Accounts) -> Result<Self, StartError> {
        let text = include_str!("../../specs/sendgrid_mail_v3.openapi.json");
        let pointer = "/components/requestBodies/PostMailSend/content/application~1json/schema";
        let spec = Spec::openapi("sendgrid", text, pointer, &[])?;
        Ok(SendGrid { api_key: accounts.sendgrid_api_key.clone(), from: accounts.mail_from.clone(), spec })
    }

    fn judge(&self, request: &Request) -> Result<Value, Reply> {
        if request.path != "/v3/mail/send" {
            return Err(error(404, None, ""));
        }
        if request.method != hyper::Method::POST {
            return Err(error(405, None, ""));
        }
        match request.bearer() {
            None => return Err(error(401, None, "")),
            Some(key) if key != self.api_key => {
                return Err(error(401, None, "The provided authorization grant is invalid, expired, or revoked"));
            }
            Some(_) => {}
        }
        if request.body.len() > MAX_BODY {
            return Err(error(413, None, ""));
        }
        if request.media_type() != "application/json" {
            return Err(error(415, None, "Content-Type should be application/json."));
        }
        let mail: Value = serde_json::from_slice(&request.body).map_err(|_| error(400, None, "Bad Request"))?;
        if let Some((place, why)) = self.spec.violation(&mail) {
            return Err(error(400, Some(&place), &why));
        }
        if !mail["from"]["email"].as_str().is_some_and(|from| from.eq_ignore_ascii_case(&self.from)) {
            let words = "The from address does not match a verified Sender Identity.";
            return Err(error(403, Some("from"), words));
        }
        judge_mail(&mail).map_err(|(field, words)| error(400, Some(&field), words))?;
        Ok(mail)
    }
}

/// What the schema says in words only.
fn judge_mail(mail: &Value) -> Result<(), (String, &'static str)> {
    let empty = Vec::new();
    let envelopes = mail["personalizations"].as_array().unwrap_or(&empty);
    if envelopes.is_empty() {
        return Err((
            "personalizations".into(),
            "The personalizations field is required and must have at least one personalization.",
        ));
    }
    let mut recipients = 0;
    for (at, envelope) in envelopes.iter().enumerate() {
        let place = |field: &str| format!("personalizations.{at}.{field}");
        let to = envelope["to"].as_array().unwrap_or(&empty);
        if to.is_empty() {
            return Err((
                place("to"),
                "The to array is required for all personalization objects, and must have at least one email object with a valid email address.",
            ));
        }
        recipients +=
            ["to", "cc", "bcc"].iter().filter_map(|field| envelope[*field].as_array()).map(Vec::len).sum::<usize>();
        if mail["subject"].is_null() && envelope["subject"].is_null() && mail["template_id"].is_null() {
            return Err(("subject".into(), "The subject is required."));
        }
        judge_headers(&envelope["headers"]).map_err(|words| (place("headers"), words))?;
        let arguments = &envelope["custom_args"];
        if !arguments.is_null() && arguments.to_string().len() > MAX_CUSTOM_ARGS {
            return Err((place("custom_args"), "The custom_args may not exceed 10000 bytes."));
        }
        if arguments.as_object().is_some_and(|members| members.values().any(|value| !value.is_string())) {
            return Err((place("custom_args"), "Custom arg values must be strings."));
        }
    }
    if recipients > MAX_RECIPIENTS {
        return Err(("personalizations".into(), "At most 1000 recipients."));
    }
    judge_headers(&mail["headers"]).map_err(|words| ("headers".to_owned(), words))?;
    let kinds: Vec<&str> =
        mail["content"].as_array().unwrap_or(&empty).iter().filter_map(|part| part["type"].as_str()).collect();
    if kinds.is_empty() && mail["template_id"].is_null() {
        return Err(("content".into(), "Unless a valid template_id is provided, the content parameter is required."));
    }
    // text/plain first, then text/html, then the others.
    let rank = |kind: &&str| ["text/plain", "text/html"].iter().position(|known| known == kind).unwrap_or(2);
    if !kinds.iter().map(rank).is_sorted() {
        return Err((
            "content".into(),
            "If present, text/plain must be first, followed by text/html, followed by any other content.",
        ));
    }
    Ok(())
}

fn judge_headers(headers: &Value) -> Result<(), &'static str> {
    for (name, value) in headers.as_object().into_iter().flatten() {
        if RESERVED.contains(&name.to_ascii_lowercase().as_str()) {
            return Err("A reserved header may not be set.");
        }
        if value.as_str().is_none_or(|value| value.contains(['\r', '\n'])) {
            return Err("Header values must be strings on one line.");
        }
    }
    Ok(())
}

impl Api for SendGrid {
    fn check(&self, request: &Request) -> Result<Accepted, Reply> {
        let mail = self.judge(request)?;
        let envelope = &mail["personalizations"][0];
        // A personalization's arguments override those of the mail, which are a string of JSON.
        let common = mail["custom_args"].as_str().and_then(|text| serde_json::from_str(text).ok());
        let mut arguments: Map<String, Value> = common.unwrap_or_default();
        arguments.extend(envelope["custom_args"].as_object().cloned().unwrap_or_default());
        let headers = [&envelope["headers"], &mail["headers"]];
        let own = headers.into_iter().filter_map(Value::as_object).flatten();
        let own = own.filter(|(name, _)| name.eq_ignore_ascii_case("message-id")).find_map(|(_, value)| value.as_str());
        let id = request.hex(22);
        let echo = json!({
            "args": arguments, "categories": mail["categories"],
            "smtp-id": own.map_or_else(|| format!("<{id}@geopod-ismtpd-lab>"), str::to_owned),
        });
        Ok(Accepted {
            recipient: envelope["to"][0]["email"].as_str().unwrap_or_default().to_owned(),
            delivery_id: echo["args"][DELIVERY_ID].as_str().unwrap_or_default().to_owned(),
            message_id: id.clone(),
            echo,
            reply: Reply::empty(202, "ok").with("x-message-id", id),
        })
    }

    fn fault(&self, fault: &Fault, _: &Request) -> Option<Reply> {
        let status = fault.code.parse().ok()?;
        ERRORS.iter().find(|(known, _)| *known == status)?;
        let reply = error(status, None, "");
        if status != 429 {
            return Some(reply);
        }
        // The moment the window ends, in seconds since 1970. What is no number stays as it is.
        let reset = fault.retry_after.as_deref().map_or_else(
            || (Timestamp::now().as_second() + 60).to_string(),
            |delay| {
                delay
                    .parse::<i64>()
                    .map_or_else(|_| delay.to_owned(), |s| (Timestamp::now().as_second() + s).to_string())
            },
        );
        Some(reply.with("x-ratelimit-limit", "600").with("x-ratelimit-remaining", "0").with("x-ratelimit-reset", reset))
    }

    fn code(&self, trouble: Trouble) -> Option<&'static str> {
        match trouble {
            // SendGrid learns from the recipient's server, later.
            Trouble::Refused | Trouble::Dead => None,
            Trouble::Busy => Some("429"),
            Trouble::Down => Some("503"),
        }
    }
}

fn error(status: u16, field: Option<&str>, words: &str) -> Reply {
    let usual = ERRORS.iter().find(|(known, _)| *known == status).map_or("", |(_, words)| *words);
    let message = if words.is_empty() { usual } else { words };
    let body = json!({ "errors": [{ "message": message, "field": field, "help": null }] });
    Reply::json(status, status.to_string(), &body)
}

/// Events, in their natural order.
pub(crate) fn reports(call: &Call) -> Vec<Report> {
    let step = |event| Report::new(event, None);
    match &call.fate {
        Fate::Delivered => vec![step("processed"), step("delivered")],
        Fate::Opened => vec![step("processed"), step("delivered"), step("open"), step("click")],
        Fate::Undelivered(code) => vec![step("processed"), Report::new("bounce", code.as_deref())],
    }
}

/// A JSON array of events, signed over the timestamp and the body, its last line break included.
pub(crate) fn callback(key: &EcdsaKeyPair, events: &[(Call, Report)], now: Timestamp) -> Option<Callback> {
    let (first, _) = events.first()?;
    let list: Vec<Value> = events.iter().map(|(call, report)| event(call, report, now)).collect();
    let body = format!("{}\r\n", json!(list));
    let timestamp = now.as_second().to_string();
    let signature = key.sign(&SystemRandom::new(), format!("{timestamp}{body}").as_bytes()).ok()?;
    let callback = Callback::new(first, None, "application/json", body)
        .with("x-twilio-email-event-webhook-signature", BASE64_STANDARD.encode(signature))
        .with("x-twilio-email-event-webhook-timestamp", timestamp);
    Some(callback)
}

fn event(call: &Call, report: &Report, now: Timestamp) -> Value {
    let id = digest::digest(&digest::SHA256, format!("{}/{}", call.message_id, report.status).as_bytes());
    let mut event = json!({
        "email": call.recipient, "timestamp": now.as_second(), "event": report.status,
        "sg_event_id": BASE64_STANDARD.encode(&id.as_ref()[..15]),
        "sg_message_id": format!("{}.recvd-lab-1-0.0", call.message_id),
        "smtp-id": call.echo["smtp-id"],
    });
    let more = match report.status {
        "delivered" => json!({ "response": "250 OK", "tls": 1 }),
        "bounce" => json!({
            "reason": "550 5.1.1 The email account that you tried to reach does not exist.",
            "status": report.code.as_deref().unwrap_or("5.1.1"), "type": "bounce",
            "bounce_classification": "Invalid Address", "tls": 1,
        }),
        "open" => json!({ "useragent": "Mozilla/5.0", "ip": "192.0.2.7", "sg_machine_open": false }),
        "click" => json!({ "useragent": "Mozilla/5.0", "ip": "192.0.2.7", "url": "https://example.com/" }),
        _ => json!({}),
    };
    let category = json!({ "category": call.echo["categories"] });
    let category = if call.echo["categories"].is_null() { json!({}) } else { category };
    // Custom arguments stand among the event's own members, and do not replace them.
    let members = [&more, &category, &call.echo["args"]].into_iter().filter_map(Value::as_object).flatten();
    for (name, value) in members {
        if event[name.as_str()].is_null() {
            event[name.as_str()] = value.clone();
        }
    }
    event
}
