//! Mailgun's Messages, v3, and its webhooks.
//!
//! Sources: `specs/mailgun_messages.openapi.json`; "Webhook payloads" and "Securing webhooks",
//! documentation.mailgun.com.

use futures::{FutureExt as _, stream};
use jiff::Timestamp;
use ring::hmac;
use serde_json::{Map, Value, json};

use crate::{
    Accounts, Fate, StartError,
    callback::{Callback, Report},
    exchange::{Accepted, Api, DELIVERY_ID, Reply, Request, hex},
    ledger::Call,
    script::{Fault, Trouble},
    spec::Spec,
};

/// Largest message, in bytes.
const MAX_BODY: usize = 25 * 1024 * 1024;
/// Largest options, headers and variables together, in bytes.
const MAX_OPTIONS: usize = 16 * 1024;
/// Fields at most.
const MAX_FIELDS: usize = 2000;

pub(crate) struct Mailgun {
    accounts: Accounts,
    spec: Spec,
}

impl Mailgun {
    pub(crate) fn new(accounts: &Accounts) -> Result<Self, StartError> {
        let text = include_str!("../../specs/mailgun_messages.openapi.json");
        let pointer = "/components/schemas/POST-v3-domain_name-messages-multipart-form-data-RequestBody";
        Ok(Mailgun { accounts: accounts.clone(), spec: Spec::openapi("mailgun", text, pointer, &[])? })
    }

    fn judge(&self, request: &Request) -> Result<(Value, Vec<(String, String)>), Reply> {
        let domain = request.path.strip_prefix("/v3/").and_then(|path| path.strip_suffix("/messages"));
        let Some(domain) = domain.filter(|_| request.method == hyper::Method::POST) else {
            return Err(error(404, "Not Found"));
        };
        if request.basic() != Some(("api".to_owned(), self.accounts.mailgun_api_key.clone())) {
            return Err(Reply::json(401, "401", &json!("Forbidden")));
        }
        if domain != self.accounts.mailgun_domain {
            return Err(error(404, &format!("Domain not found: {domain}")));
        }
        if request.body.len() > MAX_BODY {
            return Err(error(413, "Request Entity Too Large"));
        }
        let fields = read(request).ok_or_else(|| error(400, "The body must be multipart/form-data."))?;
        let mail = self.spec.typed(&fields);
        for (key, words) in [("from", "from parameter is missing"), ("to", "to parameter is missing")] {
            if mail[key].is_null() {
                return Err(error(400, words));
            }
        }
        if let Some((place, why)) = self.spec.violation(&mail) {
            return Err(error(400, &format!("{place}: {why}")));
        }
        // Mailgun would ignore the field, and the mistake would stay hidden.
        let known = |name: &str| self.spec.names(name) || name.starts_with("h:") || name.starts_with("v:");
        if let Some((name, _)) = fields.iter().find(|(name, _)| !known(name)) {
            return Err(error(400, &format!("{name}: no such parameter")));
        }
        for key in ["from", "to", "cc", "bcc"] {
            let right = |text: &str| text.split(',').all(|one| address(one).is_some());
            if fields.iter().any(|(name, text)| name == key && !right(text)) {
                return Err(error(400, &format!("{key} parameter is not a valid address. please check documentation")));
            }
        }
        if ["text", "html", "amp-html", "template"].iter().all(|key| mail[*key].as_str().unwrap_or_default().is_empty())
        {
            return Err(error(
                400,
                "Need at least one of 'text', 'html', 'amp-html' or 'template' parameters specified",
            ));
        }
        if !mail["html"].is_null() && !mail["template"].is_null() {
            return Err(error(400, "Only one parameters 'html' or 'template' is allowed."));
        }
        let options = |name: &str| ["o:", "h:", "v:"].iter().any(|prefix| name.starts_with(prefix));
        let size: usize =
            fields.iter().filter(|(name, _)| options(name)).map(|(name, text)| name.len() + text.len()).sum();
        if size > MAX_OPTIONS {
            let words = "Send options (parameters starting with o:, h:, or v:) are limited to 16KB total";
            return Err(error(400, words));
        }
        Ok((mail, fields))
    }
}

/// The fields of `multipart/form-data`, in order.
fn read(request: &Request) -> Option<Vec<(String, String)>> {
    let boundary = multer::parse_boundary(request.header("content-type")?).ok()?;
    let body = stream::iter([Ok::<_, std::io::Error>(request.body.clone())]);
    let mut form = multer::Multipart::new(body, boundary);
    let all = async {
        let mut fields = Vec::new();
        while let Some(field) = form.next_field().await.ok()? {
            let name = field.name()?.to_owned();
            // Attachments are not looked into.
            let text = if field.file_name().is_some() { String::new() } else { field.text().await.ok()? };
            fields.push((name, text));
            if fields.len() > MAX_FIELDS {
                return None;
            }
        }
        Some(fields)
    };
    // The body is here: nothing waits.
    all.now_or_never()?
}

/// The mailbox of `ada@example.com` or `Ada <ada@example.com>`.
fn address(text: &str) -> Option<&str> {
    let bare = text.trim();
    let bare = bare.strip_suffix('>').map_or(Some(bare), |inner| inner.rsplit_once('<').map(|(_, bare)| bare))?;
    let (local, domain) = bare.rsplit_once('@')?;
    let right = !local.is_empty() && domain.contains('.') && !bare.contains(char::is_whitespace);
    right.then_some(bare)
}

impl Api for Mailgun {
    fn check(&self, request: &Request) -> Result<Accepted, Reply> {
        let (mail, fields) = self.judge(request)?;
        let prefixed = |prefix: &'static str| {
            fields.iter().filter_map(move |(name, text)| Some((name.strip_prefix(prefix)?, text)))
        };
        let variables: Map<String, Value> = prefixed("v:").map(|(name, text)| (name.to_owned(), json!(text))).collect();
        let own = prefixed("h:").find(|(name, _)| name.eq_ignore_ascii_case("message-id")).map(|(_, id)| id.clone());
        let made = || format!("<{}@{}>", request.hex(32), self.accounts.mailgun_domain);
        let id = own.unwrap_or_else(made);
        let to = mail["to"][0].as_str().and_then(|to| address(to.split(',').next()?)).unwrap_or_default();
        Ok(Accepted {
            recipient: to.to_owned(),
            delivery_id: variables.get(DELIVERY_ID).and_then(Value::as_str).unwrap_or_default().to_owned(),
            message_id: id.clone(),
            echo: json!({ "from": mail["from"], "subject": mail["subject"], "tags": mail["o:tag"], "variables": variables }),
            reply: Reply::json(200, "ok", &json!({ "id": id, "message": "Queued. Thank you." })),
        })
    }

    fn fault(&self, fault: &Fault, _: &Request) -> Option<Reply> {
        let domain = &self.accounts.mailgun_domain;
        Some(match fault.code.as_str() {
            "400" => error(400, "to parameter is not a valid address. please check documentation"),
            "401" => Reply::json(401, "401", &json!("Forbidden")),
            "403" => error(403, &format!("Domain {domain} is not allowed to send: The domain is unverified")),
            "404" => error(404, &format!("Domain not found: {domain}")),
            "429" => {
                let delay = fault.retry_after.as_deref().unwrap_or("120");
                let words = "account-requests-per-sec limit exceeded, try again after";
                error(429, &format!("Domain {domain} is not allowed to send: {words} {delay} seconds"))
            }
            "500" => error(500, "Internal Server Error"),
            "502" => Reply::text(502, "502", "<html><head><title>502 Bad Gateway</title></head></html>"),
            "503" => error(503, "Service Unavailable"),
            _ => return None,
        })
    }

    fn code(&self, trouble: Trouble) -> Option<&'static str> {
        match trouble {
            // Mailgun learns from the recipient's server, later.
            Trouble::Refused | Trouble::Dead => None,
            Trouble::Busy => Some("429"),
            Trouble::Down => Some("503"),
        }
    }
}

fn error(status: u16, words: &str) -> Reply {
    Reply::json(status, status.to_string(), &json!({ "message": words }))
}

/// Events, in their natural order.
pub(crate) fn reports(call: &Call) -> Vec<Report> {
    let step = |event| Report::new(event, None);
    match &call.fate {
        Fate::Delivered => vec![step("accepted"), step("delivered")],
        Fate::Opened => vec![step("accepted"), step("delivered"), step("opened"), step("clicked")],
        Fate::Undelivered(code) => vec![step("accepted"), Report::new("failed", code.as_deref())],
    }
}

/// JSON with the signature in it: an HMAC over timestamp and token, which is another for every event.
pub(crate) fn callback(accounts: &Accounts, call: &Call, report: &Report, now: Timestamp) -> Callback {
    // Messages may share a Message-Id: those that were sent again.
    let hash = |what: &str| {
        let text = format!("{}/{}/{:?}/{}/{what}", call.message_id, call.recipient, call.at, report.status);
        hex(ring::digest::digest(&ring::digest::SHA256, text.as_bytes()).as_ref())
    };
    let token = &hash("token")[..50];
    let timestamp = now.as_second().to_string();
    let key = hmac::Key::new(hmac::HMAC_SHA256, accounts.mailgun_signing_key.as_bytes());
    let signature = hex(hmac::sign(&key, format!("{timestamp}{token}").as_bytes()).as_ref());
    let domain = call.recipient.split('@').next_back().unwrap_or_default();
    let mut event = json!({
        "account": { "id": "lab" }, "domain": { "name": accounts.mailgun_domain },
        "id": &hash("id")[..22],
        "event": report.status, "timestamp": now.as_microsecond() as f64 / 1e6, "log-level": "info",
        "recipient": call.recipient, "recipient-domain": domain,
        "envelope": { "sender": accounts.mail_from, "targets": call.recipient, "transport": "smtp" },
        "flags": { "is-routed": false, "is-authenticated": true, "is-system-test": false, "is-test-mode": false },
        "message": {
            "headers": {
                "from": call.echo["from"], "to": call.recipient, "subject": call.echo["subject"],
                "message-id": call.message_id.trim_matches(['<', '>']),
            },
            "attachments": [], "size": 341,
        },
        "tags": if call.echo["tags"].is_null() { json!([]) } else { call.echo["tags"].clone() },
        "user-variables": call.echo["variables"],
    });
    let more = match report.status {
        "delivered" => json!({ "delivery-status": {
            "attempt-no": 1, "certificate-verified": true, "code": 250, "description": "", "message": "OK",
            "mx-host": format!("mx.{domain}"), "session-seconds": 0.4, "tls": true,
        } }),
        "failed" => json!({ "severity": "permanent", "reason": "bounce", "log-level": "error", "delivery-status": {
            "attempt-no": 1, "code": report.code.as_deref().and_then(|code| code.parse().ok()).unwrap_or(550),
            "description": "", "message": "5.1.1 The email account that you tried to reach does not exist.",
            "bounce-code": "5.1.1", "bounce-type": "hard", "mx-host": format!("mx.{domain}"), "tls": true,
        } }),
        "opened" | "clicked" => json!({
            "ip": "192.0.2.7", "url": "https://example.com/",
            "client-info": { "bot": "", "client-name": "Firefox", "client-os": "Linux", "client-type": "browser",
                "device-type": "desktop", "user-agent": "Mozilla/5.0" },
            "geolocation": { "city": "Unknown", "country": "Unknown", "region": "Unknown" },
        }),
        _ => json!({ "method": "HTTP" }),
    };
    for (name, value) in more.as_object().into_iter().flatten() {
        event[name.as_str()] = value.clone();
    }
    let body = json!({
        "signature": { "timestamp": timestamp, "token": token, "signature": signature }, "event-data": event,
    });
    Callback::new(call, None, "application/json", body.to_string())
}
