//! Settings and credential files of accounts at a lab: Chasqui sends through them, and believes their callbacks.

use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
};

use serde_json::{Value, json};

use crate::{Accounts, Vendor};

/// Where messages ask to be reported to, as the vendors see it: the gateway's `public_url`. Callbacks carry this address,
/// which Twilio signs, wherever [they go](crate::Lab::callbacks_to).
pub const PUBLIC_URL: &str = "https://notify.example.com";

/// Settings. Credentials are in files.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The tables `accounts`, one account for each vendor under the vendor's name, and `send.alerts`. Routes are not among
    /// them, nor where the gateway is.
    pub tables: Value,
    /// The files, gone with the lab.
    pub directory: PathBuf,
}

/// Writes the files into `directory`.
pub(crate) fn write(
    accounts: &Accounts,
    directory: &Path,
    url: impl Fn(Vendor) -> String,
) -> std::io::Result<Settings> {
    let file = |name: &str, text: &str| {
        let path = directory.join(name);
        Accounts::write(&path, text)?;
        Ok::<Value, std::io::Error>(json!({ "file": path }))
    };
    let token_uri = format!("{}/token", url(Vendor::Oauth));
    let tables = json!({
        "accounts": {
            "apns": {
                "vendor": "apns",
                "base_url": url(Vendor::Apns),
                "team_id": accounts.apns_team_id,
                "key_id": accounts.apns_key_id,
                "topic": accounts.apns_topic,
                "key": file("AuthKey_LABKEY0001.p8", &accounts.apns_key_pem)?,
            },
            "fcm": {
                "vendor": "fcm",
                "base_url": url(Vendor::Fcm),
                "service_account": file("service-account.json", &accounts.service_account(&token_uri))?,
            },
            // Where to, the subscriptions say.
            "webpush": {
                "vendor": "webpush",
                "allow_insecure_endpoints": true,
                "subject": format!("mailto:{}", accounts.mail_from),
                "public_key": accounts.vapid_public_key,
                "private_key": file("vapid", &accounts.vapid_private_key)?,
            },
            "twilio": {
                "vendor": "twilio",
                "base_url": url(Vendor::Twilio),
                "account_sid": accounts.twilio_account_sid,
                "auth_token": file("twilio", &accounts.twilio_auth_token)?,
                "from": accounts.twilio_from,
                "callback_url": format!("{PUBLIC_URL}/v1/callbacks/twilio"),
            },
            "vonage": {
                "vendor": "vonage",
                "base_url": url(Vendor::Vonage),
                "api_key": accounts.vonage_api_key,
                "api_secret": file("vonage", &accounts.vonage_api_secret)?,
                "signature_secret": file("vonage-signature", &accounts.vonage_signature_secret)?,
                "from": accounts.vonage_from,
                "callback_url": format!("{PUBLIC_URL}/v1/callbacks/vonage"),
                // The account has no limit but the script's.
                "per_second": 0,
            },
            "sendgrid": {
                "vendor": "sendgrid",
                "base_url": url(Vendor::SendGrid),
                "api_key": file("sendgrid", &accounts.sendgrid_api_key)?,
                "from": accounts.mail_from,
                "webhook_public_key": accounts.sendgrid_webhook_public_key,
            },
            "mailgun": {
                "vendor": "mailgun",
                "base_url": url(Vendor::Mailgun),
                "domain": accounts.mailgun_domain,
                "api_key": file("mailgun", &accounts.mailgun_api_key)?,
                "from": accounts.mail_from,
                "signing_key": file("mailgun-webhook", &accounts.mailgun_signing_key)?,
            },
            "slack": {
                "vendor": "slack",
                "webhook": file("slack", &format!("{}{}", url(Vendor::Slack), accounts.slack_path))?,
            },
        },
        "send": { "alerts": { "to": [{ "account": "slack" }] } },
    });
    Ok(Settings { tables, directory: directory.to_owned() })
}

impl Settings {
    /// The tables as a settings file.
    pub fn toml(&self) -> String {
        let members = |value: &Value| value.as_object().cloned().unwrap_or_default();
        let mut toml = String::new();
        for (part, sections) in members(&self.tables) {
            // TOML wants a table's own values before its tables.
            let (tables, values): (Vec<_>, Vec<_>) =
                members(&sections).into_iter().partition(|(_, value)| value.is_object());
            if !values.is_empty() {
                let _infallible = writeln!(toml, "\n[{part}]");
            }
            for (key, value) in values {
                let _infallible = writeln!(toml, "{key} = {}", inline(&value));
            }
            for (section, values) in tables {
                let _infallible = writeln!(toml, "\n[{part}.{section}]");
                for (key, value) in members(&values) {
                    let _infallible = writeln!(toml, "{key} = {}", inline(&value));
                }
            }
        }
        toml
    }
}

/// A value of JSON as one of TOML: they differ in tables only.
fn inline(value: &Value) -> String {
    match value {
        Value::Object(members) => {
            let members: Vec<_> = members.iter().map(|(key, value)| format!("{key} = {}", inline(value))).collect();
            format!("{{ {} }}", members.join(", "))
        }
        Value::Array(items) => format!("[{}]", items.iter().map(inline).collect::<Vec<_>>().join(", ")),
        plain => plain.to_string(),
    }
}
