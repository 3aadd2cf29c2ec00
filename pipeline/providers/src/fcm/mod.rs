//! Push to Android devices, through Firebase Cloud Messaging, HTTP v1.
//!
//! Guarantee: one request per call, and a second one only where Google refused the first because our access token did
//! not hold. The answer says `NoAnswer` exactly when the request may have been taken without our knowing; what happens
//! before it, waiting for a turn and for an access token, is never ambiguous. Access tokens live in this process only;
//! a restart fetches one anew.
//!
//! # What an answer means
//! | status, `errorCode` | means |
//! |---|---|
//! | 200 with a `name` | accepted; the name is its id |
//! | 404 `UNREGISTERED` | dead endpoint |
//! | 400 `INVALID_ARGUMENT` | refused; dead endpoint, where a `BadRequest` names the token and nothing else, or the words do without one |
//! | 403 `SENDER_ID_MISMATCH` | refused: the token is of another project |
//! | 429 `QUOTA_EXCEEDED`, any other 429 | throttled, for `Retry-After` or 60 s |
//! | 500 `INTERNAL`, 503 `UNAVAILABLE` | try later |
//! | 401 `THIRD_PARTY_AUTH_ERROR` | misconfigured |
//! | 401 without a code | a new access token, once; then misconfigured |
//! | 403, 404 without a code of these | misconfigured: the account, the project or the address |
//! | any other | as [its status](crate::http::Reply::by_status) |
//!
//! Google asks to wait 10 s before the first repeat, longer each time, and to give up within the hour: the channel's
//! schedule and horizon do. It also limits messages per device (240 a minute, 5,000 an hour) and answers 429.
//!
//! Sources: [error codes](https://firebase.google.com/docs/cloud-messaging/error-codes),
//! [quotas](https://firebase.google.com/docs/cloud-messaging/throttling-and-quotas).

mod classify;
mod oauth;
mod request;
mod settings;
#[cfg(test)]
pub(crate) mod test_key;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use chasqui_contract::{Answer, Clock};
use chasqui_rules::Overridable;
use chasqui_schemas::{Channel, Delivery, record::Platform};
use chasqui_settings::SettingsError;
use reqwest::{
    Method, Request, Url,
    header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue},
};

use self::settings::Settings;
use self::{classify::classify, oauth::OAuth};
use crate::{
    Account, Vendor,
    account::Call,
    http::{self, Http, Version},
};

/// The vendor's name, for `overrides`.
const NAME: &str = "fcm";

/// What `overrides` may set.
static OVERRIDES: Overridable = Overridable {
    // Exactly one target may stand in a message.
    never: &["token", "topic", "condition", "fid"],
    senders: &[],
    links: &[
        "data.url",
        "android.data.url",
        "androidV2.data.url",
        "webpush.data.url",
        "webpush.fcmOptions.link",
        "webpush.fcm_options.link",
        "webpush.notification.click_action",
    ],
    harmless: &["*"],
};

/// The vendor.
pub(crate) static VENDOR: Vendor = Vendor {
    name: NAME,
    serves: &[(Channel::Push, Some(Platform::Android))],
    overrides: &OVERRIDES,
    manual: include_str!("fcm.toml"),
    sender: |account, ports| {
        let call = Fcm::new(account, account.settings()?, ports.clock.clone())?;
        Ok(account.provider(call))
    },
    callbacks: None,
};

/// Pushes to Android devices.
pub(crate) struct Fcm {
    http: Http,
    url: Url,
    oauth: OAuth,
    clock: Arc<dyn Clock>,
}

impl Fcm {
    pub(crate) fn new(account: &Account<'_>, settings: Settings, clock: Arc<dyn Clock>) -> Result<Self, SettingsError> {
        let key = settings.key(account)?;
        let http = Http::open(account, &settings.http, Version::Any)?;
        let base = http::address(&account.key("base_url"), &settings.base_url)?;
        Ok(Fcm {
            url: http::below(base, &["v1", "projects", &key.project, "messages:send"]),
            oauth: OAuth::new(key, http.clone(), clock.clone()),
            http,
            clock,
        })
    }
}

impl Call for Fcm {
    async fn call(&self, delivery: &Delivery) -> Result<Answer, Answer> {
        let deadline = self.http.deadline();
        let (body, shortened) = request::body(delivery, self.clock.now())?;
        let mut renewed = false;
        loop {
            let token = self.oauth.get(deadline).await?;
            let mut request = Request::new(Method::POST, self.url.clone());
            request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
            request.headers_mut().insert(AUTHORIZATION, token.clone());
            *request.body_mut() = Some(body.clone().into());
            let reply = self.http.exchange_by(deadline, request).await?;
            if !renewed && classify::is_unauthenticated(&reply) {
                renewed = true;
                self.oauth.forget(&token);
                continue;
            }
            return Ok(Answer { shortened, ..classify(&reply, self.clock.now()) });
        }
    }
}
