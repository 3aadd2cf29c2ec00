//! Vonage's SMS API.
//!
//! Sources: `specs/vonage_sms.openapi.json`; "Troubleshooting SMS", "Delivery receipts" and "Signing messages",
//! developer.vonage.com. The answer is always 200; the body says what came of each part.

use std::collections::BTreeMap;

use jiff::Timestamp;
use ring::hmac;
use serde_json::{Value, json};

use super::sms;
use crate::{
    Accounts, Fate, StartError,
    callback::{Callback, Report, path_of},
    exchange::{Accepted, Api, Reply, Request, delivery_of, hex},
    ledger::Call,
    script::{Fault, Trouble},
    spec::Spec,
};

const STATUSES: [(&str, &str); 17] = [
    ("1", "Throughput Rate Exceeded - please wait [ 250 ] and retry"),
    ("2", "Missing parameters"),
    ("3", "Invalid value for parameter"),
    ("4", "Bad Credentials"),
    ("5", "Internal Error"),
    ("6", "Unroutable message - rejected"),
    ("7", "Number barred"),
    ("8", "Partner account barred"),
    ("9", "Quota Exceeded - rejected"),
    ("10", "Too many existing binds"),
    ("11", "Account not enabled for REST"),
    ("12", "Message too long"),
    ("14", "Invalid Signature"),
    ("15", "Illegal Sender Address - rejected"),
    ("22", "Invalid Network Code"),
    ("29", "Non White-listed Destination - rejected"),
    ("34", "Invalid or Missing Msisdn Param"),
];

pub(crate) struct Vonage {
    accounts: Accounts,
    spec: Spec,
}

impl Vonage {
    pub(crate) fn new(accounts: &Accounts) -> Result<Self, StartError> {
        let text = include_str!("../../specs/vonage_sms.openapi.json");
        let spec = Spec::openapi("vonage", text, "/components/schemas/NewMessage", &[])?;
        Ok(Vonage { accounts: accounts.clone(), spec })
    }

    fn judge(&self, request: &Request) -> Result<Value, Reply> {
        if request.path != "/sms/json" || request.method != hyper::Method::POST {
            return Err(Reply::empty(404, "404"));
        }
        if request.media_type() != "application/x-www-form-urlencoded" {
            return Err(error("3", "Invalid value for parameter: the body must be application/x-www-form-urlencoded"));
        }
        let message = self.spec.typed(&request.form());
        let text = |key: &str| message[key].as_str().unwrap_or_default();
        for key in ["api_key", "api_secret", "from", "to"] {
            if text(key).is_empty() {
                return Err(error("2", &format!("Missing {key} param")));
            }
        }
        let kind = message["type"].as_str().unwrap_or("text");
        let content = if kind == "binary" { "body" } else { "text" };
        if text(content).is_empty() {
            return Err(error("2", &format!("Missing {content} param")));
        }
        let credentials = (text("api_key"), text("api_secret"));
        if credentials != (self.accounts.vonage_api_key.as_str(), self.accounts.vonage_api_secret.as_str()) {
            return Err(error("4", "Bad Credentials"));
        }
        let invalid = |place: &str, why: &str| Err(error("3", &format!("Invalid value for parameter: {place}: {why}")));
        if let Some((place, why)) = self.spec.violation(&message) {
            return invalid(&place, &why);
        }
        if !sms::is_e164(&format!("+{}", text("to"))) {
            return invalid("to", "E.164, without the plus sign");
        }
        for (key, most) in [("client-ref", 100), ("callback", 100)] {
            if text(key).len() > most {
                return invalid(key, "at most 100 characters");
            }
        }
        // Vonage would replace the characters and say nothing; the documentation says to use `unicode`.
        if kind == "text" && !sms::is_gsm7(text("text")) {
            return invalid("type", "unicode is needed for this text");
        }
        Ok(message)
    }
}

impl Api for Vonage {
    fn check(&self, request: &Request) -> Result<Accepted, Reply> {
        let message = self.judge(request)?;
        let text = |key: &str| message[key].as_str().unwrap_or_default();
        let parts = if text("type") == "binary" { 1 } else { sms::parts(text("text")) };
        let id = |part: usize| format!("{}{part:02X}", request.hex(14).to_uppercase());
        let messages: Vec<Value> = (0..parts)
            .map(|part| {
                let mut message_part = json!({
                    "to": text("to"), "message-id": id(part), "status": "0", "remaining-balance": "3.14159265",
                    "message-price": "0.03330000", "network": "12345",
                });
                for key in ["client-ref", "account-ref"] {
                    if !message[key].is_null() {
                        message_part[key] = message[key].clone();
                    }
                }
                message_part
            })
            .collect();
        // A reference that says more ends with the delivery, after a dot.
        let reference = text("client-ref").rsplit('.').next().unwrap_or_default();
        let delivery_id = delivery_of(text("callback")).unwrap_or_else(|| reference.to_owned());
        let echo = json!({
            "from": text("from"), "callback": text("callback"), "client-ref": message["client-ref"],
            "silent": message["status-report-req"] == false, "parts": (0..parts).map(id).collect::<Vec<_>>(),
        });
        let body = json!({ "message-count": parts.to_string(), "messages": messages });
        Ok(Accepted {
            recipient: text("to").to_owned(),
            delivery_id,
            message_id: id(0),
            echo,
            reply: Reply::json(200, "ok", &body),
        })
    }

    fn fault(&self, fault: &Fault, _: &Request) -> Option<Reply> {
        let (status, words) = STATUSES.iter().find(|(status, _)| *status == fault.code)?;
        Some(error(status, words))
    }

    fn code(&self, trouble: Trouble) -> Option<&'static str> {
        Some(match trouble {
            Trouble::Refused => "6",
            Trouble::Dead => "7",
            Trouble::Busy => "1",
            Trouble::Down => "5",
        })
    }
}

fn error(status: &str, words: &str) -> Reply {
    let body = json!({ "message-count": "1", "messages": [{ "status": status, "error-text": words }] });
    Reply::json(200, status, &body)
}

/// Delivery receipts for each part, unless the request asked for none.
pub(crate) fn reports(call: &Call) -> Vec<Report> {
    let steps: Vec<Report> = match &call.fate {
        _ if call.echo["silent"] == true => Vec::new(),
        Fate::Undelivered(code) => vec![Report::new("failed", Some(code.as_deref().unwrap_or("1")))],
        Fate::Delivered | Fate::Opened => vec![Report::new("buffered", None), Report::new("delivered", None)],
    };
    let parts = call.echo["parts"].as_array().into_iter().flatten().filter_map(Value::as_str);
    parts.flat_map(|part| steps.iter().map(|step| Report { part: part.to_owned(), ..step.clone() })).collect()
}

/// JSON, with the signature of all its fields among them: HMAC-SHA-256, the method that Vonage recommends.
pub(crate) fn callback(accounts: &Accounts, call: &Call, report: &Report, now: Timestamp) -> Callback {
    let zoned = now.to_zoned(jiff::tz::TimeZone::UTC);
    let mut fields: BTreeMap<&str, String> = [
        ("api-key", accounts.vonage_api_key.clone()),
        ("err-code", report.code.clone().unwrap_or_else(|| "0".to_owned())),
        ("message-timestamp", zoned.strftime("%Y-%m-%d %H:%M:%S").to_string()),
        ("messageId", report.part.clone()),
        ("msisdn", call.recipient.clone()),
        ("network-code", "12345".to_owned()),
        ("nonce", format!("{}-{}", report.part, report.status)),
        ("price", "0.03330000".to_owned()),
        ("scts", zoned.strftime("%y%m%d%H%M").to_string()),
        ("status", report.status.to_owned()),
        ("timestamp", now.as_second().to_string()),
        ("to", call.echo["from"].as_str().unwrap_or_default().to_owned()),
    ]
    .into();
    if let Some(reference) = call.echo["client-ref"].as_str() {
        fields.insert("client-ref", reference.to_owned());
    }
    let clean = |value: &str| value.replace(['&', '='], "_");
    let signed = fields.iter().fold(String::new(), |signed, (key, value)| signed + "&" + key + "=" + &clean(value));
    let key = hmac::Key::new(hmac::HMAC_SHA256, accounts.vonage_signature_secret.as_bytes());
    fields.insert("sig", hex(hmac::sign(&key, signed.as_bytes()).as_ref()).to_uppercase());
    let own = call.echo["callback"].as_str().filter(|address| !address.is_empty());
    Callback::new(call, own.and_then(path_of), "application/json", json!(fields).to_string())
}
