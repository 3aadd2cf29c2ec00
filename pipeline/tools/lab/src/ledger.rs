//! What the vendors were asked, and what they accepted: the truth that Chasqui's traces are held against.
//!
//! Guarantee: a call stands here before any byte of its answer goes out. A message that was accepted counts as
//! accepted however its connection ended: that is the ambiguity a sender has to live with. Memory is bounded: beyond
//! [`MAX_CALLS`] the oldest calls are forgotten, and [`Ledger::forgotten`] says how many. Nothing survives the process but
//! the log, if there is one.

use std::{
    collections::{BTreeMap, VecDeque},
    fs::File,
    io::Write as _,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use hyper::{HeaderMap, Method};
use serde_json::{Value, json};

use crate::{Vendor, exchange::Request, script::Fate};

/// Calls remembered.
pub const MAX_CALLS: usize = 1_000_000;

/// One call to a vendor's API.
#[derive(Debug, Clone)]
pub struct Call {
    /// Whose API.
    pub vendor: Vendor,
    /// Since the lab started.
    pub at: Duration,
    /// Device token, endpoint, phone number or mailbox; empty where the request was too wrong to tell.
    pub recipient: String,
    /// `delivery_id` where the vendor carries the sender's own data: the payload, the custom arguments, the address
    /// for callbacks. Empty where there is none.
    pub delivery_id: String,
    /// The vendor's own id of the message.
    pub message_id: String,
    /// The answer's HTTP status.
    pub status: u16,
    /// `ok`, or the vendor's code of the error.
    pub code: String,
    /// Why the request was wrong, in the vendor's own words; empty where it was right.
    pub wrong: String,
    /// Whether the vendor took the message: it will arrive, or its failure be reported.
    pub accepted: bool,
    /// How much of the answer went out.
    pub answered: Answered,
    /// What becomes of the message, where it was accepted.
    pub fate: Fate,
    /// What the vendor keeps of the request: what callbacks repeat of it; the whole message of Slack and Web Push.
    pub echo: Value,
}

/// A request as it arrived, to be sent again byte for byte.
#[derive(Debug, Clone)]
pub struct Kept {
    /// Its method.
    pub method: Method,
    /// Path and query.
    pub path: String,
    /// All headers, credentials among them.
    pub headers: HeaderMap,
    /// The whole body.
    pub body: Bytes,
}

/// How much of an answer went out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answered {
    /// Nothing: it is still under way, the script says so, or the client left.
    Not,
    /// Some of it, or nothing: the connection was cut.
    Cut,
    /// All of it, as far as the vendor can tell.
    Whole,
}

/// Calls and acceptances of one delivery.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Right requests.
    pub calls: usize,
    /// Those the vendors accepted.
    pub accepted: usize,
    /// Accepted ones whose answer did not go out whole.
    pub ambiguous: usize,
}

/// All calls.
pub struct Ledger {
    state: Mutex<State>,
    log: Option<File>,
    keep: usize,
    kept: Mutex<BTreeMap<Vendor, Vec<Kept>>>,
}

#[derive(Default)]
struct State {
    calls: VecDeque<Call>,
    forgotten: usize,
}

impl Ledger {
    pub(crate) fn new(log: Option<File>, keep: usize) -> Self {
        Ledger { state: Mutex::default(), log, keep, kept: Mutex::default() }
    }

    /// Keeps a request whole, where there is still room for this vendor's.
    pub(crate) fn keep(&self, vendor: Vendor, request: &Request) {
        if self.keep == 0 {
            return;
        }
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = kept.entry(vendor).or_default();
        if kept.len() < self.keep {
            let Request { method, path, headers, body, .. } = request;
            kept.push(Kept {
                method: method.clone(),
                path: path.clone(),
                headers: headers.clone(),
                body: body.clone(),
            });
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Enters a call; returns its place.
    pub(crate) fn enter(&self, call: Call) -> std::io::Result<usize> {
        if let Some(mut log) = self.log.as_ref() {
            let line = json!({
                "vendor": call.vendor.as_str(), "at_ms": u64::try_from(call.at.as_millis()).unwrap_or(u64::MAX),
                "delivery_id": call.delivery_id, "recipient": call.recipient, "message_id": call.message_id,
                "code": call.code, "wrong": call.wrong, "accepted": call.accepted,
            });
            // One write, so that lines do not mix.
            log.write_all(format!("{line}\n").as_bytes())?;
        }
        let mut state = self.state();
        if state.calls.len() == MAX_CALLS {
            state.calls.pop_front();
            state.forgotten += 1;
        }
        state.calls.push_back(call);
        Ok(state.forgotten + state.calls.len() - 1)
    }

    /// Notes how a call was answered.
    pub(crate) fn answered(&self, place: usize, answered: Answered) {
        let mut state = self.state();
        let at = place.checked_sub(state.forgotten);
        if let Some(call) = at.and_then(|at| state.calls.get_mut(at)) {
            call.answered = answered;
        }
    }

    /// Calls from this place on, and the place after the last.
    pub(crate) fn since(&self, place: usize) -> (Vec<Call>, usize) {
        let state = self.state();
        let calls = state.calls.iter().skip(place.saturating_sub(state.forgotten)).cloned().collect();
        (calls, state.forgotten + state.calls.len())
    }

    /// The first requests to a vendor, whole: as many as [`Script::keep`](crate::Script::keep) says.
    pub fn requests(&self, vendor: Vendor) -> Vec<Kept> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.get(&vendor).cloned().unwrap_or_default()
    }

    /// All calls, in order.
    pub fn calls(&self) -> Vec<Call> {
        self.since(0).0
    }

    /// What a vendor accepted, in order.
    pub fn accepted(&self, vendor: Vendor) -> Vec<Call> {
        self.state().calls.iter().filter(|call| call.vendor == vendor && call.accepted).cloned().collect()
    }

    /// Requests that were not as the documentation says: a correct client makes none.
    pub fn wrong(&self) -> Vec<Call> {
        self.state().calls.iter().filter(|call| !call.wrong.is_empty()).cloned().collect()
    }

    /// By delivery id, over all vendors; calls without one are left out.
    pub fn deliveries(&self) -> BTreeMap<String, Tally> {
        let mut deliveries: BTreeMap<String, Tally> = BTreeMap::new();
        for call in self.state().calls.iter().filter(|call| !call.delivery_id.is_empty() && call.wrong.is_empty()) {
            let tally = deliveries.entry(call.delivery_id.clone()).or_default();
            tally.calls += 1;
            tally.accepted += usize::from(call.accepted);
            tally.ambiguous += usize::from(call.accepted && call.answered != Answered::Whole);
        }
        deliveries
    }

    /// Calls that are no longer remembered.
    pub fn forgotten(&self) -> usize {
        self.state().forgotten
    }
}
