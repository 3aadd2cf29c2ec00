//! From a delivery to the form that Twilio's Messages resource takes.

use chasqui_contract::Answer;
use chasqui_schemas::Delivery;
use chasqui_settings::SettingsError;
use jiff::Timestamp;
use reqwest::Url;

use super::{NAME, OVERRIDES, Settings};
use crate::{
    Account, http,
    payload::{self, Form},
    phone,
};

/// Longest time that Twilio keeps a message in its queue, in seconds.
const MAX_VALIDITY: i64 = 36_000;
/// What a message may consist of: one of these is needed.
const CONTENTS: [&str; 3] = ["Body", "MediaUrl", "ContentSid"];

/// Where messages are created.
pub(super) fn url(account: &Account<'_>, settings: &Settings) -> Result<Url, SettingsError> {
    let base = http::address(&account.key("base_url"), &settings.base_url)?;
    Ok(http::below(base, &["2010-04-01", "Accounts", &settings.account_sid, "Messages.json"]))
}

/// The parameters, or why there can be no request.
pub(super) fn form(delivery: &Delivery, settings: &Settings, now: Timestamp) -> Result<Form, Box<Answer>> {
    let optional = |name: &str, value: Option<String>| value.map(|value| (name.to_owned(), value));
    let mut form: Form = [
        optional("To", Some(phone::number(delivery)?.to_owned())),
        optional("From", settings.from.clone()),
        optional("MessagingServiceSid", settings.messaging_service_sid.clone()),
        optional("Body", delivery.content.body.clone()),
        optional("StatusCallback", callback(settings, delivery)),
        optional("ValidityPeriod", delivery.expires_at.map(|expires_at| validity(expires_at, now).to_string())),
    ]
    .into_iter()
    .flatten()
    .collect();
    payload::lay_over_form(&mut form, delivery, NAME, OVERRIDES.never);

    phone::check_length(payload::parameter(&form, "Body").unwrap_or_default())?;
    if !CONTENTS.iter().any(|name| payload::parameter(&form, name).is_some_and(|value| !value.is_empty())) {
        return Err(phone::empty().into());
    }
    Ok(form)
}

/// The callback's address, with our ids: Twilio's callbacks hold nothing else of ours.
fn callback(settings: &Settings, delivery: &Delivery) -> Option<String> {
    let mut url = Url::parse(settings.callback_url.as_deref()?).ok()?;
    url.query_pairs_mut()
        .append_pair("notification_id", &delivery.notification_id.to_string())
        .append_pair("delivery_id", &delivery.id.to_string());
    Some(url.into())
}

/// How long the message may wait in Twilio's queue, in seconds.
fn validity(expires_at: Timestamp, now: Timestamp) -> i64 {
    expires_at.duration_since(now).as_secs().clamp(1, MAX_VALIDITY)
}
