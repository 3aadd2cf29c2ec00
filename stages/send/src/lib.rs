//! Send: calls the provider, once if it can be known, and decides what its answer means.
//!
//! # Once, or at least once?
//! No provider recognises a repeated message, so a call that was cut off before its answer is ambiguous: nobody
//! knows whether it was sent. Everything else can be made exact, and that one moment small. Each attempt is two
//! claims in the [attempts book](chasqui_contract::Book::Attempts):
//!
//! ```text
//! claim started ──► call the provider ──► claim finished, with the answer ──► decide ──► (runtime) publish, ack
//!       A                   B                          C                          D
//! ```
//!
//! | a crash | is found by the redelivered message as | and then |
//! |---|---|---|
//! | before A is stored | `started` is ours to claim | called: the first time |
//! | between A and C | `started` taken, `finished` free | we claim `finished` as interrupted; the channel's `on_ambiguity` decides |
//! | after C | `finished` taken, with the answer | the same decision as then; no call |
//!
//! So one attempt never calls twice; a further attempt after an ambiguous one happens only where the channel's
//! policy is `retry`. `push` and `email` retry (a mail keeps its Message-ID), `in_app` retries (an inbox takes a
//! delivery once), `sms` holds: a dead letter, for a person to judge.
//!
//! `finished` is first come, first served too, which settles the race with a worker that was only slow, not dead:
//! if its message was handed out again meanwhile, the attempt is recorded as interrupted, and the slow worker
//! must go by that record, not by its own answer, so that both publish the same outcome. The race itself is the
//! runtime's to avoid: it extends the deadline of a message while its work goes on, and refuses an `ack_wait`
//! shorter than [`SendStage::longest_call`].
//!
//! The decision is a pure function of delivery, record and policy ([`retry::decide_from`]); the record says when
//! the attempt finished, so that a decision made again after a crash cannot turn a retry into a dead letter
//! because time went by.
//!
//! # Providers
//! One folder under [`providers`] each, and one line in its `build`. One that keeps failing is told to developers, by
//! [`alerts`].

pub mod alerts;
mod attempt;
pub mod config;
pub mod http;
mod jwt;
#[cfg(test)]
mod loopback;
pub mod providers;
mod rate;
mod redact;
pub mod retry;
pub mod secret;
mod stage;
#[cfg(test)]
mod testing;

pub use attempt::Finished;
pub use config::{Ambiguity, ChannelPolicy, Config, ConfigError, DEFAULTS};
pub use stage::SendStage;
