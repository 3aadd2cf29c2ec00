//! How a notification moves: topology, lanes, and the loop around a stage. Knows no business rule.
//!
//! | module | does |
//! |---|---|
//! | [`settings`] | `[streams]` and `[runner]` |
//! | [`topology`] | creates and migrates streams, consumers and buckets |
//! | [`runner`] | pulls, asks the stage, commits, keeps deadlines, drains |
//! | [`lanes`] | who is next, by weight, with capacity that only critical may use |
//! | [`pull`] | demand-driven reading of one consumer |
//! | `perform` | what a decision comes to, in bytes |
//! | [`commit`] | publishes it: outputs and traces durable first, acknowledgement last |
//! | [`deferred`] | returns messages to their queues when their time has come |
//! | `count` | counts what runners do |

pub mod commit;
mod count;
pub mod deferred;
pub mod lanes;
mod perform;
pub mod pull;
pub mod runner;
pub mod settings;
pub mod topology;

pub use deferred::run_deferred;
pub use runner::{Broker, RunError, run_stage};
pub use settings::{RunnerLimits, RunnerSettings, StreamSettings};
