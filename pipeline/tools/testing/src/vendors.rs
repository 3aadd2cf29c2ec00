//! The lab's vendors instead of the sandbox: settings, people, and the judge that holds ClickHouse against the vendors'
//! own ledgers, delivery by delivery.

use std::collections::BTreeMap;

use anyhow::{Context, ensure};
use async_nats::jetstream::{self, consumer::pull};
use chasqui_lab::{Answered, Call, Lab, Vendor};
use chasqui_schemas::stream;
use futures::{StreamExt, TryStreamExt};
use serde::Deserialize;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::{TestInstall, oracle};

/// Settings that send everything to the lab: to two vendors where there are two, with waits of seconds, because an
/// outage in a test takes seconds. After an ambiguous attempt the channels do what they do by default: SMS holds, the
/// others retry. Calls and messages have more time than a busy machine takes, so that its slowness fails no test.
pub fn settings(lab: &Lab) -> String {
    let mut settings = lab.settings().clone();
    settings.tables["routes"] = json!({
        "push": { "ios": ["apns"], "android": ["fcm"], "web": ["webpush"] },
        "sms": ["twilio", "vonage"],
        "email": ["sendgrid", "mailgun"],
    });
    let send = &mut settings.tables["send"];
    for channel in ["push", "sms", "email", "in_app"] {
        send[channel]["schedule_ms"] = json!([300, 1_000, 2_000]);
        send[channel]["max_rounds"] = json!(50);
        send[channel]["timeout_ms"] = json!(60_000);
    }
    for vendor in ["apns", "fcm", "webpush", "twilio", "vonage", "sendgrid", "mailgun"] {
        settings.tables["accounts"][vendor]["timeout_ms"] = json!(50_000);
    }
    format!("[runner]\nack_wait_ms = 100000\n{}", settings.toml())
}

/// The name of one of the people that [`import`] makes.
pub fn person(number: u64) -> String {
    format!("person-{number}")
}

/// Makes so many people, each with a mailbox, a phone and a device: five iPhones to four Androids to one browser.
///
/// # Errors
/// Fails where the records cannot be stored.
pub async fn import(install: &TestInstall, lab: &Lab, count: u64) -> anyhow::Result<()> {
    // Making a key for every browser would take longer than the test.
    let browsers = (0..10).map(|_| lab.subscribe("")).collect::<Result<Vec<Value>, _>>()?;
    let contacts = |number: u64| {
        let (platform, token) = match number % 10 {
            0 => ("web", browsers[number as usize / 10 % browsers.len()].to_string()),
            1..=4 => ("android", format!("android-{number}")),
            _ => ("ios", format!("{number:064x}")),
        };
        json!({
            "emails": [format!("{}@example.com", person(number))],
            "phones": [format!("+49151{number:07}")],
            "devices": [{ "id": "device", "platform": platform, "token": token }],
        })
    };
    let people: BTreeMap<String, Value> = (0..count).map(|number| (person(number), contacts(number))).collect();
    let file = tempfile::NamedTempFile::new()?;
    serde_json::to_writer(&file, &people)?;
    install.run(&["contacts", "import", &file.path().to_string_lossy()]).await?;
    Ok(())
}

/// A delivery as an analyst sees it.
#[derive(Debug, Clone, Deserialize)]
pub struct Row {
    /// Its id.
    pub delivery_id: Uuid,
    /// The submission.
    pub request_id: Uuid,
    /// What kind of address it went to.
    pub channel: String,
    /// The account that it was given to last.
    pub provider: String,
    /// Where it has got to.
    pub state: String,
    /// Why.
    pub reason: String,
    /// How often it was tried.
    pub attempts: usize,
}

/// A delivery, and the vendors' calls about it.
#[derive(Debug)]
pub struct Account {
    /// What ClickHouse says.
    pub row: Row,
    /// What the vendors say, in order.
    pub calls: Vec<Call>,
}

impl Account {
    /// How often a vendor took it.
    pub fn accepted(&self) -> usize {
        self.calls.iter().filter(|call| call.accepted).count()
    }

    /// Whether the two stories are one. Calls end whole or ambiguously; only an attempt that ended ambiguously may be
    /// followed by another where the message was taken, and on SMS not even then.
    fn agrees(&self, inbox: usize) -> bool {
        let Row { channel, provider, state, reason, attempts, .. } = &self.row;
        let whole: Vec<&Call> = self.calls.iter().filter(|c| c.accepted && c.answered == Answered::Whole).collect();
        let story = match (channel.as_str(), state.as_str(), reason.as_str()) {
            ("in_app", "delivered", _) => inbox == 1 && self.calls.is_empty(),
            // The last call is the one that was taken, and known to be.
            (_, "sent" | "delivered" | "bounced", _) => match (&whole[..], self.calls.last()) {
                ([taken], Some(last)) => taken.vendor.as_str() == provider && last.accepted,
                _ => false,
            },
            ("sms", "dead", "held") => {
                whole.is_empty() && self.calls.iter().all(|call| call.answered == Answered::Cut || !call.accepted)
            }
            _ => false,
        };
        let once = channel != "sms" || self.accepted() <= 1;
        // An attempt at an address where nothing listens is no call; no attempt is two calls.
        story && once && self.calls.len() <= *attempts && (channel == "in_app") == (inbox > 0)
    }
}

/// Every delivery with the calls about it.
///
/// # Errors
/// Fails where the vendors' ledgers, the inboxes and ClickHouse contradict each other, with the first contradictions; and
/// where a vendor was asked what its documentation does not allow.
pub async fn accounts(install: &TestInstall, lab: &Lab) -> anyhow::Result<Vec<Account>> {
    let wrong = lab.ledger().wrong();
    ensure!(wrong.is_empty(), "{} requests are not as documented: {:?}", wrong.len(), wrong[0]);
    let mut calls: BTreeMap<Uuid, Vec<Call>> = BTreeMap::new();
    let is_message = |call: &Call| !matches!(call.vendor, Vendor::Oauth | Vendor::Slack);
    for call in lab.ledger().calls().into_iter().filter(is_message) {
        let delivery = call.delivery_id.parse().with_context(|| format!("a call without a delivery: {call:?}"))?;
        calls.entry(delivery).or_default().push(call);
    }
    let mut inboxes = inboxes(install).await?;
    let rows = "SELECT delivery_id, request_id, channel, provider, state, reason, attempts FROM deliveries";
    let rows: Vec<Row> = oracle::query(install, rows).await?;
    let mut accounts = Vec::with_capacity(rows.len());
    let mut contradictions = Vec::new();
    for row in rows {
        let inbox = inboxes.remove(&row.delivery_id).unwrap_or(0);
        let account = Account { calls: calls.remove(&row.delivery_id).unwrap_or_default(), row };
        if !account.agrees(inbox) {
            contradictions.push(format!("{account:?}, {inbox} in the inbox"));
        }
        accounts.push(account);
    }
    ensure!(
        contradictions.is_empty(),
        "{} deliveries have two stories:\n{}",
        contradictions.len(),
        contradictions[..contradictions.len().min(5)].join("\n")
    );
    ensure!(calls.is_empty() && inboxes.is_empty(), "unknown to ClickHouse: {calls:?} {inboxes:?}");
    Ok(accounts)
}

/// How often each delivery stands in an in-app inbox.
async fn inboxes(install: &TestInstall) -> anyhow::Result<BTreeMap<Uuid, usize>> {
    #[derive(Deserialize)]
    struct Message {
        delivery_id: Uuid,
    }
    let mut inboxes = BTreeMap::new();
    let count = install.stored(stream::INBOX).await?;
    let inbox = jetstream::new(install.nats.clone()).get_stream(stream::INBOX).await?;
    let messages = inbox.create_consumer(pull::OrderedConfig::default()).await?.messages().await?;
    let mut messages = messages.take(count as usize);
    while let Some(message) = messages.try_next().await? {
        let Message { delivery_id } = serde_json::from_slice(&message.payload)?;
        *inboxes.entry(delivery_id).or_default() += 1;
    }
    Ok(inboxes)
}
