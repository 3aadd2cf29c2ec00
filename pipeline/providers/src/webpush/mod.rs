//! Push to browsers, through whichever push service a browser has chosen.
//!
//! Guarantee: one request per call. The answer says `NoAnswer` exactly when the request may have been taken without
//! our knowing. Only the browser can read the message. Nothing is kept but signed tokens, which a restart signs anew.
//!
//! The device's token is the browser's subscription, as JSON. Its owner chooses who is at the other end, so an endpoint is
//! a stranger: `services.rs` says which are called, the delivery's origin is the endpoint's, so that one of them that
//! fails has a circuit of its own, and no answer about a key opens even that.
//!
//! # What an answer means
//! | status | means |
//! |---|---|
//! | 201, any other 2xx | accepted; its id is the last part of `Location` |
//! | 404, 410 | dead endpoint |
//! | 400, 401, 403 that says the subscription was made with another VAPID key | dead endpoint |
//! | any other 401, 403 | refused |
//! | either, of an origin that took nothing between many of them | misconfigured: our VAPID key or subject |
//! | 429 | throttled |
//! | 413, 400 | refused |
//! | any other | as [its status](crate::http::Reply::by_status), but refused where that blames our settings: the address is the browser's |
//! | none: a subscription that cannot be used | refused |
//!
//! The first three are about the recipient, so they are no sign that the push service fails; anybody can make them, with
//! a subscription of another key. That a misconfigured key makes them too is told by their number (`belief.rs`).
//!
//! Sources: [RFC 8030](https://www.rfc-editor.org/rfc/rfc8030), [RFC 8291](https://www.rfc-editor.org/rfc/rfc8291),
//! [RFC 8292](https://www.rfc-editor.org/rfc/rfc8292).

mod belief;
mod classify;
mod encrypt;
mod request;
mod services;
mod settings;
mod subscription;
#[cfg(test)]
mod tests;
mod vapid;

use std::{sync::Arc, time::Duration};

use chasqui_contract::{Answer, Clock, Outcome};
use chasqui_rules::Overridable;
use chasqui_schemas::{Channel, Delivery, record::Platform};
use chasqui_settings::SettingsError;
use reqwest::header::AUTHORIZATION;

use self::settings::Settings;
use self::{belief::Belief, classify::classify, services::Services, subscription::Subscription, vapid::Vapid};
use super::push;
use crate::{Account, Vendor, account::Call, http::Http};

/// The vendor's name, for `overrides`.
const NAME: &str = "webpush";

/// Connections are kept this long without use: push services are many, and each may have a connection.
const KEEP_IDLE: Duration = Duration::from_secs(90);
/// Maximum connections of one host that are kept without use.
const MAX_IDLE: usize = 4;
/// Maximum origins of which something is remembered; there are some ten push services.
const MAX_ORIGINS: usize = 256;
/// What `overrides` may set.
static OVERRIDES: Overridable = Overridable { never: &[], senders: &[], links: &["url"], harmless: &["*"] };

/// The vendor.
pub(crate) static VENDOR: Vendor = Vendor {
    name: NAME,
    serves: &[(Channel::Push, Some(Platform::Web))],
    overrides: &OVERRIDES,
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
    services: Services,
    belief: Belief,
    clock: Arc<dyn Clock>,
}

impl WebPush {
    pub(crate) fn new(account: &Account<'_>, settings: Settings, clock: Arc<dyn Clock>) -> Result<Self, SettingsError> {
        let services = Services::of(account, &settings)?;
        let resolver = services.resolver();
        let http = Http::open_to_many(account, &settings.http, |client| {
            client.dns_resolver(resolver).pool_idle_timeout(KEEP_IDLE).pool_max_idle_per_host(MAX_IDLE)
        })?;
        Ok(WebPush { http, vapid: Vapid::new(account, &settings)?, services, belief: Belief::default(), clock })
    }
}

impl Call for WebPush {
    async fn call(&self, delivery: &Delivery) -> Result<Answer, Answer> {
        let now = self.clock.now();
        let token = push::token(delivery, Platform::Web)?;
        let subscription = Subscription::read(token, &self.services).map_err(|problem| Answer {
            about_recipient: true,
            ..Answer::new(Outcome::Refused, "subscription", problem)
        })?;
        let endpoint = &subscription.endpoint;
        let (mut request, shortened) = request::request(&subscription, delivery, now)?;
        request.headers_mut().insert(AUTHORIZATION, self.vapid.authorization(endpoint, now)?);
        let reply = self.http.exchange(request).await?;
        let is_known = self.services.knows(endpoint);
        let answer = self.belief.judge(endpoint, classify(&reply, endpoint, is_known, self.clock.now()));
        Ok(Answer { shortened, ..answer })
    }

    fn origin(&self, delivery: &Delivery) -> Option<String> {
        // What cannot be called has none: it says nothing about anybody.
        let token = push::token(delivery, Platform::Web).ok()?;
        let subscription = Subscription::read(token, &self.services).ok();
        Some(subscription.map_or_else(String::new, |read| read.endpoint.origin().ascii_serialization()))
    }
}
