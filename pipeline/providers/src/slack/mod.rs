//! Slack, through an [incoming webhook](https://docs.slack.dev/messaging/sending-messages-using-incoming-webhooks).
//!
//! Guarantee: one request per call. The webhook's address is its credential: no log line, error or answer shows it.
//!
//! | answer | means |
//! |---|---|
//! | 2xx | accepted |
//! | 403 `action_prohibited`, 404 `channel_not_found`, 410 `channel_is_archived` | misconfigured |
//! | 400 `invalid_payload` | refused |
//! | 429, 500 (`rollup_error`), any other | as [its status](crate::http::Reply::by_status) |
//!
//! Source: [errors of incoming webhooks](https://api.slack.com/changelog/2016-05-17-changes-to-errors-for-incoming-webhooks).

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use chasqui_contract::{Answer, Clock, Outcome, Provider};
use chasqui_schemas::Delivery;
use chasqui_settings::{Secret, SettingsError};
use jiff::Timestamp;
use reqwest::Url;
use serde_json::json;

use crate::http::{self, Http, Reach, Reply};

/// The setting that names the webhook.
pub const KEY: &str = "send.alerts.slack_webhook";
/// Longest exchange.
const TIMEOUT: Duration = Duration::from_secs(10);

/// A channel on Slack.
pub struct Slack {
    http: Http,
    webhook: Url,
    clock: Arc<dyn Clock>,
}

impl Slack {
    /// The channel that `webhook` posts to.
    ///
    /// # Errors
    /// Where the webhook is no address.
    pub fn new(webhook: &Secret, clock: Arc<dyn Clock>) -> Result<Self, SettingsError> {
        let webhook = http::address(KEY, webhook.expose().trim())?;
        let http = Http::new(KEY, &Reach { timeout: TIMEOUT, concurrency: 1, ..Reach::default() })?;
        Ok(Slack { http, webhook, clock })
    }
}

#[async_trait]
impl Provider for Slack {
    fn name(&self) -> &str {
        "slack"
    }

    /// Posts the delivery's body; whom it is addressed to is the webhook's business.
    async fn send(&self, delivery: &Delivery) -> Answer {
        let body = json!({"text": escape(delivery.content.body.as_deref().unwrap_or_default())});
        let request = match http::built(self.http.client().post(self.webhook.clone()).json(&body)) {
            Ok(request) => request,
            Err(answer) => return *answer,
        };
        match self.http.exchange(request).await {
            Ok(reply) => classify(&reply, self.clock.now()),
            Err(failure) => failure.into(),
        }
    }
}

fn classify(reply: &Reply, now: Timestamp) -> Answer {
    let outcome = match reply.status.as_u16() {
        200..=299 => Outcome::Accepted,
        410 => Outcome::Misconfigured,
        _ => reply.by_status(reply.retry_after(now)),
    };
    Answer::new(outcome, reply.code(), String::from_utf8_lossy(&reply.body))
}

/// Slack's three control characters, so that no vendor's words can mention a channel.
fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{at, reply};

    #[test]
    fn every_documented_status_means_what_it_says() {
        let after = Some(Duration::from_secs(9));
        for (status, expected) in [
            (200, Outcome::Accepted),
            (302, Outcome::Misconfigured),
            (400, Outcome::Refused),
            (403, Outcome::Misconfigured),
            (404, Outcome::Misconfigured),
            (410, Outcome::Misconfigured),
            (429, Outcome::Throttled { after }),
            (500, Outcome::TryLater { after }),
        ] {
            let answer = classify(&reply(status, &[("retry-after", "9")], "words"), at(0));
            assert_eq!((answer.outcome, answer.detail.as_str()), (expected, "words"), "{status}");
        }
    }

    #[test]
    fn nothing_that_is_said_can_mention_a_channel() {
        assert_eq!(escape("<!channel> & <b>"), "&lt;!channel&gt; &amp; &lt;b&gt;");
    }
}
