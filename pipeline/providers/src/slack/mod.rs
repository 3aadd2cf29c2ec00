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

use std::sync::Arc;

use chasqui_contract::{Answer, Clock, Outcome};
use chasqui_rules::Overridable;
use chasqui_schemas::Delivery;
use chasqui_settings::{SecretSource, SettingsError};
use jiff::Timestamp;
use reqwest::Url;
use serde::Deserialize;
use serde_json::json;

use crate::{
    Account, Vendor,
    account::Call,
    http::{self, Http, HttpSettings, Reply, Version},
};

/// It carries no submission.
static OVERRIDES: Overridable = Overridable { never: &["*"], senders: &[], links: &[], harmless: &[] };

/// The vendor. It serves no channel: alerts alone go there.
pub(crate) static VENDOR: Vendor = Vendor {
    name: "slack",
    serves: &[],
    overrides: &OVERRIDES,
    manual: include_str!("slack.toml"),
    sender: |account, ports| {
        let call = Slack::new(account, account.settings()?, ports.clock.clone())?;
        Ok(account.provider(call))
    },
    callbacks: None,
};

/// See `slack.toml`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    /// The address that messages are posted to, which is the credential.
    #[serde(default)]
    webhook: SecretSource,
    #[serde(flatten)]
    http: HttpSettings,
}

/// A channel on Slack.
struct Slack {
    http: Http,
    webhook: Url,
    clock: Arc<dyn Clock>,
}

impl Slack {
    fn new(account: &Account<'_>, settings: Settings, clock: Arc<dyn Clock>) -> Result<Self, SettingsError> {
        let webhook = account.secret("webhook", &settings.webhook)?;
        Ok(Slack {
            http: Http::open(account, &settings.http, Version::Any)?,
            webhook: http::address(&account.key("webhook"), webhook.expose().trim())?,
            clock,
        })
    }
}

impl Call for Slack {
    /// Posts the delivery's body; whom it is addressed to is the webhook's business.
    async fn call(&self, delivery: &Delivery) -> Result<Answer, Answer> {
        let body = json!({"text": escape(delivery.content.body.as_deref().unwrap_or_default())});
        let request = http::built(self.http.client().post(self.webhook.clone()).json(&body))?;
        let reply = self.http.exchange(request).await?;
        Ok(classify(&reply, self.clock.now()))
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
    use std::time::Duration;

    use chasqui_contract::ManualClock;
    use chasqui_schemas::{Channel, submission::Content};

    use super::*;
    use crate::{
        loopback::{Loopback, Turn},
        testing::{account, at, delivery_by, reply, secret, settings},
    };

    fn slack(url: &str) -> Result<Slack, SettingsError> {
        let (webhook, _file) = secret(url);
        let settings = Settings { webhook, ..settings(&VENDOR, "") };
        Slack::new(&account(&VENDOR), settings, Arc::new(ManualClock::new(at(0))))
    }

    #[tokio::test]
    async fn an_alert_is_posted_to_the_webhook() {
        let server = Loopback::start([Turn::say(200, "ok"), Turn::Cut]).await;
        let slack = slack(&format!("{}/services/T/B/secret", server.url)).unwrap();
        let mut alert = delivery_by(Channel::InApp);
        alert.content = Content { body: Some("twilio: 3 failures; the last: 503 <busy>".into()), ..Content::default() };
        assert_eq!(slack.call(&alert).await.unwrap().outcome, Outcome::Accepted);
        let request = server.only();
        assert_eq!(request.line, "POST /services/T/B/secret");
        assert_eq!(request.header("content-type"), "application/json");
        assert_eq!(request.json()["text"], "twilio: 3 failures; the last: 503 &lt;busy&gt;");
        let cut = slack.call(&alert).await.unwrap_err();
        assert_eq!(cut.outcome, Outcome::NoAnswer);
    }

    #[test]
    fn a_webhook_that_is_no_address_is_refused_without_being_shown() {
        let error = slack("not-a-url/T/B/secret").err().unwrap().to_string();
        assert!(error.starts_with("accounts.slack.webhook: ") && !error.contains("secret"), "{error}");
    }

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
