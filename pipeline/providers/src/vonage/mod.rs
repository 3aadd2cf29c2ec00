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

mod classify;
mod config;
mod request;
mod signature;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use async_trait::async_trait;
use chasqui_contract::{Answer, Clock, Provider};
use chasqui_schemas::{Channel, Delivery, record::Platform};
use chasqui_settings::SettingsError;
use reqwest::Url;

use self::request::Credential;
pub use self::{config::Config, signature::Method};
use crate::http::{self, Http};

/// The provider's name.
pub const NAME: &str = "vonage";

/// An account at Vonage.
pub(crate) struct Vonage {
    http: Http,
    url: Url,
    credential: Credential,
    config: Config,
    clock: Arc<dyn Clock>,
}

impl Vonage {
    pub(crate) fn new(config: &Config, clock: Arc<dyn Clock>) -> Result<Self, SettingsError> {
        config.check()?;
        let credential = if config.signature_secret.is_set() {
            Credential::Signature(config.signature_secret.require("send.vonage.signature_secret")?)
        } else {
            Credential::Secret(config.api_secret.require("send.vonage.api_secret")?)
        };
        Ok(Vonage {
            http: Http::new("send.vonage", &config.reach())?,
            url: request::url(config)?,
            credential,
            config: config.clone(),
            clock,
        })
    }

    async fn call(&self, delivery: &Delivery) -> Result<Answer, Answer> {
        let form = request::form(delivery, &self.config, &self.credential, self.clock.now())?;
        let request = http::built(self.http.client().post(self.url.clone()).form(&form))?;
        let reply = self.http.exchange(request).await?;
        Ok(classify::classify(&reply, self.clock.now()))
    }
}

#[async_trait]
impl Provider for Vonage {
    fn name(&self) -> &str {
        NAME
    }

    fn serves(&self, channel: Channel, _: Option<Platform>) -> bool {
        channel == Channel::Sms
    }

    async fn send(&self, delivery: &Delivery) -> Answer {
        self.call(delivery).await.unwrap_or_else(|answer| answer)
    }
}
