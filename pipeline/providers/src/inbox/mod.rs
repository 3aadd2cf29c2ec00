//! The in-app inbox: a stream per user that the producer's app reads.
//!
//! Guarantee: an inbox takes a delivery once, so an attempt cut off by a crash is simply made again. What is in
//! the inbox has arrived: the `delivered` receipt comes with the answer.

use std::sync::Arc;

use chasqui_contract::{Answer, Class, Inbox, Outcome, StoreError};
use chasqui_rules::Overridable;
use chasqui_schemas::{Channel, Delivery, ReceiptKind, delivery::Address, inbox::InboxMessage, receipt::Actor};
use serde::Deserialize;

use crate::{
    Vendor,
    account::{Call, receipt},
};

/// The vendor's name, for `overrides`.
const NAME: &str = "inbox";

/// What `overrides` may set.
static OVERRIDES: Overridable = Overridable { never: &[], senders: &[], links: &["url"], harmless: &["*"] };

/// The vendor, which is Chasqui itself.
pub(crate) static VENDOR: Vendor = Vendor {
    name: NAME,
    serves: &[(Channel::InApp, None)],
    overrides: &OVERRIDES,
    manual: include_str!("inbox.toml"),
    sender: |account, ports| {
        let Settings {} = account.settings()?;
        Ok(account.provider(InboxProvider::new(ports.inbox.clone())))
    },
    callbacks: None,
};

/// See `inbox.toml`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {}

/// Appends to inboxes.
pub(crate) struct InboxProvider {
    inbox: Arc<dyn Inbox>,
}

impl InboxProvider {
    pub(crate) fn new(inbox: Arc<dyn Inbox>) -> Self {
        InboxProvider { inbox }
    }
}

impl Call for InboxProvider {
    async fn call(&self, delivery: &Delivery) -> Result<Answer, Answer> {
        let Address::Inbox(user) = &delivery.endpoint.address else {
            return Err(Answer::new(Outcome::Misconfigured, "channel", "the inbox serves the channel in_app only"));
        };
        let message = InboxMessage {
            notification_id: delivery.notification_id,
            delivery_id: delivery.id,
            category: &delivery.category,
            title: delivery.content.title.as_deref(),
            body: delivery.content.body.as_deref(),
            url: delivery.content.url.as_deref(),
            collapse_key: delivery.collapse_key.as_deref(),
            at: delivery.submitted_at,
            expires_at: delivery.expires_at,
            data: delivery.overrides.get(NAME),
        };
        let json =
            serde_json::to_vec(&message).map_err(|error| Answer::new(Outcome::Refused, "json", error.to_string()))?;
        let appended = self.inbox.append(&delivery.app, user, delivery.id, delivery.submitted_at, json.into());
        appended.await.map_err(|error| classify(&error))?;
        Ok(Answer {
            message_id: delivery.id.to_string(),
            receipts: vec![(ReceiptKind::Delivered, receipt(delivery, Actor::Unknown))],
            ..Answer::new(Outcome::Accepted, "", "")
        })
    }
}

/// An append may be repeated without harm, so what passes is tried again, not ambiguous.
fn classify(error: &StoreError) -> Answer {
    let outcome = match error.class() {
        Class::RetryAfter(after) => Outcome::TryLater { after: Some(after) },
        Class::Overloaded => Outcome::Throttled { after: None },
        Class::Permanent => Outcome::Refused,
    };
    Answer::new(outcome, "store", error.to_string())
}

#[cfg(test)]
mod tests {
    use chasqui_schemas::submission::Content;
    use serde_json::{Value, json};

    use super::*;
    use crate::testing::{TestInbox, delivery_by};

    #[tokio::test]
    async fn a_delivery_is_appended_and_has_arrived() {
        let inbox = Arc::new(TestInbox::default());
        let mut delivery = delivery_by(Channel::InApp);
        delivery.content = Content { url: Some("https://example.com/o/1".into()), ..delivery.content };
        delivery.overrides = json!({"inbox": {"badge": 3}, "sandbox": {}}).as_object().unwrap().clone();

        let answer = InboxProvider::new(inbox.clone()).call(&delivery).await.unwrap();

        assert_eq!(answer.outcome, Outcome::Accepted);
        assert_eq!(answer.receipts[0].0, ReceiptKind::Delivered);
        assert_eq!(answer.receipts[0].1.delivery_id, delivery.id);
        let appended = inbox.appended.lock().unwrap();
        let [(app, user, id, message)] = &appended[..] else { panic!("{} messages", appended.len()) };
        assert_eq!((app.as_str(), user.as_str(), *id), ("shop", "ada", delivery.id));
        assert_eq!(
            serde_json::from_slice::<Value>(message).unwrap(),
            json!({
                "notification_id": delivery.notification_id, "delivery_id": delivery.id, "category": "order",
                "title": "Your order", "body": "It is on its way.", "url": "https://example.com/o/1",
                "at": "2026-03-01T12:00:00Z", "data": {"badge": 3},
            })
        );
    }

    #[tokio::test]
    async fn a_store_that_is_away_or_full_is_tried_later() {
        for (error, transient) in [
            (StoreError::Unavailable { store: "inbox", source: None }, true),
            (StoreError::Full { store: "inbox" }, true),
            (StoreError::BadRecord { store: "inbox", key: "k".into(), source: "bad".into() }, false),
        ] {
            let inbox = Arc::new(TestInbox::default());
            *inbox.error.lock().unwrap() = Some(error);
            let outcome = InboxProvider::new(inbox).call(&delivery_by(Channel::InApp)).await.unwrap_err().outcome;
            let tried_again = matches!(outcome, Outcome::TryLater { .. } | Outcome::Throttled { .. });
            assert_eq!(tried_again, transient, "{outcome:?}");
        }
    }

    #[tokio::test]
    async fn other_channels_are_a_configuration_error() {
        let inbox = Arc::new(TestInbox::default());
        let answer = InboxProvider::new(inbox.clone()).call(&delivery_by(Channel::Sms)).await.unwrap_err();
        assert_eq!(answer.outcome, Outcome::Misconfigured);
        assert!(inbox.appended.lock().unwrap().is_empty());
    }
}
