//! Alerts: developers learn that an account keeps failing, once per account and reason in a window, with counts.
//!
//! An alert is a delivery through an account like others: Slack's, a mail relay's.
//!
//! Guarantee: sending never waits for an alert. Noting a failure takes a lock for a moment and no I/O; what is to be
//! told goes to a bounded queue per target, and where that is full, or the target refuses, its next alert says how many
//! are missing. Whom a message was for is in no alert: answers come here after their addresses were taken out. A
//! vendor's words are made inert ([`inert`]): no link, no markup, whatever the alert is read in. The words of a stranger,
//! whom an endpoint and not the account names, are in no alert: it tells the count and the code alone.
//!
//! # What counts
//! | answer | reason | told |
//! |---|---|---|
//! | misconfigured | `provider_misconfigured` | at once |
//! | try later, another provider | `provider_transient` | from `threshold` failures in `window_s` on |
//! | throttled | `provider_throttled` | likewise |
//! | no answer | `provider_timeout` | likewise |
//! | refused | `provider_refused` | likewise |
//! | accepted, dead endpoint, opted out, any of these because of the recipient but the first | | never: these are about recipients |
//!
//! `aggregate` has the rules. Each alert is a line in the log, too, whether there is a target or not.
//!
//! # Several processes, and crashes
//! Each process counts and tells for itself: with N workers, the threshold is reached later, by each on its own share,
//! and the same trouble is told up to N times per window; every alert names its process. Counts and queues are in
//! memory: a crash forgets them, and the failures themselves are in ClickHouse as ever.

mod aggregate;

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use chasqui_contract::{Answer, Clock, Outcome, Provider};
use chasqui_schemas::{Channel, Delivery, Reason, delivery::Address, submission::Content, text::inert};
use chasqui_settings::SettingsError;
use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;
use tokio::{
    sync::mpsc,
    time::{sleep, timeout},
};
use uuid::Uuid;

use self::aggregate::{Aggregate, Alert};

/// Maximum alerts that wait for a target: what is older helps nobody.
const QUEUE: usize = 32;
/// How often windows are looked at, for their end.
const TICK: Duration = Duration::from_secs(1);
/// Maximum tries per alert and target: with the waits between them, some minutes.
const MAX_TRIES: u32 = 8;
/// Maximum time of a try.
const MAX_TRY: Duration = Duration::from_secs(60);
/// Maximum wait between tries, also where the target asks for more.
const MAX_WAIT: Duration = Duration::from_secs(10 * 60);
/// Maximum window, in seconds: a week.
const MAX_WINDOW_S: u32 = 7 * 24 * 60 * 60;

/// `[send.alerts]`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Seconds in which an account's failures for one reason give one alert.
    pub window_s: u32,
    /// Failures in a window before there is an alert.
    pub threshold: u64,
    /// Who gets them.
    pub to: Vec<Recipient>,
}

/// Who gets alerts.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipient {
    /// The account that they go through.
    pub account: String,
    /// The mailbox or phone number that they go to, where the account's channel needs one.
    pub address: Option<String>,
}

/// The alerts of this process. Dropped, it lets its tasks tell what is queued, and end.
pub struct Alerts(Arc<Inner>);

struct Inner {
    aggregate: Mutex<Aggregate>,
    queues: Vec<Queue>,
    clock: Arc<dyn Clock>,
}

/// What waits for a target, and how much the target missed.
struct Queue {
    alerts: mpsc::Sender<Alert>,
    missed: Arc<AtomicU64>,
}

/// Somebody to tell: an alert is a delivery to them.
struct Target {
    provider: Arc<dyn Provider>,
    address: Address,
}

impl Alerts {
    /// Alerts as set, and one task for each target; `providers` are the accounts that they may go through. Without a
    /// target there is only the log, and no tokio runtime is needed.
    ///
    /// # Errors
    /// See [`SettingsError`].
    pub fn start(
        settings: &Settings,
        providers: &[Arc<dyn Provider>],
        clock: Arc<dyn Clock>,
    ) -> Result<Self, SettingsError> {
        let targets = targets(settings, providers)?;
        let window = SignedDuration::from_secs(settings.window_s.into());
        let aggregate = Mutex::new(Aggregate::new(window, settings.threshold));
        let queues = targets.into_iter().map(|target| target.serve(clock.clone())).collect();
        let inner = Arc::new(Inner { aggregate, queues, clock });
        if !inner.queues.is_empty() {
            tokio::spawn(watch_windows(Arc::downgrade(&inner)));
        }
        Ok(Alerts(inner))
    }

    /// An answer of a provider.
    pub fn note(&self, provider: &str, answer: &Answer) {
        let Some(reason) = reason(answer) else { return };
        let now = self.0.clock.now();
        let alert = self.0.aggregate().note(now, provider, reason, &answer.code, &answer.detail);
        if let Some(alert) = alert {
            self.0.tell(&alert);
        }
    }
}

impl Inner {
    fn aggregate(&self) -> MutexGuard<'_, Aggregate> {
        // A poisoned count is still a count.
        self.aggregate.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Logs it, and hands it to every target that has room.
    fn tell(&self, alert: &Alert) {
        if alert.reason == Reason::ProviderMisconfigured {
            tracing::error!("{}; correct [accounts.{}]", text(alert), alert.provider);
        } else {
            tracing::warn!("{}", text(alert));
        }
        for queue in &self.queues {
            if queue.alerts.try_send(alert.clone()).is_err() {
                queue.missed.fetch_add(1 + alert.untold, Relaxed);
            }
        }
    }
}

fn targets(settings: &Settings, providers: &[Arc<dyn Provider>]) -> Result<Vec<Target>, SettingsError> {
    if !(1..=MAX_WINDOW_S).contains(&settings.window_s) || settings.threshold == 0 {
        let problem = format!("`window_s` must be 1 to {MAX_WINDOW_S}, and `threshold` more than 0");
        return Err(SettingsError::invalid("send.alerts", problem));
    }
    let target = |Recipient { account, address }: &Recipient| {
        let wrong = |problem: String| SettingsError::invalid("send.alerts.to", problem);
        let provider = providers.iter().find(|each| each.account() == account);
        let provider = provider.ok_or_else(|| wrong(format!("there is no account `{account}`")))?;
        let serves = |channel| provider.serves(channel, None);
        let address = match address {
            Some(mailbox) if serves(Channel::Email) && is_mailbox(mailbox) => Address::Mailbox(mailbox.clone()),
            Some(number) if serves(Channel::Sms) && is_number(number) => Address::Phone(number.clone()),
            Some(text) if serves(Channel::Email) || serves(Channel::Sms) => {
                return Err(wrong(format!("`{text}` is not an address of `{account}`")));
            }
            None if serves(Channel::Email) || serves(Channel::Sms) => {
                return Err(wrong(format!("`{account}` needs an `address`")));
            }
            Some(_) => return Err(wrong(format!("`{account}` takes no `address`"))),
            // Where such alerts go is the account's own setting.
            None => Address::Inbox("developers".to_owned()),
        };
        Ok(Target { provider: provider.clone(), address })
    };
    settings.to.iter().map(target).collect()
}

fn is_mailbox(text: &str) -> bool {
    let (local, domain) = text.split_once('@').unwrap_or_default();
    !local.is_empty() && !domain.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic())
}

fn is_number(text: &str) -> bool {
    text.strip_prefix('+').is_some_and(|digits| !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()))
}

/// The reason under which an answer counts, if it does.
fn reason(answer: &Answer) -> Option<Reason> {
    match answer.outcome {
        Outcome::Accepted | Outcome::DeadEndpoint | Outcome::OptedOut => None,
        Outcome::Misconfigured => Some(Reason::ProviderMisconfigured),
        _ if answer.about_recipient => None,
        Outcome::TryLater { .. } | Outcome::OtherProvider => Some(Reason::ProviderTransient),
        Outcome::Throttled { .. } => Some(Reason::ProviderThrottled),
        Outcome::NoAnswer => Some(Reason::ProviderTimeout),
        Outcome::Refused => Some(Reason::ProviderRefused),
    }
}

/// Tells what is due at the end of a window, also when no failure comes any more.
async fn watch_windows(inner: Weak<Inner>) {
    loop {
        sleep(TICK).await;
        let Some(inner) = inner.upgrade() else { return };
        let due = inner.aggregate().due(inner.clock.now());
        due.iter().for_each(|alert| inner.tell(alert));
    }
}

impl Target {
    /// Starts a task that tells one alert after the other.
    fn serve(self, clock: Arc<dyn Clock>) -> Queue {
        let (alerts, mut queue) = mpsc::channel::<Alert>(QUEUE);
        let missed = Arc::new(AtomicU64::new(0));
        let untold = missed.clone();
        tokio::spawn(async move {
            while let Some(mut alert) = queue.recv().await {
                alert.untold += untold.swap(0, Relaxed);
                if let Err(answer) = self.tell(&delivery(&alert, &self.address, clock.now())).await {
                    let (target, code, detail) = (self.provider.account(), answer.code, answer.detail);
                    tracing::error!(target, code, detail, "an alert could not be delivered");
                    untold.fetch_add(1 + alert.untold, Relaxed);
                }
            }
        });
        Queue { alerts, missed }
    }

    /// Tries until the target takes it or refuses it for good, within bounds. What may have arrived is sent again.
    async fn tell(&self, delivery: &Delivery) -> Result<(), Answer> {
        let mut tries = 0;
        loop {
            let answer = timeout(MAX_TRY, self.provider.send(delivery)).await;
            let answer = answer.unwrap_or_else(|_elapsed| Answer::new(Outcome::NoAnswer, "timeout", ""));
            let asked = match answer.outcome {
                Outcome::Accepted => return Ok(()),
                Outcome::TryLater { after } | Outcome::Throttled { after } => after,
                Outcome::NoAnswer | Outcome::OtherProvider => None,
                _ => return Err(answer),
            };
            tries += 1;
            if tries == MAX_TRIES {
                return Err(answer);
            }
            // 1 s, 2 s, 4 s, …
            sleep(asked.unwrap_or_default().max(TICK * 2_u32.pow(tries - 1)).min(MAX_WAIT)).await;
        }
    }
}

/// What is said, on one line.
fn text(alert: &Alert) -> String {
    let Alert { provider, reason, count, during, again, code, detail, untold } = alert;
    let (failures, more) = (if *count == 1 { "failure" } else { "failures" }, if *again { "more " } else { "" });
    let mut text = format!("{provider}: {reason}: {count} {more}{failures} in {} s", during.as_secs());
    text += format!("; the last: {} {}", inert(code), inert(detail)).trim_end();
    if *untold > 0 {
        text += &format!("; not told before this: {untold}");
    }
    text + &format!("; process {}", std::process::id())
}

/// The alert as a message to `address`.
fn delivery(alert: &Alert, address: &Address, now: Timestamp) -> Delivery {
    let title = format!("Chasqui: {} {}", alert.provider, alert.reason);
    let content = Content { title: Some(title), body: Some(text(alert)), ..Content::default() };
    Delivery::notice(Uuid::now_v7(), address.clone(), content, now)
}

#[cfg(test)]
mod tests;
