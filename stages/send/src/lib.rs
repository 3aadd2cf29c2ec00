//! Send: calls the provider, once if it can be known, and decides what its answer means.
//!
//! # Once, or at least once?
//! No provider recognises a repeated message, so a call that was cut off before its answer is ambiguous: nobody
//! knows whether it was sent. Everything else can be made exact, and that one moment small. Each attempt is a claim in
//! the [attempts book](chasqui_contract::Book::Attempts), and an end beside it:
//!
//! ```text
//! claim started ──► call the provider ──► record its end, the answer ──► decide ──► (runtime) publish, ack
//!  with its name            B                          C                    D
//!       A
//! ```
//!
//! | a crash | is found by the redelivered message as | and then |
//! |---|---|---|
//! | before A is stored | `started` is ours to claim | called: the first time |
//! | between A and C | `started` taken, no end | taken over: we record it as interrupted; the channel's `on_ambiguity` decides |
//! | after C | `started` taken, an end on record | the same decision as then; no call |
//!
//! So one attempt never calls twice; a further attempt after an ambiguous one happens only where the channel's
//! policy is `retry`. `push` and `email` retry (a mail keeps its Message-ID), `in_app` retries (an inbox takes a
//! delivery once), `sms` holds: a dead letter, for a person to judge.
//!
//! Of two ends the first holds, which settles the race with a worker that was only slow, not dead: if its message was
//! handed out again meanwhile, the attempt is recorded as interrupted, and the slow worker
//! must go by that record, not by its own answer, so that both publish the same outcome. The race itself is the
//! runtime's to avoid: it extends the deadline of a message while its work goes on, and refuses an `ack_wait`
//! shorter than [`SendStage::longest_call`].
//!
//! The decision is a pure function of delivery, record and policy ([`retry::decide_from`]); the record says when
//! the attempt finished, so that a decision made again after a crash cannot turn a retry into a dead letter
//! because time went by.
//!
//! # Whom to call
//! Prioritize has drawn a provider by weight; the others of its list follow in an order of the delivery's own
//! ([`chasqui_rules::Routes`]). Each provider has a circuit breaker ([`breaker`]):
//!
//! | | the delivery | attempt | trace |
//! |---|---|---|---|
//! | the provider is out of service | goes to the next one, at once, in place | the same; A records who is called instead | `skipped.<provider>` |
//! | its answer is a provider's trouble | goes to the next one, at once, put back | the next | a span each |
//! | every provider is out of service | is put back until one may be probed, in order of lane | the same, nothing claimed | `circuit_open`, a span of its own |
//!
//! So the attempt's number never says who was called: the record does, and the decision, and by it the trace and the
//! dead letter. A delivery that comes again while it waits, because a crash had cut it off, waits too, and goes by its
//! record when a provider is back, or when it would otherwise end: nothing ends without A.
//!
//! # Who must not be called
//! What had to wait, for a retry, a provider or a person, is checked again against opt-outs and the suppression list
//! before it goes out. What an answer says of the address (dead, opted out) is done to contacts and suppression list
//! before the decision is published.
//!
//! Nor is a message called that a newer one has replaced (`collapse_key`): it is asked about before each attempt, and
//! ends as `superseded`.
//!
//! # Providers
//! The stage is handed providers by the port [`Provider`](chasqui_contract::Provider), one for each account, and knows no
//! vendor. An account that keeps failing is reported to developers, by [`alerts`].
//!
//! | module | does |
//! |---|---|
//! | `stage` | the steps above, in order |
//! | [`settings`] | settings; which accounts may stand on a route |
//! | `attempt` | the claim and the end |
//! | [`breaker`], `circuit` | when an account is left alone; a provider behind its breaker |
//! | [`retry`] | from an answer to a decision |
//! | `consent`, `retire` | opt-outs since filter; dead addresses |
//! | [`alerts`] | reports accounts that keep failing to developers |

pub mod alerts;
mod attempt;
pub mod breaker;
mod circuit;
mod consent;
mod retire;
pub mod retry;
pub mod settings;
mod stage;
#[cfg(test)]
mod testing;

pub use attempt::Finished;
pub use settings::{Ambiguity, ChannelPolicy, DEFAULTS, Settings};
pub use stage::{Ports, SendStage};
