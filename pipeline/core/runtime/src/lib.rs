//! How a notification moves: topology, lanes, and the loop around a stage. It knows no business rule.
//!
//! | module | does |
//! |---|---|
//! | [`settings`] | reads `[streams]` and `[runner]` |
//! | [`topology`] | creates and migrates streams, consumers and buckets |
//! | [`runner`] | the loop: pulls, starts decisions and commits, extends deadlines, drains |
//! | `decide` | has the stage decide about one message |
//! | [`lanes`] | says which lane is next, by weight, and which lanes have runners of their own |
//! | [`pull`] | reads one consumer, never more than was asked for |
//! | `plan` | turns a decision into what is published and traced |
//! | [`commit`] | publishes that; only then is the input acknowledged |
//! | `bundle` | puts what goes to one queue into one message |
//! | [`deferred`] | returns messages to their queues when they are due |
//! | `count` | counts what runners do |
//!
//! # Five groupings on one way
//! | word | what is grouped | bound | made in | ends as |
//! |---|---|---|---|---|
//! | *bundle* | messages to one queue | 128 messages, 384 KiB | `bundle.rs`, `Bundle` | one JetStream message, split again by [`StageInput::split`] in `runner.rs` |
//! | *batch* | decisions of one lane that are ready together | 1,000 decisions | `runner.rs`, `start_commits` | one commit |
//! | *commit* | what a batch publishes, its bundles among it, and its trace events | four of one lane at a time | `commit.rs`, `commit` | acknowledged inputs |
//! | *atomic batch* | JetStream messages to one stream | 1,000 messages, 4 MiB | `nats/publisher.rs`, `Publisher::publish` | one PubAck for all, one fsync |
//! | *coalesced batch* | requests of several callers to one task: trace events, claims | as its [`Pace`] says | `nats/coalesce.rs`, `Coalescer` | one publish, an answer to each caller |
//!
//! So a runner takes a bundle apart, decides about each of its messages, gathers the decisions of a lane to a batch and
//! commits it. The commit puts what goes to one queue into bundles again, and the publisher sends the bundles of one
//! stream as an atomic batch; meanwhile the commit's trace events wait in the coalescer for those of other stages.
//!
//! [`StageInput::split`]: chasqui_contract::StageInput::split
//! [`Pace`]: chasqui_nats::coalesce::Pace

mod bundle;
pub mod commit;
mod count;
mod decide;
pub mod deferred;
pub mod lanes;
mod plan;
pub mod pull;
pub mod runner;
pub mod settings;
pub mod topology;

pub use deferred::run_deferred;
pub use runner::{Broker, RunError, run_stage};
pub use settings::{RunnerLimits, RunnerSettings, StreamSettings};
