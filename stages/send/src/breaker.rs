//! When a provider is left alone for a while: a circuit breaker.
//!
//! ```text
//!           too many calls failed, or were slow
//!   closed ─────────────────────────────────────► open ◄──────────────┐
//!     ▲                                            │ its time is over │ a probe failed, or was slow
//!     │           all probes went well             ▼                  │
//!     └──────────────────────────────────────── half open ────────────┘
//! ```
//!
//! Guarantee: pure; the same calls at the same times give the same answers. While open no call is admitted, while half
//! open at most `probes`. An open time is bounded, and however the clock jumps nobody is told to wait longer, so that a
//! provider that is well again is found again. A call that does not come back counts as slow as soon as it is: one need
//! not wait for its time-out to learn that a provider hangs.
//!
//! One sick endpoint is no sick provider: within the window an endpoint's failures count once, and so does its slowness.
//! And a probe that failed is not made again with the same endpoint while others may want to: for as long as the first
//! open time after each.
//!
//! At an origin that anybody can choose, caution comes first: until a first call ends well, few may be under way.
//!
//! Each process has its own, and begins closed after a crash: it learns again, from `min_calls` calls.

use std::{
    collections::{BTreeMap, HashSet, VecDeque},
    time::Duration,
};

use chasqui_settings::SettingsError;
use jiff::Timestamp;
use serde::Deserialize;

/// Parts of the window: what leaves it leaves in such steps.
const SLOTS: i64 = 10;
/// A probe is soon over: whoever comes meanwhile asks again after this.
const PROBE_PAUSE: Duration = Duration::from_secs(1);

/// Maximum calls under way at an origin where no call has ended well yet.
const CAUTION: u32 = 32;
/// Maximum endpoints whose troubles are told apart, in a part of the window; more are trouble enough.
const MAX_TROUBLED: usize = 1_024;
/// Maximum endpoints that are remembered for a probe that failed.
const MAX_SHUNNED: usize = 64;

/// `[send.breaker]`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// How long a call counts, in milliseconds.
    pub window_ms: u64,
    /// Fewer calls within the window say nothing.
    pub min_calls: u32,
    /// It opens when this share of the calls failed, in percent.
    pub error_percent: u32,
    /// A call that takes longer is slow, in milliseconds.
    pub slow_ms: u64,
    /// It opens when this share of the calls was slow, in percent.
    pub slow_percent: u32,
    /// How long it stays open the first time, in milliseconds; each further time in a row twice as long.
    pub open_ms: u64,
    /// Longest time to stay open, in milliseconds.
    pub max_open_ms: u64,
    /// Calls that must go well before all are let through again.
    pub probes: u32,
}

impl Settings {
    /// Refuses values that cannot work.
    pub(crate) fn check(&self) -> Result<(), SettingsError> {
        const HOUR_MS: u64 = 60 * 60 * 1_000;
        for (name, value, least, most) in [
            ("window_ms", self.window_ms, 100, HOUR_MS),
            ("min_calls", self.min_calls.into(), 1, 1_000_000),
            ("error_percent", self.error_percent.into(), 1, 100),
            ("slow_ms", self.slow_ms, 1, HOUR_MS),
            ("slow_percent", self.slow_percent.into(), 1, 100),
            ("open_ms", self.open_ms, 1, HOUR_MS),
            ("max_open_ms", self.max_open_ms, self.open_ms, HOUR_MS),
            ("probes", self.probes.into(), 1, 1_000),
        ] {
            if !(least..=most).contains(&value) {
                return Err(SettingsError::invalid(
                    format!("send.breaker.{name}"),
                    format!("must be {least} to {most}"),
                ));
            }
        }
        Ok(())
    }

    /// How long it stays open the `times`th time in a row, the first being 1.
    fn open_for(&self, times: u32) -> Duration {
        let doublings = times.saturating_sub(1).min(30);
        Duration::from_millis(self.open_ms.saturating_mul(1 << doublings).min(self.max_open_ms))
    }
}

/// Which of the three it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    Closed,
    Open,
    HalfOpen,
}

/// A call that was admitted: [`Breaker::begin`], then [`Breaker::end`], or else [`Breaker::abandon`].
#[derive(Debug)]
pub(crate) struct Call {
    id: u64,
    /// The [`Breaker::era`] in which it was admitted.
    era: u64,
    endpoint: u64,
}

/// No call now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// When to ask again.
    pub(crate) until: Timestamp,
    /// How long it is open this time: those who come back should spread over a time like this.
    pub(crate) open_for: Duration,
}

#[derive(Debug)]
enum State {
    Closed(Window),
    Open { since: Timestamp, until: Timestamp, times: u32 },
    HalfOpen { since: Timestamp, passed: u32, times: u32 },
}

/// The breaker of one provider, or of one origin.
#[derive(Debug)]
pub(crate) struct Breaker {
    settings: Settings,
    state: State,
    /// Counts the changes of state: what a call tells that was admitted before the last one is old news.
    era: u64,
    calls: u64,
    /// When the calls of this era began that are under way and not slow yet, and their endpoints; ids follow time.
    fresh: BTreeMap<u64, (Timestamp, u64)>,
    /// Calls of this era under way.
    under_way: u32,
    /// Whether few may be under way, [`CAUTION`], because none has ended well yet.
    cautious: bool,
    /// The endpoints whose probes failed since it was last closed.
    shunned: VecDeque<u64>,
}

impl Breaker {
    /// The breaker of a provider.
    pub(crate) fn new(settings: Settings) -> Self {
        let state = State::Closed(Window::new(&settings));
        let (fresh, shunned) = (BTreeMap::new(), VecDeque::new());
        Breaker { settings, state, era: 0, calls: 0, fresh, under_way: 0, cautious: false, shunned }
    }

    /// The breaker of an origin that anybody can choose.
    pub(crate) fn cautious(settings: Settings) -> Self {
        Breaker { cautious: true, ..Self::new(settings) }
    }

    pub(crate) fn phase(&self) -> Phase {
        match self.state {
            State::Closed(_) => Phase::Closed,
            State::Open { .. } => Phase::Open,
            State::HalfOpen { .. } => Phase::HalfOpen,
        }
    }

    /// Changes with the phase.
    pub(crate) fn era(&self) -> u64 {
        self.era
    }

    /// Lets a call of an endpoint through, or says when to ask again.
    pub(crate) fn admit(&mut self, now: Timestamp, endpoint: u64) -> Result<Call, Refusal> {
        self.count_slow(now);
        if let State::Open { since, until, times } = self.state
            && !(since..until).contains(&now)
        {
            self.turn(State::HalfOpen { since: now, passed: 0, times });
        }
        let soon = now.checked_add(PROBE_PAUSE).unwrap_or(Timestamp::MAX);
        match &self.state {
            State::Closed(_) => {
                if self.cautious && self.under_way >= CAUTION {
                    return Err(Refusal { until: soon, open_for: PROBE_PAUSE });
                }
            }
            State::Open { until, times, .. } => {
                return Err(Refusal { until: *until, open_for: self.settings.open_for(*times) });
            }
            State::HalfOpen { since, passed, times } => {
                let open_for = self.settings.open_for(*times);
                let others_first = since.checked_add(self.settings.open_for(1)).unwrap_or(Timestamp::MAX);
                if self.shunned.contains(&endpoint) && (*since..others_first).contains(&now) {
                    return Err(Refusal { until: others_first, open_for });
                }
                if self.under_way + passed >= self.settings.probes {
                    return Err(Refusal { until: soon, open_for });
                }
            }
        }
        self.calls += 1;
        self.under_way += 1;
        Ok(Call { id: self.calls, era: self.era, endpoint })
    }

    /// The request goes out now: its time counts from here.
    pub(crate) fn begin(&mut self, call: &Call, now: Timestamp) {
        if call.era == self.era {
            self.fresh.insert(call.id, (now, call.endpoint));
        }
    }

    /// It came to an end.
    pub(crate) fn end(&mut self, call: Call, now: Timestamp, failed: bool) {
        self.count_slow(now);
        if call.era != self.era {
            return;
        }
        self.under_way = self.under_way.saturating_sub(1);
        let counted_as_slow = self.fresh.remove(&call.id).is_none();
        match &mut self.state {
            State::Closed(window) => {
                if failed {
                    window.add_trouble(now, call.endpoint, Trouble::Failed, !counted_as_slow);
                } else if !counted_as_slow {
                    window.add(now, Counts { calls: 1, ..Counts::default() });
                    self.cautious = false;
                }
                self.judge(now);
            }
            State::HalfOpen { times, .. } if failed || counted_as_slow => {
                let times = times.saturating_add(1);
                if self.shunned.len() == MAX_SHUNNED {
                    self.shunned.pop_front();
                }
                self.shunned.push_back(call.endpoint);
                self.open(now, times);
            }
            State::HalfOpen { passed, .. } => {
                *passed += 1;
                if *passed >= self.settings.probes {
                    self.shunned.clear();
                    self.turn(State::Closed(Window::new(&self.settings)));
                }
            }
            State::Open { .. } => {}
        }
    }

    /// It was not made after all, or nobody waited for its end.
    pub(crate) fn abandon(&mut self, call: Call) {
        if call.era != self.era {
            return;
        }
        self.under_way = self.under_way.saturating_sub(1);
        self.fresh.remove(&call.id);
    }

    /// Counts calls as slow that are under way for too long.
    fn count_slow(&mut self, now: Timestamp) {
        let slow = Duration::from_millis(self.settings.slow_ms);
        while let Some(first) = self.fresh.first_entry() {
            let (began, endpoint) = *first.get();
            if began.checked_add(slow).is_ok_and(|end| end > now) {
                break;
            }
            first.remove();
            if let State::Closed(window) = &mut self.state {
                window.add_trouble(now, endpoint, Trouble::Slow, true);
            }
        }
        self.judge(now);
    }

    /// Opens it where the window holds too much trouble.
    fn judge(&mut self, now: Timestamp) {
        let State::Closed(window) = &mut self.state else { return };
        let Counts { calls, failed, slow } = window.sum(now);
        let reaches = |count: u32, percent: u32| u64::from(count) * 100 >= u64::from(calls) * u64::from(percent);
        let troubled = reaches(failed, self.settings.error_percent) || reaches(slow, self.settings.slow_percent);
        if calls >= self.settings.min_calls && troubled {
            self.open(now, 1);
        }
    }

    fn open(&mut self, now: Timestamp, times: u32) {
        let until = now.checked_add(self.settings.open_for(times)).unwrap_or(Timestamp::MAX);
        self.turn(State::Open { since: now, until, times });
    }

    fn turn(&mut self, state: State) {
        self.state = state;
        self.era += 1;
        self.fresh.clear();
        self.under_way = 0;
    }
}

#[derive(Debug, Clone, Copy, Default)]
struct Counts {
    calls: u32,
    failed: u32,
    slow: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Trouble {
    Failed,
    Slow,
}

/// A part of the window.
#[derive(Debug, Default)]
struct Slot {
    number: i64,
    counts: Counts,
    /// The endpoints whose trouble is among the counts.
    troubled: HashSet<(u64, Trouble)>,
}

/// What the last calls came to, in parts of the window's length.
#[derive(Debug)]
struct Window {
    slot_ms: i64,
    slots: VecDeque<Slot>,
}

impl Window {
    fn new(settings: &Settings) -> Self {
        let slot_ms = i64::try_from(settings.window_ms).unwrap_or(i64::MAX) / SLOTS;
        Window { slot_ms: slot_ms.max(1), slots: VecDeque::new() }
    }

    /// The part of now, or the newest there is: a clock that went back adds to that.
    fn slot(&mut self, now: Timestamp) -> Option<&mut Slot> {
        let number = now.as_millisecond().div_euclid(self.slot_ms);
        if self.slots.back().is_none_or(|newest| newest.number < number) {
            self.slots.push_back(Slot { number, ..Slot::default() });
        }
        self.slots.back_mut()
    }

    fn add(&mut self, now: Timestamp, counts: Counts) {
        let Some(Slot { counts: sum, .. }) = self.slot(now) else { return };
        sum.calls = sum.calls.saturating_add(counts.calls);
        sum.failed = sum.failed.saturating_add(counts.failed);
        sum.slow = sum.slow.saturating_add(counts.slow);
    }

    /// A call that failed or was slow, unless the endpoint had such a trouble before; `is_new` where the call was not
    /// counted yet.
    fn add_trouble(&mut self, now: Timestamp, endpoint: u64, trouble: Trouble, is_new: bool) {
        self.forget(now);
        let key = (endpoint, trouble);
        if self.slots.iter().any(|slot| slot.troubled.contains(&key)) {
            return;
        }
        if let Some(slot) = self.slot(now).filter(|slot| slot.troubled.len() < MAX_TROUBLED) {
            slot.troubled.insert(key);
        }
        let (failed, slow) = ((trouble == Trouble::Failed).into(), (trouble == Trouble::Slow).into());
        self.add(now, Counts { calls: is_new.into(), failed, slow });
    }

    /// Drops what is older than the window.
    fn forget(&mut self, now: Timestamp) {
        let oldest = now.as_millisecond().div_euclid(self.slot_ms) - SLOTS;
        while self.slots.front().is_some_and(|slot| slot.number <= oldest) {
            self.slots.pop_front();
        }
    }

    fn sum(&mut self, now: Timestamp) -> Counts {
        self.forget(now);
        self.slots.iter().fold(Counts::default(), |sum, Slot { counts: each, .. }| Counts {
            calls: sum.calls.saturating_add(each.calls),
            failed: sum.failed.saturating_add(each.failed),
            slow: sum.slow.saturating_add(each.slow),
        })
    }
}

#[cfg(test)]
mod tests;
