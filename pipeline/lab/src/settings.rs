//! Settings and credential files that point Chasqui's providers at a lab.

use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
};

use serde_json::{Value, json};

use crate::{Accounts, Vendor};

/// Settings, in the two forms that Chasqui reads. Credentials are in files.
#[derive(Debug, Clone)]
pub struct Settings {
    /// A settings file.
    pub toml: String,
    /// The same as environment variables.
    pub variables: Vec<(String, String)>,
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
    let slack = format!("{}{}", url(Vendor::Slack), accounts.slack_path);
    let sections = [
        (
            "apns",
            json!({
                "base_url": url(Vendor::Apns),
                "http2_only": true,
                "team_id": accounts.apns_team_id,
                "key_id": accounts.apns_key_id,
                "topic": accounts.apns_topic,
                "key": file("AuthKey_LABKEY0001.p8", &accounts.apns_key_pem)?,
            }),
        ),
        (
            "fcm",
            json!({
                "base_url": url(Vendor::Fcm),
                "service_account": file("service-account.json", &accounts.service_account(&token_uri))?,
            }),
        ),
        (
            "webpush",
            json!({
                "base_url": url(Vendor::WebPush),
                "subject": format!("mailto:{}", accounts.mail_from),
                "private_key": file("vapid", &accounts.vapid_private_key)?,
            }),
        ),
        (
            "twilio",
            json!({
                "base_url": url(Vendor::Twilio),
                "account_sid": accounts.twilio_account_sid,
                "auth_token": file("twilio", &accounts.twilio_auth_token)?,
                "from": accounts.twilio_from,
            }),
        ),
        (
            "vonage",
            json!({
                "base_url": url(Vendor::Vonage),
                "api_key": accounts.vonage_api_key,
                "api_secret": file("vonage", &accounts.vonage_api_secret)?,
                "signature_secret": file("vonage-signature", &accounts.vonage_signature_secret)?,
                "from": accounts.vonage_from,
            }),
        ),
        (
            "sendgrid",
            json!({
                "base_url": url(Vendor::SendGrid),
                "api_key": file("sendgrid", &accounts.sendgrid_api_key)?,
                "webhook_public_key": accounts.sendgrid_webhook_public_key,
                "from": accounts.mail_from,
            }),
        ),
        (
            "mailgun",
            json!({
                "base_url": url(Vendor::Mailgun),
                "domain": accounts.mailgun_domain,
                "api_key": file("mailgun", &accounts.mailgun_api_key)?,
                "webhook_signing_key": file("mailgun-webhook", &accounts.mailgun_signing_key)?,
                "from": accounts.mail_from,
            }),
        ),
        ("slack", json!({ "webhook": file("slack", &slack)? })),
    ];
    let mut settings = Settings { toml: String::new(), variables: Vec::new(), directory: directory.to_owned() };
    for (section, values) in sections {
        let _infallible = writeln!(settings.toml, "\n[send.{section}]");
        for (key, value) in values.as_object().into_iter().flatten() {
            let variable = format!("CHASQUI_SEND__{}__{}", section.to_uppercase(), key.to_uppercase());
            // A string or a truth value of JSON is one of TOML; a place of a credential is a table.
            let (text, variable) = match value["file"].as_str() {
                Some(path) => (format!("{{ file = {} }}", json!(path)), (format!("{variable}__FILE"), path.to_owned())),
                None => {
                    let plain = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
                    (value.to_string(), (variable, plain))
                }
            };
            let _infallible = writeln!(settings.toml, "{key} = {text}");
            settings.variables.push(variable);
        }
    }
    Ok(settings)
}
