//! Push to browsers, through whichever push service a browser has chosen.
//!
//! Guarantee: one request per call. The answer says `NoAnswer` exactly when the request may have been taken without
//! our knowing. Only the browser can read the message. Nothing is kept but signed tokens, which a restart signs anew.
//!
//! The device's token is the browser's subscription, as JSON; where it may lead is said in `subscription.rs`.
//!
//! # What an answer means
//! | status | means |
//! |---|---|
//! | 201, any other 2xx | accepted; its id is the last part of `Location` |
//! | 404, 410 | dead endpoint |
//! | 401, 403 | misconfigured: our VAPID key or subject |
//! | 429 | throttled |
//! | 413, 400 | refused |
//! | any other | as [its status](crate::http::Reply::by_status), but refused where that blames our settings: the address is the browser's |
//! | none: a subscription that cannot be used | refused |
//!
//! Sources: [RFC 8030](https://www.rfc-editor.org/rfc/rfc8030), [RFC 8291](https://www.rfc-editor.org/rfc/rfc8291),
//! [RFC 8292](https://www.rfc-editor.org/rfc/rfc8292).

mod classify;
mod encrypt;
mod request;
mod settings;
mod subscription;
#[cfg(test)]
mod tests;
mod vapid;

use std::sync::Arc;

use chasqui_contract::{Answer, Clock, Outcome};
use chasqui_schemas::{Channel, Delivery, record::Platform};
use chasqui_settings::SettingsError;
use reqwest::header::AUTHORIZATION;

use self::settings::Settings;
use self::{classify::classify, subscription::Subscription, vapid::Vapid};
use super::push;
use crate::{
    Account, Vendor,
    account::Call,
    http::{Http, Version},
};

/// The vendor's name, for `overrides`.
const NAME: &str = "webpush";

/// The vendor.
pub(crate) static VENDOR: Vendor = Vendor {
    name: NAME,
    serves: &[(Channel::Push, Some(Platform::Web))],
    manual: include_str!("webpush.toml"),
    sender: |account, ports| {
        let call = WebPush::new(account, account.settings()?, ports.clock.clone())?;
        Ok(account.provider(call))
    },
    callbacks: None,
};

/// Pushes to browsers.
pub(crate) struct WebPush {
    http: Http,
    vapid: Vapid,
    allow_insecure_endpoints: bool,
    clock: Arc<dyn Clock>,
}

impl WebPush {
    pub(crate) fn new(account: &Account<'_>, settings: Settings, clock: Arc<dyn Clock>) -> Result<Self, SettingsError> {
        Ok(WebPush {
            http: Http::open(account, &settings.http, Version::Any)?,
            vapid: Vapid::new(account, &settings)?,
            allow_insecure_endpoints: settings.allow_insecure_endpoints,
            clock,
        })
    }
}

impl Call for WebPush {
    async fn call(&self, delivery: &Delivery) -> Result<Answer, Answer> {
        let now = self.clock.now();
        let token = push::token(delivery, Platform::Web)?;
        let subscription = Subscription::read(token, self.allow_insecure_endpoints)
            .map_err(|problem| Answer::new(Outcome::Refused, "subscription", problem))?;
        let mut request = request::request(&subscription, delivery, now)?;
        request.headers_mut().insert(AUTHORIZATION, self.vapid.authorization(&subscription.endpoint, now)?);
        let reply = self.http.exchange(request).await?;
        Ok(classify(&reply, &subscription.endpoint, self.clock.now()))
    }
}
