//! Settings and credential files that point Chasqui's providers at a lab, and let its gateway believe callbacks from there.

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
    /// The tables `send`, of the providers and the alerts, and `gateway`, of what proves callbacks. Which channels use
    /// which provider is not among them, nor where the gateway is.
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
    let twilio_token = file("twilio", &accounts.twilio_auth_token)?;
    let tables = json!({
        "send": {
            "apns": {
                "base_url": url(Vendor::Apns),
                "team_id": accounts.apns_team_id,
                "key_id": accounts.apns_key_id,
                "topic": accounts.apns_topic,
                "key": file("AuthKey_LABKEY0001.p8", &accounts.apns_key_pem)?,
            },
            "fcm": {
                "base_url": url(Vendor::Fcm),
                "service_account": file("service-account.json", &accounts.service_account(&token_uri))?,
            },
            // Where to, the subscriptions say.
            "webpush": {
                "allow_insecure_endpoints": true,
                "subject": format!("mailto:{}", accounts.mail_from),
                "public_key": accounts.vapid_public_key,
                "private_key": file("vapid", &accounts.vapid_private_key)?,
            },
            "twilio": {
                "base_url": url(Vendor::Twilio),
                "account_sid": accounts.twilio_account_sid,
                "auth_token": twilio_token,
                "from": accounts.twilio_from,
                "callback_url": format!("{PUBLIC_URL}/v1/callbacks/twilio"),
            },
            "vonage": {
                "base_url": url(Vendor::Vonage),
                "api_key": accounts.vonage_api_key,
                "api_secret": file("vonage", &accounts.vonage_api_secret)?,
                "from": accounts.vonage_from,
                "callback_url": format!("{PUBLIC_URL}/v1/callbacks/vonage"),
                // The account has no limit but the script's.
                "per_second": 0,
            },
            "sendgrid": {
                "base_url": url(Vendor::SendGrid),
                "api_key": file("sendgrid", &accounts.sendgrid_api_key)?,
                "from": accounts.mail_from,
            },
            "mailgun": {
                "base_url": url(Vendor::Mailgun),
                "domain": accounts.mailgun_domain,
                "api_key": file("mailgun", &accounts.mailgun_api_key)?,
                "from": accounts.mail_from,
            },
            "alerts": {
                "slack_webhook": file("slack", &format!("{}{}", url(Vendor::Slack), accounts.slack_path))?,
            },
        },
        "engagement": {
            "twilio": { "auth_token": twilio_token },
            "vonage": { "signature_secret": file("vonage-signature", &accounts.vonage_signature_secret)? },
            "sendgrid": { "public_key": accounts.sendgrid_webhook_public_key },
            "mailgun": { "signing_key": file("mailgun-webhook", &accounts.mailgun_signing_key)? },
        },
    });
    Ok(Settings { tables, directory: directory.to_owned() })
}

impl Settings {
    /// The tables as a settings file.
    pub fn toml(&self) -> String {
        let members = |value: &Value| value.as_object().cloned().unwrap_or_default();
        let mut toml = String::new();
        for (part, sections) in members(&self.tables) {
            for (section, values) in members(&sections) {
                let _infallible = writeln!(toml, "\n[{part}.{section}]");
                for (key, value) in members(&values) {
                    // Whatever else is of JSON is of TOML too; a place of a credential is a table.
                    let text = match &value["file"] {
                        Value::Null => value.to_string(),
                        path => format!("{{ file = {path} }}"),
                    };
                    let _infallible = writeln!(toml, "{key} = {text}");
                }
            }
        }
        toml
    }
}
