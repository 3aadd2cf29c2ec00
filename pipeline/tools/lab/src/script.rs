//! The script: what goes wrong, when, for whom.
//!
//! Rules are read in order. A latency adds up and reading goes on; so it does after a throttle below its rate; the
//! first of the others that applies decides. Where none does, the [magic recipients](crate::magic) have their say,
//! and everything else is accepted. Only requests that are right as the documentation says come this far: a wrong
//! one gets the vendor's own error, whatever the script says, and counts as no call here.
//!
//! Guarantee: a decision follows from the seed, the recipient, how often that recipient was called, and where rules
//! say so the call's number and the time. So it is the same in every run, in whatever order recipients come.

use std::{ops::Range, path::PathBuf, time::Duration};

use crate::Vendor;

/// What the lab does.
#[derive(Debug, Clone, Default)]
pub struct Script {
    /// The same seed, the same decisions.
    pub seed: u64,
    /// What goes wrong; empty for vendors that always work.
    pub rules: Vec<Rule>,
    /// When and how often what was accepted is reported back.
    pub callbacks: Reporting,
    /// A file that gets a line of JSON for every call, before it is answered. It grows without bound.
    pub log: Option<PathBuf>,
    /// So many requests to each vendor are kept whole, the first ones; see [`Ledger::requests`](crate::Ledger::requests).
    pub keep: usize,
}

/// One line of a script.
#[derive(Debug, Clone)]
pub struct Rule {
    /// Whose calls.
    pub vendor: Vendor,
    /// Which of them.
    pub when: When,
    /// What happens to them.
    pub then: Behaviour,
}

/// Which calls: all conditions that are given must hold.
#[derive(Debug, Clone, Default)]
pub struct When {
    /// By the number of the call to this vendor since the script began, from 0.
    pub calls: Option<Range<u64>>,
    /// By the time since the script began.
    pub window: Option<Range<Duration>>,
    /// Exactly this recipient: device token, subscription's endpoint, phone number or mailbox, as the vendor gets it.
    pub recipient: Option<String>,
    /// This share of calls, 0.0 to 1.0, chosen by the seed.
    pub share: Option<f64>,
}

/// What happens to a call.
#[derive(Debug, Clone)]
pub enum Behaviour {
    /// Accepted and answered, whatever the rules below say.
    Accept,
    /// Refused with one of the vendor's own codes.
    Fault(Fault),
    /// Takes longer, by a time from this range. What is accepted is accepted before it.
    Latency(Range<Duration>),
    /// Beyond so many a second, refused as the vendor refuses who is too fast.
    Throttle {
        /// Calls in each second of the script.
        per_second: u32,
        /// See [`Fault::retry_after`].
        retry_after: Option<String>,
    },
    /// Connections are refused, and open ones end. Takes a `window` and no other condition.
    Outage,
    /// The connection ends. On HTTP/2 all other calls on it end with it, as in life.
    Cut(Cut),
    /// No answer; the connection stays open until the client has enough of it.
    Hang {
        /// Whether the message was accepted all the same.
        accepted: bool,
    },
    /// Accepted and answered; later reported as not delivered, with the vendor's code for why, or its usual one.
    Undelivered(Option<String>),
}

/// Where a connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// Before the message is accepted.
    BeforeAccepting,
    /// After it is accepted, before any byte of the answer.
    BeforeAnswer,
    /// After the answer's status and headers.
    AfterHeaders,
    /// After half of the answer's body.
    MidBody,
}

/// An error of the vendor's own.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fault {
    /// The vendor's code: APNs' reason, FCM's `errorCode`, Twilio's number, Vonage's status, Slack's word; for the
    /// others the HTTP status.
    pub code: String,
    /// When to come back, where the vendor says so: as `Retry-After`, verbatim, or in the vendor's own place, in
    /// seconds. Nonsense is allowed: a client must bear it.
    pub retry_after: Option<String>,
    /// APNs 410: since when the token is dead, in milliseconds since 1970; without, now.
    pub timestamp_ms: Option<u64>,
}

impl Fault {
    /// A code, and nothing more.
    pub fn code(code: impl Into<String>) -> Self {
        Fault { code: code.into(), ..Fault::default() }
    }
}

/// When and how often what was accepted is reported back to the sender.
#[derive(Debug, Clone)]
pub struct Reporting {
    /// How long after acceptance. Every report of a message takes its own time from the range, so a wide one
    /// reorders them.
    pub delay: Range<Duration>,
    /// The share of reports that is sent twice, 0.0 to 1.0.
    pub repeated: f64,
}

impl Default for Reporting {
    fn default() -> Self {
        Reporting { delay: Duration::ZERO..Duration::ZERO, repeated: 0.0 }
    }
}

/// How a call ends.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum End {
    /// Accepted and answered; reported as this later.
    Accept(Fate),
    /// Refused.
    Fault(Fault),
    /// Refused with the vendor's own code for this trouble, where it has one.
    Trouble(Trouble, Option<String>),
    /// The connection ends.
    Cut(Cut),
    /// Nothing.
    Hang { accepted: bool },
}

/// What becomes of an accepted message.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Fate {
    /// It arrives.
    #[default]
    Delivered,
    /// It arrives, is opened, and a link in it is followed.
    Opened,
    /// It does not arrive, for this reason of the vendor's, or its usual one.
    Undelivered(Option<String>),
}

/// What every vendor has a code for, or reports later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// The message is refused for good.
    Refused,
    /// The recipient does not exist any more.
    Dead,
    /// Too fast.
    Busy,
    /// The vendor's own trouble.
    Down,
}

/// What a call comes to.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Plan {
    pub(crate) delay: Duration,
    pub(crate) end: End,
}
