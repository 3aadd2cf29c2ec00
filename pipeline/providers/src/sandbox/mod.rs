//! The sandbox: a provider for every channel that delivers nowhere, and behaves as the address says.
//!
//! Guarantee: deterministic; the same delivery and attempt get the same answer. For development, demonstrations
//! and tests; nothing is sent, nothing costs.
//!
//! # Magic recipients
//! The word may stand anywhere in a device token, in the local part of a mailbox or in an inbox's user; for SMS
//! the last four digits of a number `+1555000….` select.
//!
//! | word | number | what happens |
//! |---|---|---|
//! | (none) | any other | accepted, `delivered` |
//! | `always-fails` | `0001` | a passing trouble, at every attempt |
//! | `fails-N-times` | `01NN` | a passing trouble at the first N attempts |
//! | `rate-limited` | `0002` | throttled at the first attempt, come back after 1 s |
//! | `dead-endpoint` | `0003` | the address does not exist |
//! | `refused` | `0004` | refused for good |
//! | `no-answer` | `0005` | no answer, although it was sent |
//! | `bounces` | `0006` | accepted, `bounced` |
//! | `opens` | `0007` | accepted, `delivered`, `opened` and `clicked` |
//! | `slow-MS` | `02NN` | takes MS (NN times 100) milliseconds longer; goes with any other word |
//!
//! # The log
//! With `log` set, every call appends one line, `delivery_id attempt unix_nanos pid`, with one write to a file
//! opened for appending, before it does anything else: what the provider was really asked, whatever crashes then.

mod magic;

use std::{
    fs::{File, OpenOptions},
    io::Write as _,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use chasqui_contract::{Answer, Clock, Outcome};
use chasqui_rules::Overridable;
use chasqui_schemas::{Channel, Delivery, ReceiptKind, receipt::Actor, record::Platform};
use chasqui_settings::SettingsError;
use serde::Deserialize;

use self::magic::Ending;
use crate::{
    Account, Vendor,
    account::{Call, receipt},
};

const NAME: &str = "sandbox";

/// What `overrides` may set.
static OVERRIDES: Overridable = Overridable { never: &[], senders: &[], links: &[], harmless: &["*"] };

/// The vendor.
pub(crate) static VENDOR: Vendor = Vendor {
    name: NAME,
    serves: &[
        (Channel::Push, Some(Platform::Ios)),
        (Channel::Push, Some(Platform::Android)),
        (Channel::Push, Some(Platform::Web)),
        (Channel::Sms, None),
        (Channel::Email, None),
        (Channel::InApp, None),
    ],
    overrides: &OVERRIDES,
    manual: include_str!("sandbox.toml"),
    sender: |account, ports| {
        let call = Sandbox::new(account, &account.settings()?, ports.clock.clone())?;
        Ok(account.provider(call))
    },
    callbacks: None,
};

/// See `sandbox.toml`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Settings {
    pub(crate) latency_ms: u64,
    pub(crate) log: Option<PathBuf>,
}

/// Delivers nowhere.
pub(crate) struct Sandbox {
    latency: Duration,
    log: Option<File>,
    clock: Arc<dyn Clock>,
}

impl Sandbox {
    pub(crate) fn new(
        account: &Account<'_>,
        settings: &Settings,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, SettingsError> {
        let open = |path: &PathBuf| OpenOptions::new().create(true).append(true).open(path);
        let log = settings.log.as_ref().map(open).transpose();
        let log = log.map_err(|source| SettingsError::file(account.key("log"), source))?;
        Ok(Sandbox { latency: Duration::from_millis(settings.latency_ms), log, clock })
    }

    /// One line, one write: lines of several processes do not mix.
    fn record(&self, delivery: &Delivery) -> std::io::Result<()> {
        let Some(mut log) = self.log.as_ref() else { return Ok(()) };
        let (nanos, pid) = (self.clock.now().as_nanosecond(), std::process::id());
        log.write_all(format!("{} {} {nanos} {pid}\n", delivery.id, delivery.attempt).as_bytes())
    }
}

impl Call for Sandbox {
    async fn call(&self, delivery: &Delivery) -> Result<Answer, Answer> {
        if let Err(error) = self.record(delivery) {
            // A test that trusts the log must not go on without it.
            return Err(Answer::new(Outcome::Misconfigured, "log", error.to_string()));
        }
        let magic = magic::read(&delivery.endpoint.address);
        let latency = self.latency.saturating_add(magic.slow);
        if !latency.is_zero() {
            tokio::time::sleep(latency).await;
        }
        Ok(answer(delivery, magic.ending))
    }
}

fn answer(delivery: &Delivery, ending: Ending) -> Answer {
    let accepted = |receipts: &[(ReceiptKind, Actor)]| Answer {
        message_id: format!("{NAME}-{}-{}", delivery.id, delivery.attempt),
        receipts: receipts.iter().map(|&(kind, by)| (kind, receipt(delivery, by))).collect(),
        ..Answer::new(Outcome::Accepted, "ok", "")
    };
    let delivered = (ReceiptKind::Delivered, Actor::Unknown);
    let failure = |outcome, code| Answer { about_recipient: true, ..Answer::new(outcome, code, "as the address asks") };
    match ending {
        Ending::FailsTimes(times) if delivery.attempt <= times => {
            failure(Outcome::TryLater { after: None }, "fails-n-times")
        }
        Ending::RateLimited if delivery.attempt <= 1 => {
            failure(Outcome::Throttled { after: Some(Duration::from_secs(1)) }, "rate-limited")
        }
        Ending::Delivered | Ending::FailsTimes(_) | Ending::RateLimited => accepted(&[delivered]),
        Ending::AlwaysFails => failure(Outcome::TryLater { after: None }, "always-fails"),
        Ending::DeadEndpoint => failure(Outcome::DeadEndpoint, "dead-endpoint"),
        Ending::Refused => failure(Outcome::Refused, "refused"),
        Ending::NoAnswer => failure(Outcome::NoAnswer, "no-answer"),
        Ending::Bounces => accepted(&[(ReceiptKind::Bounced, Actor::Unknown)]),
        Ending::Opens => {
            accepted(&[delivered, (ReceiptKind::Opened, Actor::Human), (ReceiptKind::Clicked, Actor::Human)])
        }
    }
}

#[cfg(test)]
mod tests {
    use chasqui_contract::ManualClock;
    use chasqui_schemas::delivery::Address;
    use tokio::time::Instant;

    use super::*;
    use crate::testing::{account, at, delivery_by, delivery_to};

    fn sandbox(latency_ms: u64, log: Option<PathBuf>) -> Sandbox {
        Sandbox::new(&account(&VENDOR), &Settings { latency_ms, log }, Arc::new(ManualClock::new(at(5)))).unwrap()
    }

    async fn send(local: &str, attempt: u32) -> Answer {
        let to = delivery_to(Address::Mailbox(format!("{local}@example.com")));
        sandbox(0, None).call(&Delivery { attempt, ..to }).await.unwrap()
    }

    fn kinds(answer: &Answer) -> Vec<ReceiptKind> {
        answer.receipts.iter().map(|(kind, _)| *kind).collect()
    }

    #[tokio::test]
    async fn every_channel_is_served() {
        for channel in Channel::ALL {
            let answer = sandbox(0, None).call(&delivery_by(channel)).await.unwrap();
            assert_eq!(answer.outcome, Outcome::Accepted);
            assert_eq!(kinds(&answer), [ReceiptKind::Delivered]);
        }
    }

    #[tokio::test]
    async fn some_addresses_fail_a_number_of_times() {
        let outcomes = [send("fails-2-times", 1), send("fails-2-times", 2)];
        for outcome in outcomes {
            assert_eq!(outcome.await.outcome, Outcome::TryLater { after: None });
        }
        assert_eq!(send("fails-2-times", 3).await.outcome, Outcome::Accepted);
        assert_eq!(send("always-fails", 99).await.outcome, Outcome::TryLater { after: None });
        assert!(matches!(send("rate-limited", 1).await.outcome, Outcome::Throttled { after: Some(_) }));
        assert_eq!(send("rate-limited", 2).await.outcome, Outcome::Accepted);
    }

    #[tokio::test]
    async fn some_addresses_report_more() {
        assert_eq!(kinds(&send("bounces", 1).await), [ReceiptKind::Bounced]);
        let opened = [ReceiptKind::Delivered, ReceiptKind::Opened, ReceiptKind::Clicked];
        assert_eq!(kinds(&send("opens", 1).await), opened);
    }

    #[tokio::test(start_paused = true)]
    async fn latency_is_what_is_set_and_what_the_address_adds() {
        let began = Instant::now();
        sandbox(300, None).call(&delivery_to(Address::Inbox("slow-700".into()))).await.unwrap();
        assert_eq!(began.elapsed(), Duration::from_secs(1));
    }

    #[tokio::test]
    async fn every_call_leaves_a_line_even_one_that_is_cut_off() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let sandbox = sandbox(0, Some(path.clone()));
        let delivery = delivery_to(Address::Inbox("slow-60000".into()));
        let cut_off = tokio::time::timeout(Duration::from_millis(5), sandbox.call(&delivery)).await;
        assert!(cut_off.is_err());
        sandbox.call(&Delivery { attempt: 2, ..delivery_to(Address::Inbox("ada".into())) }).await.unwrap();

        let log = std::fs::read_to_string(path).unwrap();
        let (nanos, pid) = (at(5).as_nanosecond(), std::process::id());
        let id = delivery.id;
        assert_eq!(log, format!("{id} 1 {nanos} {pid}\n{id} 2 {nanos} {pid}\n"));
    }

    #[tokio::test]
    async fn a_log_that_cannot_be_opened_is_refused_at_start_up() {
        let settings = Settings { latency_ms: 0, log: Some("/nowhere/at/all".into()) };
        let error = Sandbox::new(&account(&VENDOR), &settings, Arc::new(ManualClock::new(at(0)))).err().unwrap();
        assert!(error.to_string().starts_with("accounts.sandbox.log"), "{error}");
    }
}
