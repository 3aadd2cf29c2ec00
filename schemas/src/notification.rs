//! The notification: what travels from validate to render, one per recipient.

use std::{collections::BTreeMap, sync::Arc};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use uuid::Uuid;

use crate::{
    Channel, Lane,
    collapse::Passage,
    delivery::{Delivery, Endpoint, Written},
    id,
    packed::PackedContent,
    record::{Category, Contacts},
    submission::Submission,
};

/// One recipient's part of a submission.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Notification {
    /// Its id, which is also its trace id; see [`crate::id::notification`].
    pub id: Uuid,
    /// The app that published it.
    pub app: String,
    /// The lane it travels on.
    pub lane: Lane,
    /// When JetStream stored the submission. Latency is measured from here.
    pub submitted_at: Timestamp,
    /// Who it is for.
    pub recipient: Recipient,
    /// What all recipients of the submission have in common.
    pub request: Arc<Request>,
    /// How often it was put back into its queue. It is part of the message id, so that JetStream does not drop the
    /// returning message as a repeat of the first.
    #[serde(default)]
    pub pass: u32,
    /// Set by enrich: how to reach the recipient.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub contacts: Option<Contacts>,
    /// Set by enrich: the users that have the address of an inline recipient in their contacts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub owners: Vec<String>,
    /// Set by enrich: the category's rules as of then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<Category>,
    /// Set by dedupe: the claim of its idempotency key that it holds, and gives back where it ends before a provider is
    /// called. Empty before, and where it must not give it back.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub claim: String,
    /// Set by filter: where it may go. Empty before.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub endpoints: Vec<Endpoint>,
    /// Where this is a [`Notification::part`]: the delivery that it is to become.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delivery_id: Option<Uuid>,
}

impl Notification {
    /// One recipient's part of a `request` that JetStream stored at `submitted_at`.
    pub fn new(
        id: Uuid,
        app: String,
        lane: Lane,
        submitted_at: Timestamp,
        recipient: Recipient,
        request: Arc<Request>,
    ) -> Self {
        Notification {
            id,
            app,
            lane,
            submitted_at,
            recipient,
            request,
            pass: 0,
            contacts: None,
            owners: Vec::new(),
            policy: None,
            claim: String::new(),
            endpoints: Vec::new(),
            delivery_id: None,
        }
    }

    /// What of it concerns one delivery, which may be written anew while the others went on.
    #[must_use]
    pub fn part(&self, delivery_id: Uuid, endpoint: Endpoint) -> Self {
        Notification { endpoints: vec![endpoint], delivery_id: Some(delivery_id), ..self.clone() }
    }

    /// The first attempt to bring what was `written` to one of the notification's endpoints. `id` is
    /// [`crate::Pepper::delivery`].
    pub fn delivery_to(&self, id: Uuid, endpoint: Endpoint, written: Written) -> Delivery {
        let Written { variant, locale, content, sms_segments, unsubscribe_url } = written;
        let request = &self.request;
        Delivery {
            id,
            notification_id: self.id,
            request_id: request.id,
            app: self.app.clone(),
            category: request.category.clone(),
            template: request.message.template().to_owned(),
            variant,
            locale,
            lane: self.lane,
            category_lane: self.policy.as_ref().and_then(|policy| policy.lane),
            user: self.recipient.user().map(str::to_owned),
            owners: self.owners.clone(),
            endpoint,
            content,
            sms_segments,
            submitted_at: self.submitted_at,
            expires_at: self.expires_at(),
            collapse_key: request.collapse_key.clone(),
            collapse: self.collapse(Passage::Passed),
            claim: self.claim.clone(),
            siblings: 1,
            overrides: request.overrides.clone(),
            unsubscribe_url,
            traceparent: request.traceparent.clone(),
            test: request.test,
            provider: String::new(),
            attempt: 1,
            pass: 0,
            sending_since: None,
        }
    }

    /// The users whose preferences hold: the recipient, or whose the inline address is.
    pub fn people(&self) -> impl Iterator<Item = &str> {
        self.recipient.user().into_iter().chain(self.owners.iter().map(String::as_str))
    }

    /// The channels that are wanted: the submission's, else the category's.
    pub fn channels(&self) -> &[Channel] {
        match (&self.request.channels, &self.policy) {
            (Some(channels), _) => channels,
            (None, Some(policy)) => &policy.channels,
            (None, None) => &[],
        }
    }

    /// When it is too late to send: the submission's `expires_at`, else the category's time to live, which
    /// runs from `send_at` where that lies later than the submission.
    pub fn expires_at(&self) -> Option<Timestamp> {
        self.request.expires_at.or_else(|| {
            let ttl_s = self.policy.as_ref()?.ttl_s?;
            let from = self.request.send_at.map_or(self.submitted_at, |send_at| send_at.max(self.submitted_at));
            from.checked_add(jiff::SignedDuration::from_secs(i64::from(ttl_s))).ok()
        })
    }
}

/// Who a notification is for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Recipient {
    /// A user with a record in `contacts`.
    User(String),
    /// Contacts that came with the submission. Where an address is some user's, that user's preferences hold.
    Inline(Contacts),
}

impl Recipient {
    /// The user's id, where there is one.
    pub fn user(&self) -> Option<&str> {
        match self {
            Recipient::User(user) => Some(user),
            Recipient::Inline(_) => None,
        }
    }

    /// A text that identifies this recipient among the others of a submission, and is the same in every submission.
    pub fn key(&self) -> String {
        match self {
            Recipient::User(user) => format!("user:{user}"),
            Recipient::Inline(contacts) => {
                let email = contacts.emails.first().map(String::as_str).unwrap_or_default();
                let phone = contacts.phones.first().map(String::as_str).unwrap_or_default();
                format!("inline:{}:{phone}", email.to_lowercase())
            }
        }
    }
}

/// What all recipients of a submission have in common; see [`crate::submission::Submission`] for the fields.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "documented at the submission")]
pub struct Request {
    pub id: Uuid,
    /// It is always set: validate fills in the `Nats-Msg-Id` header, or else the id.
    pub idempotency_key: String,
    /// A hash of what it says. Of requests that differ only in ids and times it is the same.
    pub fingerprint: String,
    pub category: String,
    /// What to say.
    pub message: Message,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub channels: Option<Vec<Channel>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub send_at: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub locale: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub collapse_key: Option<String>,
    /// It is for the root of the trace, and goes no further than validate.
    #[serde(skip)]
    pub transaction_id: Option<String>,
    /// It is for the root of the trace, and goes no further than validate.
    #[serde(skip)]
    pub metadata: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub overrides: Map<String, Value>,
    /// The producer's own trace, W3C `traceparent`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<String>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub test: bool,
}

impl Request {
    /// What all recipients of `submission` share. The caller has settled what may also come from the message's headers
    /// or from where JetStream stored it.
    pub fn of(submission: Submission, id: Uuid, idempotency_key: String, traceparent: Option<String>) -> Self {
        let mut request = Request {
            id,
            idempotency_key,
            fingerprint: String::new(),
            category: submission.category,
            message: match (submission.template, submission.content) {
                (Some(key), _) => Message::Template { key, data: Json::from(&submission.data) },
                (None, content) => Message::Content(content.unwrap_or_default().into()),
            },
            channels: submission.channels,
            send_at: submission.send_at,
            expires_at: submission.expires_at,
            locale: submission.locale,
            collapse_key: submission.collapse_key,
            transaction_id: submission.transaction_id,
            metadata: submission.metadata,
            overrides: submission.overrides,
            traceparent,
            test: submission.test,
        };
        request.fingerprint = request.hash_of_content();
        request
    }

    /// What [`Request::fingerprint`] is to be: made once for all recipients, since content may be long.
    pub(crate) fn hash_of_content(&self) -> String {
        let data = match &self.message {
            // Parsed, so that neither blanks nor the order of fields count.
            Message::Template { data, .. } => serde_json::from_str(data.as_str()).unwrap_or(Value::Null),
            Message::Content(content) => serde_json::to_value(content).unwrap_or(Value::Null),
        };
        let said = (
            (&self.category, self.message.template(), data),
            (&self.channels, &self.locale, &self.collapse_key, &self.overrides),
        );
        // These always serialise.
        id::claim(&[&serde_json::to_string(&said).unwrap_or_default()])
    }
}

/// The content of a notification: a template with its variables, or the text itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Message {
    /// A template of the `templates` bucket.
    Template {
        /// Its key.
        key: String,
        /// Its variables: a JSON object.
        data: Json,
    },
    /// Inline content, sent as it is.
    Content(PackedContent),
}

impl Message {
    /// The template's key; empty for inline content.
    pub fn template(&self) -> &str {
        match self {
            Message::Template { key, .. } => key,
            Message::Content(_) => "",
        }
    }
}

/// A JSON value that most stages only pass on: it travels as text, and is parsed where it is needed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Json(String);

impl Json {
    /// A JSON text without the blanks between its tokens: whatever was written stays as it is, numbers too.
    pub fn compact(text: &str) -> Self {
        let (mut in_text, mut escaped) = (false, false);
        let stays = |c: &char| {
            if *c == '"' && !escaped {
                in_text = !in_text;
            }
            escaped = in_text && !escaped && *c == '\\';
            in_text || !c.is_ascii_whitespace()
        };
        Json(text.chars().filter(stays).collect())
    }

    /// The text itself.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<&Map<String, Value>> for Json {
    fn from(object: &Map<String, Value>) -> Self {
        // A map of strings to values always serialises.
        Json(serde_json::to_string(object).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fingerprint_is_of_what_is_said() {
        let template = |data: &str| Request {
            message: Message::Template { key: "order".into(), data: Json::compact(data) },
            ..crate::sample::request()
        };
        let of = |request: &Request| request.hash_of_content();
        assert_eq!(of(&template(r#"{"a":1,"b":[2]}"#)), of(&template(r#"{ "b": [2], "a": 1 }"#)));
        assert_ne!(of(&template(r#"{"a":1}"#)), of(&template(r#"{"a":2}"#)));
        let request = crate::sample::request;
        let again = Request {
            id: Uuid::from_u128(9),
            idempotency_key: "other".into(),
            expires_at: Some(Timestamp::UNIX_EPOCH),
            traceparent: Some("x".into()),
            ..request()
        };
        assert_eq!(of(&request()), of(&again));
        for other in [
            Request { category: "news".into(), ..request() },
            Request { channels: Some(vec![Channel::Sms]), ..request() },
            Request { message: Message::Content(crate::submission::Content::default().into()), ..request() },
            template("{}"),
        ] {
            assert_ne!(of(&request()), of(&other), "{other:?}");
        }
    }

    #[test]
    fn a_compact_text_loses_only_blanks_between_tokens() {
        let text = "{ \"a\" :\t[ 1.00,\n2e3 ], \"b c\": \"x \\\" y \\\\\" , \"d\":  true }";
        assert_eq!(Json::compact(text).as_str(), r#"{"a":[1.00,2e3],"b c":"x \" y \\","d":true}"#);
    }
}
