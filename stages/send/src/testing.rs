//! What the crate's tests share: a provider that follows a script, deliveries.

use std::{collections::VecDeque, sync::Mutex, time::Duration};

use async_trait::async_trait;
use chasqui_contract::{Answer, Provider};
use chasqui_rules::Routes;
pub(crate) use chasqui_schemas::sample::{at, delivery_by, delivery_to};
use chasqui_schemas::{
    Channel, Delivery,
    record::{Contacts, Device, Platform},
};
use chasqui_stores::memory::MemoryDirectory;

use crate::{DEFAULTS, Settings};

/// The contacts of `ada`, who has the device of [`delivery_by`].
pub(crate) fn with_ada() -> MemoryDirectory {
    let push = delivery_by(Channel::Push);
    let device = Device {
        id: push.endpoint.id.clone(),
        platform: Platform::Android,
        token: push.endpoint.address.text().to_owned(),
        registered_at: None,
    };
    MemoryDirectory::new().with("ada", Contacts { devices: vec![device], ..Contacts::default() })
}

/// The default settings.
pub(crate) fn settings() -> Settings {
    settings_with("").unwrap()
}

/// The default settings with a TOML text over them.
pub(crate) fn settings_with(over: &str) -> Result<Settings, toml::de::Error> {
    let mut whole: toml::Table = DEFAULTS.parse().unwrap();
    lay(over.parse()?, &mut whole);
    whole.remove("send").unwrap().try_into()
}

/// The default routes with a TOML text over them.
pub(crate) fn routes(over: &str) -> Routes {
    let mut whole: toml::Table = chasqui_rules::routes::DEFAULTS.parse().unwrap();
    let mut routes: toml::Table = whole.remove("routes").unwrap().try_into().unwrap();
    lay(over.parse().unwrap(), &mut routes);
    Routes::new(routes.try_into().unwrap(), [])
}

/// Lays one table over another, as the program does.
fn lay(over: toml::Table, under: &mut toml::Table) {
    for (key, value) in over {
        match (value, under.get_mut(&key)) {
            (toml::Value::Table(over), Some(toml::Value::Table(under))) => lay(over, under),
            (value, _) => _ = under.insert(key, value),
        }
    }
}

/// A provider that follows a script, and counts its calls.
pub(crate) struct ScriptedProvider {
    name: &'static str,
    strangers: bool,
    serves: Vec<Channel>,
    answers: Mutex<VecDeque<Answer>>,
    delay: Duration,
    sent: Mutex<Vec<Delivery>>,
}

impl ScriptedProvider {
    pub(crate) fn new(answers: impl IntoIterator<Item = Answer>) -> Self {
        Self::slow(Duration::ZERO, answers)
    }

    /// Every call takes `delay`.
    pub(crate) fn slow(delay: Duration, answers: impl IntoIterator<Item = Answer>) -> Self {
        let answers = Mutex::new(answers.into_iter().collect());
        ScriptedProvider {
            name: "script",
            strangers: false,
            serves: Channel::ALL.to_vec(),
            answers,
            delay,
            sent: Mutex::default(),
        }
    }

    pub(crate) fn named(self, name: &'static str) -> Self {
        ScriptedProvider { name, ..self }
    }

    /// Each device's token is the origin that answers for it.
    pub(crate) fn of_strangers(self) -> Self {
        ScriptedProvider { strangers: true, ..self }
    }

    pub(crate) fn only(self, channel: Channel) -> Self {
        ScriptedProvider { serves: vec![channel], ..self }
    }

    /// It serves no channel.
    pub(crate) fn for_alerts(self) -> Self {
        ScriptedProvider { serves: Vec::new(), ..self }
    }

    pub(crate) fn calls(&self) -> usize {
        self.sent.lock().unwrap().len()
    }

    /// The texts that it was asked to send.
    pub(crate) fn texts(&self) -> Vec<String> {
        self.sent.lock().unwrap().iter().map(|delivery| delivery.content.body.clone().unwrap()).collect()
    }
}

#[async_trait]
impl Provider for ScriptedProvider {
    fn account(&self) -> &str {
        self.name
    }

    fn vendor(&self) -> &str {
        "scripted"
    }

    fn serves(&self, channel: Channel, _: Option<Platform>) -> bool {
        self.serves.contains(&channel)
    }

    fn origin(&self, delivery: &Delivery) -> Option<String> {
        self.strangers.then(|| delivery.endpoint.address.text().to_owned())
    }

    async fn send(&self, delivery: &Delivery) -> Answer {
        self.sent.lock().unwrap().push(delivery.clone());
        tokio::time::sleep(self.delay).await;
        self.answers.lock().unwrap().pop_front().expect("a call more than the script has")
    }
}
