//! What the crate's tests share: a provider that follows a script, deliveries.

use std::{
    collections::VecDeque,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use chasqui_contract::{Answer, Inbox, Provider, StoreError};
use chasqui_schemas::{
    Channel, Delivery, Lane,
    delivery::{Address, Endpoint},
    id,
    record::Platform,
    submission::Content,
};
use chasqui_settings::SecretSource;
use jiff::{SignedDuration, Timestamp};
use tempfile::NamedTempFile;
use uuid::Uuid;

use crate::{Config, DEFAULTS};

/// The default configuration.
pub(crate) fn config() -> Config {
    config_with("").unwrap()
}

/// The default configuration with a TOML text over it, as the runtime lays it.
pub(crate) fn config_with(over: &str) -> Result<Config, toml::de::Error> {
    fn lay(over: toml::Table, under: &mut toml::Table) {
        for (key, value) in over {
            match (value, under.get_mut(&key)) {
                (toml::Value::Table(over), Some(toml::Value::Table(under))) => lay(over, under),
                (value, _) => _ = under.insert(key, value),
            }
        }
    }
    let mut whole: toml::Table = DEFAULTS.parse().unwrap();
    lay(over.parse()?, &mut whole);
    whole.remove("send").unwrap().try_into()
}

/// Seconds after the moment at which every test begins.
pub(crate) fn at(seconds: i64) -> Timestamp {
    "2026-03-01T12:00:00Z".parse::<Timestamp>().unwrap() + SignedDuration::from_secs(seconds)
}

/// A first attempt, submitted at `at(0)`.
pub(crate) fn delivery(channel: Channel) -> Delivery {
    let address = match channel {
        Channel::Push => Address::Device { platform: Platform::Android, token: "token-1".into(), registered_at: None },
        Channel::Sms => Address::Phone("+491711234567".into()),
        Channel::Email => Address::Mailbox("ada@example.com".into()),
        Channel::InApp => Address::Inbox("ada".into()),
    };
    delivery_to(address)
}

/// A first attempt to an address.
pub(crate) fn delivery_to(address: Address) -> Delivery {
    let endpoint = Endpoint { id: "endpoint".into(), address };
    let notification_id = id::notification(at(0), Uuid::nil(), "ada");
    Delivery {
        id: id::delivery(notification_id, endpoint.channel(), &endpoint.id),
        notification_id,
        request_id: Uuid::nil(),
        app: "shop".into(),
        category: "order".into(),
        template: String::new(),
        variant: String::new(),
        locale: String::new(),
        lane: Lane::Normal,
        category_lane: None,
        user: Some("ada".into()),
        endpoint,
        content: Content {
            title: Some("Your order".into()),
            body: Some("It is on its way.".into()),
            ..Content::default()
        },
        sms_segments: 0,
        submitted_at: at(0),
        expires_at: None,
        collapse_key: None,
        overrides: serde_json::Map::new(),
        unsubscribe_url: None,
        traceparent: None,
        provider: "script".into(),
        attempt: 1,
        pass: 0,
        sending_since: None,
    }
}

/// A place that holds a credential, as long as the file lives.
pub(crate) fn secret(text: &str) -> (SecretSource, NamedTempFile) {
    let file = NamedTempFile::new().unwrap();
    std::fs::write(file.path(), format!("{text}\n")).unwrap();
    (SecretSource { file: Some(file.path().to_owned()), env: None }, file)
}

/// A provider that follows a script, and counts its calls.
pub(crate) struct ScriptedProvider {
    name: &'static str,
    /// The one channel that it serves; all if none.
    serves: Option<Channel>,
    answers: Mutex<VecDeque<Answer>>,
    delay: Duration,
    calls: AtomicUsize,
}

impl ScriptedProvider {
    pub(crate) fn new(answers: impl IntoIterator<Item = Answer>) -> Self {
        Self::slow(Duration::ZERO, answers)
    }

    /// Every call takes `delay`.
    pub(crate) fn slow(delay: Duration, answers: impl IntoIterator<Item = Answer>) -> Self {
        let answers = Mutex::new(answers.into_iter().collect());
        ScriptedProvider { name: "script", serves: None, answers, delay, calls: AtomicUsize::new(0) }
    }

    pub(crate) fn named(self, name: &'static str) -> Self {
        ScriptedProvider { name, ..self }
    }

    pub(crate) fn only(self, channel: Channel) -> Self {
        ScriptedProvider { serves: Some(channel), ..self }
    }

    pub(crate) fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }
}

#[async_trait]
impl Provider for ScriptedProvider {
    fn name(&self) -> &str {
        self.name
    }

    fn serves(&self, channel: Channel, _: Option<Platform>) -> bool {
        self.serves.is_none_or(|only| only == channel)
    }

    async fn send(&self, _: &Delivery) -> Answer {
        self.calls.fetch_add(1, Ordering::SeqCst);
        tokio::time::sleep(self.delay).await;
        self.answers.lock().unwrap().pop_front().expect("a call more than the script has")
    }
}

/// One appended message: app, user, delivery, JSON.
pub(crate) type Appended = (String, String, Uuid, Bytes);

/// An inbox in memory; it fails with `error`, where there is one.
#[derive(Default)]
pub(crate) struct TestInbox {
    pub(crate) appended: Mutex<Vec<Appended>>,
    pub(crate) error: Mutex<Option<StoreError>>,
}

#[async_trait]
impl Inbox for TestInbox {
    async fn append(&self, app: &str, user: &str, delivery_id: Uuid, message: Bytes) -> Result<(), StoreError> {
        if let Some(error) = self.error.lock().unwrap().take() {
            return Err(error);
        }
        self.appended.lock().unwrap().push((app.to_owned(), user.to_owned(), delivery_id, message));
        Ok(())
    }
}
