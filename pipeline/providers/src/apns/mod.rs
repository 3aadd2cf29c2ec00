//! Push to Apple devices, through APNs.
//!
//! Guarantee: one request per call, and a second one only where Apple refused the first because our authentication
//! token was too old. The answer says `NoAnswer` exactly when the request may have been taken without our knowing.
//! Our authentication token lives in this process only; a restart signs a new one.
//!
//! # What an answer means
//! | status, reason | means |
//! |---|---|
//! | 200 | accepted; its id is the delivery's (`apns-id`) |
//! | 410 (`Unregistered`, `ExpiredToken`) | dead endpoint, since the moment that Apple names: a token registered later stays in use |
//! | 400 `BadDeviceToken`, `DeviceTokenNotForTopic` | refused, and not dead: a token of the other environment or of another app says the same |
//! | 400 `IdleTimeout`, 500, 503 | try later |
//! | 429 | throttled: the device (`TooManyRequests`), or our token (`TooManyProviderTokenUpdates`) |
//! | 403 `ExpiredProviderToken` | signed again, once; then misconfigured: a clock is wrong |
//! | any other 403, 404, 405; 400 `BadTopic`, `MissingTopic`, `TopicDisallowed` | misconfigured |
//! | 413, any other 400 | refused: what a person reads is shortened to fit, what an override adds is not |
//! | any other | as [its status](crate::http::Reply::by_status) |
//!
//! Sources: [responses](https://developer.apple.com/documentation/usernotifications/handling-notification-responses-from-apns),
//! [tokens](https://developer.apple.com/documentation/usernotifications/establishing-a-token-based-connection-to-apns).

mod classify;
mod request;
mod settings;
#[cfg(test)]
mod tests;
mod tokens;

use std::sync::Arc;

use chasqui_contract::{Answer, Clock};
use chasqui_rules::Overridable;
use chasqui_schemas::{Channel, Delivery, record::Platform};
use chasqui_settings::SettingsError;
use reqwest::{Url, header::AUTHORIZATION};

use self::settings::Settings;
use self::{classify::classify, tokens::Tokens};
use crate::{
    Account, Vendor,
    account::Call,
    http::{self, Http, Version},
};

/// The vendor's name, for `overrides`.
const NAME: &str = "apns";

/// What `overrides` may set.
static OVERRIDES: Overridable = Overridable { never: &[], senders: &[], links: &["url"], harmless: &["*"] };

/// The vendor.
pub(crate) static VENDOR: Vendor = Vendor {
    name: NAME,
    serves: &[(Channel::Push, Some(Platform::Ios))],
    overrides: &OVERRIDES,
    manual: include_str!("apns.toml"),
    sender: |account, ports| {
        let call = Apns::new(account, account.settings()?, ports.clock.clone())?;
        Ok(account.provider(call))
    },
    callbacks: None,
};

/// Pushes to Apple devices.
pub(crate) struct Apns {
    http: Http,
    base: Url,
    topic: String,
    tokens: Tokens,
    clock: Arc<dyn Clock>,
}

impl Apns {
    pub(crate) fn new(account: &Account<'_>, settings: Settings, clock: Arc<dyn Clock>) -> Result<Self, SettingsError> {
        settings.check(account)?;
        Ok(Apns {
            http: Http::open(account, &settings.http, Version::Http2)?,
            base: http::address(&account.key("base_url"), &settings.base_url)?,
            tokens: Tokens::new(account, &settings)?,
            topic: settings.topic,
            clock,
        })
    }
}

impl Call for Apns {
    async fn call(&self, delivery: &Delivery) -> Result<Answer, Answer> {
        let deadline = self.http.deadline();
        let mut rejected = None;
        loop {
            let now = self.clock.now();
            let (mut request, shortened) = request::request(&self.base, &self.topic, delivery, now)?;
            let token = self.tokens.get(now, rejected.as_ref())?;
            request.headers_mut().insert(AUTHORIZATION, token.clone());
            let reply = self.http.exchange_by(deadline, request).await?;
            if rejected.is_none() && classify::is_expired_token(&reply) {
                rejected = Some(token);
                continue;
            }
            return Ok(Answer { shortened, ..classify(&reply, self.clock.now()) });
        }
    }
}
