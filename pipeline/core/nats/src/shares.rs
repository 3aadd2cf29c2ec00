//! What each app holds of a stream that all apps share, so that the flood of one leaves room for the others.
//!
//! The rule is always the same: **an app may hold as much as is free**, or a multiple of that ([`Room`]). An app alone
//! gets half of the stream, two get a third each, and there is always something left for the next. Nobody configures it.
//!
//! JetStream counts messages per subject, never bytes, so the bytes are counted here, by reading headers. As long as
//! less than half of the stream is taken, no app can hold more than is free: nobody has to be counted then, and it costs
//! one small request a second.
//!
//! Guarantee: to ask is cheap and never waits. The answer is that of the last look, plus what this process added since.
//! Other processes' additions are seen at the next look, so together they may exceed a share by what they store
//! meanwhile. A broker that does not answer leaves the last answer standing.
//!
//! After a crash there is nothing to restore: the stream itself is read.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use async_nats::jetstream::{Context, Message, stream};
use chasqui_schemas::{header, stream::MAX_BYTES, subject};
use tokio::time::{Instant, sleep, timeout};

use crate::headers;

/// How often the stream is looked at: less than it takes a flood to fill the half that is left.
const LOOK: Duration = Duration::from_secs(1);
/// Minimum time between two counts, in times that a count took: counting is a tenth of the time at most.
const REST: u32 = 10;
/// Maximum time of one count.
const COUNT_TIMEOUT: Duration = Duration::from_secs(60);
/// Maximum apps that are counted apart; those beyond are counted as one. Far more than an installation has.
const MAX_APPS: usize = 10_000;
/// Minimum bytes that a message counts as: the server keeps something of each in memory, however small it is.
const MIN_MESSAGE_BYTES: u64 = 2 * 1024;

/// How much room an app has in a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// Maximum bytes of the stream.
    pub max: u64,
    /// Bytes of it that are taken.
    pub taken: u64,
    /// Bytes of those that the app holds, as far as they are counted.
    pub of_app: u64,
}

impl Room {
    /// Whether the app may store so many bytes, where it may hold `times` what is free.
    pub fn admits(&self, bytes: u64, times: u64) -> bool {
        let bytes = bytes.max(MIN_MESSAGE_BYTES);
        self.of_app.saturating_add(bytes) <= self.max.saturating_sub(self.taken).saturating_mul(times)
    }
}

/// Watches a stream. Clones share what they know.
#[derive(Debug, Clone)]
pub struct Shares(Arc<Mutex<Counts>>);

#[derive(Debug, Default)]
struct Counts {
    /// Zero while it is not known, or where there is none.
    max: u64,
    taken: u64,
    apps: HashMap<String, u64>,
}

impl Counts {
    fn add(&mut self, app: &str, bytes: u64) {
        let bytes = bytes.max(MIN_MESSAGE_BYTES);
        if let Some(held) = self.apps.get_mut(app) {
            *held += bytes;
        } else {
            let app = if self.apps.len() < MAX_APPS { app } else { "" };
            *self.apps.entry(app.to_owned()).or_default() += bytes;
        }
    }
}

impl Shares {
    /// Watches `stream` for as long as the answer or a clone of it exists.
    pub fn watch(context: Context, stream: &'static str) -> Self {
        let counts = Arc::new(Mutex::new(Counts::default()));
        tokio::spawn(watch(context, stream, Arc::downgrade(&counts)));
        Shares(counts)
    }

    /// The room of `app`; `None` while the stream is not known, or where it has no limit.
    pub fn room(&self, app: &str) -> Option<Room> {
        let counts = lock(&self.0);
        let of_app = counts.apps.get(app).copied().unwrap_or_default();
        (counts.max > 0).then_some(Room { max: counts.max, taken: counts.taken, of_app })
    }

    /// Remembers that `app` stores so many bytes, until the next look sees them.
    pub fn add(&self, app: &str, bytes: u64) {
        let mut counts = lock(&self.0);
        counts.taken = counts.taken.saturating_add(bytes.max(MIN_MESSAGE_BYTES));
        counts.add(app, bytes);
    }
}

fn lock(counts: &Mutex<Counts>) -> MutexGuard<'_, Counts> {
    counts.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The maximum bytes of a stream, whoever keeps it below; zero where it has none.
pub fn max_bytes(config: &stream::Config) -> u64 {
    let ours = config.metadata.get(MAX_BYTES).and_then(|bytes| bytes.parse().ok());
    ours.unwrap_or_else(|| u64::try_from(config.max_bytes).unwrap_or_default())
}

async fn watch(context: Context, stream: &'static str, counts: Weak<Mutex<Counts>>) {
    let mut count_at = Instant::now();
    while counts.strong_count() > 0 {
        match context.get_stream(stream).await {
            Ok(found) => {
                let (max, state) = (max_bytes(&found.cached_info().config), &found.cached_info().state);
                let taken = state.bytes.max(state.messages.saturating_mul(MIN_MESSAGE_BYTES));
                let apps = if taken <= max / 2 {
                    Some(HashMap::new())
                } else if Instant::now() >= count_at {
                    let began = Instant::now();
                    let apps = count_in_time(stream, &found).await;
                    count_at = Instant::now() + began.elapsed() * REST;
                    apps
                } else {
                    None
                };
                let Some(counts) = counts.upgrade() else { return };
                let mut counts = lock(&counts);
                (counts.max, counts.taken) = (max, taken);
                counts.apps = apps.unwrap_or_else(|| std::mem::take(&mut counts.apps));
            }
            Err(error) => tracing::debug!(stream, error = &error as &dyn std::error::Error, "no answer"),
        }
        sleep(LOOK).await;
    }
}

async fn count_in_time(name: &str, stream: &stream::Stream) -> Option<HashMap<String, u64>> {
    match timeout(COUNT_TIMEOUT, count(stream)).await {
        Ok(Ok(counts)) => return Some(counts.apps),
        Ok(Err(error)) => tracing::debug!(stream = name, error = &*error, "the stream cannot be counted"),
        Err(_) => tracing::warn!(stream = name, "counting what apps hold takes longer than a minute"),
    }
    None
}

/// Adds up what is stored now, by app.
async fn count(stream: &stream::Stream) -> Result<Counts, async_nats::Error> {
    let mut counts = Counts::default();
    headers::scan(stream, |message, _info| counts.add(app_of(message), size_of(message))).await?;
    Ok(counts)
}

/// The app that a message counts for: the one in its header, or in its subject. Empty where it has none.
fn app_of(message: &Message) -> &str {
    let named = message.headers.as_ref().and_then(|headers| headers.get(header::APP)).map(|app| app.as_str());
    named.or_else(|| subject::parse_submit(&message.subject).map(|(_, app)| app)).unwrap_or_default()
}

fn size_of(message: &Message) -> u64 {
    let payload = message.headers.as_ref().and_then(|headers| headers.get(header::PAYLOAD_BYTES));
    let payload: u64 = payload.and_then(|bytes| bytes.as_str().parse().ok()).unwrap_or_default();
    payload.saturating_add(message.length as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX: u64 = 1_000_000_000;

    /// Stores messages of each app in turn, while it may, and says what each holds in the end.
    fn flood(apps: usize, times: u64) -> Vec<u64> {
        let (mut held, bytes) = (vec![0u64; apps], MAX / 10_000);
        loop {
            let mut stored = false;
            for app in 0..apps {
                let room = Room { max: MAX, taken: held.iter().sum(), of_app: held[app] };
                if room.admits(bytes, times) {
                    held[app] += bytes;
                    stored = true;
                }
            }
            if !stored {
                return held;
            }
        }
    }

    #[test]
    fn however_many_apps_flood_there_is_as_much_left_as_each_of_them_holds() {
        for apps in [1, 2, 5, 20] {
            let held = flood(apps, 1);
            let (least, most) = (held.iter().min().unwrap(), held.iter().max().unwrap());
            let free = MAX - held.iter().sum::<u64>();
            assert!(most - least <= MAX / 1_000 && free.abs_diff(*most) <= MAX / 100, "{held:?}, {free} free");
        }
    }

    #[test]
    fn what_may_hold_three_times_what_is_free_gets_three_quarters() {
        assert!(flood(1, 3)[0].abs_diff(MAX / 4 * 3) < MAX / 1_000);
    }

    #[test]
    fn up_to_half_nobody_has_to_be_counted() {
        let room = |taken, of_app| Room { max: MAX, taken, of_app };
        assert!(room(MAX / 2 - 4_000, MAX / 2 - 4_000).admits(1, 1), "all of it by one app");
        assert!(!room(MAX, 0).admits(1, 3), "full is full");
        assert!(!room(MAX - 1_000, 0).admits(1, 1), "small messages count as some bytes too");
    }

    #[test]
    fn apps_beyond_the_limit_are_counted_as_one() {
        let mut counts = Counts::default();
        for app in 0..MAX_APPS + 5 {
            counts.add(&app.to_string(), 1);
        }
        assert_eq!((counts.apps.len(), counts.apps[""]), (MAX_APPS + 1, 5 * MIN_MESSAGE_BYTES));
    }
}
