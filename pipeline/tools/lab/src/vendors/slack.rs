//! Slack's incoming webhooks.
//!
//! Sources: "Sending messages using incoming webhooks", docs.slack.dev; "Improving error conditions for Incoming
//! Webhooks", api.slack.com/changelog/2016-05-17-changes-to-errors-for-incoming-webhooks.

use serde_json::Value;

use crate::{
    Accounts,
    exchange::{Accepted, Api, DELIVERY_ID, Reply, Request, find},
    script::{Fault, Trouble},
};

const ERRORS: [(&str, u16); 11] = [
    ("invalid_payload", 400),
    ("user_not_found", 400),
    ("no_text", 400),
    ("invalid_blocks", 400),
    ("action_prohibited", 403),
    ("invalid_token", 403),
    ("channel_not_found", 404),
    ("no_service", 404),
    ("channel_is_archived", 410),
    ("rate_limited", 429),
    ("rollup_error", 500),
];

pub(crate) struct Slack {
    path: String,
}

impl Slack {
    pub(crate) fn new(accounts: &Accounts) -> Self {
        Slack { path: accounts.slack_path.clone() }
    }

    fn judge(&self, request: &Request) -> Result<Value, &'static str> {
        let hook = |path: &str| path.rsplit_once('/').map(|(hook, _)| hook.to_owned());
        if request.path != self.path {
            return Err(if hook(&request.path) == hook(&self.path) { "invalid_token" } else { "no_service" });
        }
        if request.method != hyper::Method::POST || request.media_type() != "application/json" {
            return Err("invalid_payload");
        }
        let message: Value = serde_json::from_slice(&request.body).map_err(|_| "invalid_payload")?;
        let filled = |key: &str| message[key].as_array().is_some_and(|items| !items.is_empty());
        match (&message, &message["text"]) {
            (Value::Object(_), Value::String(text)) if !text.is_empty() => Ok(message),
            (Value::Object(_), Value::String(_) | Value::Null) if filled("blocks") || filled("attachments") => {
                Ok(message)
            }
            (Value::Object(_), Value::String(_) | Value::Null) => Err("no_text"),
            _ => Err("invalid_payload"),
        }
    }
}

impl Api for Slack {
    fn check(&self, request: &Request) -> Result<Accepted, Reply> {
        let message = self.judge(request).map_err(refusal)?;
        Ok(Accepted {
            // The path is the credential.
            recipient: "webhook".to_owned(),
            delivery_id: find(&message, DELIVERY_ID).unwrap_or_default().to_owned(),
            message_id: String::new(),
            echo: message,
            reply: Reply::text(200, "ok", "ok"),
        })
    }

    fn fault(&self, fault: &Fault, _: &Request) -> Option<Reply> {
        let (code, _) = ERRORS.iter().find(|(code, _)| *code == fault.code)?;
        Some(refusal(code).retry_after(fault))
    }

    fn code(&self, trouble: Trouble) -> Option<&'static str> {
        Some(match trouble {
            Trouble::Refused => "action_prohibited",
            Trouble::Dead => "no_service",
            Trouble::Busy => "rate_limited",
            Trouble::Down => "rollup_error",
        })
    }
}

fn refusal(code: &'static str) -> Reply {
    let status = ERRORS.iter().find(|(known, _)| *known == code).map_or(500, |(_, status)| *status);
    Reply::text(status, code, code)
}
