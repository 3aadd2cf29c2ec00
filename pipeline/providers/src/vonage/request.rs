//! From a delivery to the form that Vonage's SMS API takes.

use chasqui_contract::{Answer, Outcome};
use chasqui_schemas::Delivery;
use chasqui_settings::{Secret, SettingsError};
use jiff::Timestamp;
use reqwest::Url;

use super::{NAME, OVERRIDES, Settings, signature::Signing};
use crate::{
    Account, http,
    payload::{self, Form},
    phone,
};

/// Longest callback address, in characters.
pub(super) const MAX_CALLBACK: usize = 100;
/// Shortest and longest time during which Vonage tries to deliver, in milliseconds.
const TTL: (i64, i64) = (20_000, 604_800_000);
/// The GSM 7-bit alphabet and its extension (3GPP TS 23.038, 6.2.1), less letters and digits of ASCII. Anything else
/// must go out as `unicode`.
const GSM_7: &str = "@£$¥èéùìòÇ\nØø\rÅåΔ_ΦΓΛΩΠΨΣΘΞÆæßÉ !\"#¤%&'()*+,-./:;<=>?¡ÄÖÑÜ§¿äöñüà\u{c}^{}\\[~]|€";

/// What a request is authorised with.
pub(super) enum Credential {
    /// The account's secret, sent along.
    Secret(Secret),
    /// A secret that signs.
    Signature(Signing),
}

/// Where messages are sent.
pub(super) fn url(account: &Account<'_>, settings: &Settings) -> Result<Url, SettingsError> {
    Ok(http::below(http::address(&account.key("base_url"), &settings.base_url)?, &["sms", "json"]))
}

/// The parameters, or why there can be no request.
pub(super) fn form(
    delivery: &Delivery,
    settings: &Settings,
    credential: &Credential,
    now: Timestamp,
) -> Result<Form, Box<Answer>> {
    let to = phone::number(delivery)?.trim_start_matches('+');
    if !(7..=15).contains(&to.len()) || !to.bytes().all(|b| b.is_ascii_digit()) {
        return Err(Answer::new(Outcome::Refused, "number", "Vonage takes numbers of 7 to 15 digits").into());
    }
    let text = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let ids = format!("{}.{}", delivery.notification_id.simple(), delivery.id.simple());
    let mut form = vec![text("from", &settings.from), text("to", to), text("client-ref", &ids)];
    form.extend(delivery.content.body.as_deref().map(|body| text("text", body)));
    form.extend(settings.callback_url.as_deref().map(|url| text("callback", url)));
    form.extend(delivery.expires_at.map(|expires_at| text("ttl", &ttl(expires_at, now).to_string())));
    payload::lay_over_form(&mut form, delivery, NAME, OVERRIDES.never);

    let body = payload::parameter(&form, "text").filter(|body| !body.is_empty()).ok_or_else(phone::empty)?;
    phone::check_length(body)?;
    if payload::parameter(&form, "type").is_none() && !is_gsm_7(body) {
        form.push(text("type", "unicode"));
    }

    form.push(text("api_key", &settings.api_key));
    match credential {
        Credential::Secret(secret) => form.push(text("api_secret", secret.expose())),
        Credential::Signature(signing) => {
            form.push(text("timestamp", &now.as_second().to_string()));
            form.push(text("sig", &signing.sign(&form)));
        }
    }
    Ok(form)
}

/// How long Vonage may try to deliver, in milliseconds.
fn ttl(expires_at: Timestamp, now: Timestamp) -> i64 {
    let left = i64::try_from(expires_at.duration_since(now).as_millis()).unwrap_or(TTL.1);
    left.clamp(TTL.0, TTL.1)
}

fn is_gsm_7(text: &str) -> bool {
    text.chars().all(|c| c.is_ascii_alphanumeric() || GSM_7.contains(c))
}
