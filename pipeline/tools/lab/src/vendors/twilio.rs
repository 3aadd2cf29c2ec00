//! Twilio's Messages.
//!
//! Sources: `specs/twilio_messages.openapi.json`, `specs/twilio_error_codes.subset.json`; "Messages resource", "Track
//! outbound message status" and "Webhooks security", www.twilio.com/docs.

use std::collections::BTreeMap;

use base64::{Engine as _, prelude::BASE64_STANDARD};
use jiff::{Timestamp, fmt::rfc2822};
use ring::hmac;
use serde_json::{Value, json};
use url::form_urlencoded;

use super::sms;
use crate::{
    Accounts, Fate, StartError,
    callback::{Callback, Report},
    exchange::{Accepted, Api, Reply, Request, delivery_of},
    ledger::Call,
    script::{Fault, Trouble},
    spec::Spec,
};

/// Longest body, in characters.
const MAX_BODY: usize = 1600;

pub(crate) struct Twilio {
    accounts: Accounts,
    spec: Spec,
    words: BTreeMap<u64, String>,
}

impl Twilio {
    pub(crate) fn new(accounts: &Accounts) -> Result<Self, StartError> {
        let text = include_str!("../../specs/twilio_messages.openapi.json");
        let pointer = "/paths/~12010-04-01~1Accounts~1{AccountSid}~1Messages.json/post/requestBody/content/\
                       application~1x-www-form-urlencoded/schema";
        let spec = Spec::openapi("twilio", text, pointer, &["Tags"])?;
        let codes: Vec<Value> = serde_json::from_str(include_str!("../../specs/twilio_error_codes.subset.json"))
            .map_err(|e| StartError::Spec { name: "twilio's error codes", reason: e.to_string() })?;
        let entry = |code: &Value| Some((code["code"].as_u64()?, code["message"].as_str()?.to_owned()));
        let mut words: BTreeMap<u64, String> = codes.iter().filter_map(entry).collect();
        words.insert(20001, "Unknown parameters".to_owned());
        words.insert(20003, "Authenticate".to_owned());
        words.insert(20004, "Method not allowed".to_owned());
        Ok(Twilio { accounts: accounts.clone(), spec, words })
    }

    fn error(&self, code: u64, detail: &str) -> Reply {
        // The dictionary has no statuses; these are those of Twilio's API responses.
        let status = match code {
            20003 => 401,
            20004 => 405,
            20404 => 404,
            14107 | 20429 | 63038 => 429,
            20500 => 500,
            20503 => 503,
            _ => 400,
        };
        let words = self.words.get(&code).map_or("", String::as_str);
        let message = if detail.is_empty() { words.to_owned() } else { format!("{words}: {detail}") };
        let more_info = format!("https://www.twilio.com/docs/errors/{code}");
        let body = json!({ "code": code, "message": message, "more_info": more_info, "status": status });
        Reply::json(status, code.to_string(), &body)
    }

    fn judge(&self, request: &Request) -> Result<Value, Reply> {
        let account = self.accounts.twilio_account_sid.as_str();
        if request.path != format!("/2010-04-01/Accounts/{account}/Messages.json") {
            return Err(self.error(20404, "The requested resource was not found"));
        }
        if request.basic() != Some((account.to_owned(), self.accounts.twilio_auth_token.clone())) {
            return Err(self.error(20003, ""));
        }
        if request.method != hyper::Method::POST {
            return Err(self.error(20004, ""));
        }
        if request.media_type() != "application/x-www-form-urlencoded" {
            return Err(self.error(20001, "the body must be application/x-www-form-urlencoded"));
        }
        let message = self.spec.typed(&request.form());
        let text = |key: &str| message[key].as_str().unwrap_or_default();
        if text("To").is_empty() {
            return Err(self.error(21604, ""));
        }
        if let Some((place, why)) = self.spec.violation(&message) {
            let code = if place == "StatusCallback" { 21609 } else { 20001 };
            return Err(self.error(code, &format!("{place}: {why}")));
        }
        if !sms::is_e164(text("To")) {
            return Err(self.error(21211, ""));
        }
        match (text("From"), text("MessagingServiceSid")) {
            ("", "") => return Err(self.error(21603, "")),
            ("", _) => {}
            (from, _) if from == self.accounts.twilio_from => {}
            _ => return Err(self.error(21606, "")),
        }
        if text("Body").is_empty() && message["MediaUrl"].is_null() && message["ContentSid"].is_null() {
            return Err(self.error(21602, ""));
        }
        if text("Body").chars().count() > MAX_BODY {
            return Err(self.error(21617, ""));
        }
        match message["ValidityPeriod"].as_i64() {
            Some(..1) => Err(self.error(30012, "")),
            Some(36_001..) => Err(self.error(30013, "")),
            _ => Ok(message),
        }
    }
}

impl Api for Twilio {
    fn check(&self, request: &Request) -> Result<Accepted, Reply> {
        let message = self.judge(request)?;
        let account = &self.accounts.twilio_account_sid;
        let sid = format!("SM{}", request.hex(32));
        let now = rfc2822::to_string(&Timestamp::now().to_zoned(jiff::tz::TimeZone::UTC)).unwrap_or_default();
        let path = format!("/2010-04-01/Accounts/{account}/Messages/{sid}");
        let text = message["Body"].as_str().unwrap_or_default();
        let service = &message["MessagingServiceSid"];
        let body = json!({
            "account_sid": account, "api_version": "2010-04-01", "body": text, "date_created": now,
            "date_sent": null, "date_updated": now, "direction": "outbound-api", "error_code": null,
            "error_message": null, "from": message["From"], "messaging_service_sid": service, "num_media": "0",
            // With a messaging service, the number is not known yet.
            "num_segments": if service.is_null() { sms::parts(text).to_string() } else { "0".to_owned() },
            "price": null, "price_unit": null, "sid": sid,
            "status": if service.is_null() { "queued" } else { "accepted" },
            "subresource_uris": { "media": format!("{path}/Media.json") }, "to": message["To"],
            "uri": format!("{path}.json"),
        });
        let callback = message["StatusCallback"].as_str().unwrap_or_default();
        Ok(Accepted {
            recipient: message["To"].as_str().unwrap_or_default().to_owned(),
            delivery_id: delivery_of(callback).unwrap_or_default(),
            message_id: sid,
            echo: json!({ "from": message["From"], "callback": callback }),
            reply: Reply::json(201, "ok", &body),
        })
    }

    fn fault(&self, fault: &Fault, _: &Request) -> Option<Reply> {
        let code = fault.code.parse().ok()?;
        // 30xxx come in callbacks only.
        let known = self.words.contains_key(&code) && !(30_000..31_000).contains(&code);
        known.then(|| self.error(code, "").retry_after(fault))
    }

    fn code(&self, trouble: Trouble) -> Option<&'static str> {
        Some(match trouble {
            Trouble::Refused => "21408",
            Trouble::Dead => "21614",
            Trouble::Busy => "20429",
            Trouble::Down => "20503",
        })
    }
}

/// Status callbacks, where the request asked for them. The first status is in the answer and is not reported.
pub(crate) fn reports(call: &Call) -> Vec<Report> {
    if call.echo["callback"].as_str().is_none_or(str::is_empty) {
        return Vec::new();
    }
    match &call.fate {
        Fate::Undelivered(code) => {
            let code = code.as_deref().unwrap_or("30003");
            vec![Report::new("sent", None), Report::new("undelivered", Some(code))]
        }
        Fate::Delivered | Fate::Opened => vec![Report::new("sent", None), Report::new("delivered", None)],
    }
}

/// A form, signed over the address as the request gave it and all its fields, sorted.
pub(crate) fn callback(accounts: &Accounts, call: &Call, report: &Report) -> Callback {
    let address = call.echo["callback"].as_str().unwrap_or_default();
    let mut fields = BTreeMap::from([
        ("AccountSid", accounts.twilio_account_sid.as_str()),
        ("ApiVersion", "2010-04-01"),
        ("From", call.echo["from"].as_str().unwrap_or_default()),
        ("MessageSid", &call.message_id),
        ("MessageStatus", report.status),
        ("SmsSid", &call.message_id),
        ("SmsStatus", report.status),
        ("To", &call.recipient),
    ]);
    if let Some(code) = &report.code {
        fields.insert("ErrorCode", code);
    }
    let body = form_urlencoded::Serializer::new(String::new()).extend_pairs(&fields).finish();
    let signature = sign(&accounts.twilio_auth_token, address, &fields);
    Callback::new(call, crate::callback::path_of(address), "application/x-www-form-urlencoded", body)
        .with("x-twilio-signature", signature)
}

/// "Webhooks security": the address and all fields, sorted by name, without separators. SHA-1 is what Twilio says.
fn sign(auth_token: &str, address: &str, fields: &BTreeMap<&str, &str>) -> String {
    let signed = fields.iter().fold(address.to_owned(), |signed, (key, value)| signed + key + value);
    let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, auth_token.as_bytes());
    BASE64_STANDARD.encode(hmac::sign(&key, signed.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_signature_is_that_of_twilios_own_example() {
        let fields = BTreeMap::from([
            ("CallSid", "CA1234567890ABCDE"),
            ("Caller", "+12349013030"),
            ("Digits", "1234"),
            ("From", "+12349013030"),
            ("To", "+18005551212"),
        ]);
        let address = "https://mycompany.com/myapp.php?foo=1&bar=2";
        assert_eq!(sign("12345", address, &fields), "0/KCTR6DLpKmkAf8muzZqo1nDgQ=");
    }
}
