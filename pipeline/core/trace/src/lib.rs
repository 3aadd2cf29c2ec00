//! The hot path of traces: what a step's trace events are, and the durable stream they go to.
//!
//! | module | does |
//! |---|---|
//! | [`span`] | builds the trace events of a decision; pure |
//! | [`sink`] | stores events in the durable trace stream |
//!
//! From there the warehouse writes them to ClickHouse.

pub mod sink;
pub mod span;

pub use sink::{TraceSink, encoded};
