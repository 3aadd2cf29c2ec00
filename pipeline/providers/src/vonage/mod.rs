//! SMS, through Vonage's [SMS API](https://developer.vonage.com/en/api/sms).
//!
//! Guarantee: one request per call at most. Vonage does not recognise a repeat, so the answer says `NoAnswer` whenever
//! the request went out and nobody can tell whether it was taken, and a text of which only some parts were accepted is
//! accepted: sending it again would repeat those.
//!
//! # What an answer means
//! Vonage always answers with status 200; each part of the text has a status of its own, and the worst one decides.
//!
//! | status of a part | means |
//! |---|---|
//! | 0 | accepted |
//! | 1, 10 | throttled |
//! | 5 | try later |
//! | 7, 33 | dead endpoint: barred, or out of service |
//! | 4, 8, 9 (no credit), 11, 14, 15, 23, 29, 32 | misconfigured: account, credentials, sender, callback |
//! | 2, 3, 6, 12, 22, any other | refused |
//!
//! An answer without parts means what [its status](crate::http::Reply::by_status) does. Source:
//! [Troubleshooting SMS](https://developer.vonage.com/messaging/sms/guides/troubleshooting-sms).
//!
//! # What Vonage is told
//! `client-ref` is `<notification>.<delivery>`, both without hyphens, which the gateway reads in callbacks. `ttl` is what
//! is left until `expires_at`, 20 s to a week. `type` is `unicode` where the text leaves the GSM alphabet. Vonage knows no priority and
//! no collapse key. `overrides.vonage` is laid over the parameters, by their names (`from`, `entity-id`,
//! `message-class`, …); recipient, ids and credentials stay.

mod callback;
mod classify;
mod request;
mod settings;
mod signature;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use chasqui_contract::{Answer, Clock};
use chasqui_rules::Overridable;
use chasqui_schemas::{Channel, Delivery};
use chasqui_settings::SettingsError;
use reqwest::Url;

use self::request::Credential;
use self::settings::Settings;
use self::signature::Signing;
use crate::{
    Account, Vendor,
    account::Call,
    http::{self, Http, Version},
};

/// The vendor's name, for `overrides`.
const NAME: &str = "vonage";

/// What `overrides` may set.
static OVERRIDES: Overridable = Overridable {
    never: &["to", "client-ref", "callback", "api_key", "api_secret", "sig", "timestamp"],
    senders: &["from"],
    links: &[],
    harmless: &[],
};

/// The vendor.
pub(crate) static VENDOR: Vendor = Vendor {
    name: NAME,
    serves: &[(Channel::Sms, None)],
    overrides: &OVERRIDES,
    manual: include_str!("vonage.toml"),
    sender: |account, ports| {
        let call = Vonage::new(account, account.settings()?, ports.clock.clone())?;
        Ok(account.provider(call))
    },
    callbacks: Some(callback::open),
};

/// An account at Vonage.
pub(crate) struct Vonage {
    http: Http,
    url: Url,
    credential: Credential,
    settings: Settings,
    clock: Arc<dyn Clock>,
}

impl Vonage {
    pub(crate) fn new(account: &Account<'_>, settings: Settings, clock: Arc<dyn Clock>) -> Result<Self, SettingsError> {
        settings.check(account)?;
        let credential = if settings.api_secret.is_set() {
            Credential::Secret(account.secret("api_secret", &settings.api_secret)?)
        } else {
            let secret = account.secret("signature_secret", &settings.signature_secret)?;
            Credential::Signature(Signing::new(settings.signature_method, &secret))
        };
        Ok(Vonage {
            http: Http::open(account, &settings.http, Version::Any)?,
            url: request::url(account, &settings)?,
            credential,
            settings,
            clock,
        })
    }
}

impl Call for Vonage {
    async fn call(&self, delivery: &Delivery) -> Result<Answer, Answer> {
        let form = request::form(delivery, &self.settings, &self.credential, self.clock.now())?;
        let request = http::built(self.http.client().post(self.url.clone()).form(&form))?;
        let reply = self.http.exchange(request).await?;
        Ok(classify::classify(&reply, self.clock.now()))
    }
}
