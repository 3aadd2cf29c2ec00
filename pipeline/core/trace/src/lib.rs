//! The hot path of traces: which trace events a step makes, and the durable stream that they go to.
//!
//! | module | does |
//! |---|---|
//! | [`span`] | builds the trace events of a decision; pure |
//! | [`sink`] | stores events in the durable trace stream |
//!
//! The warehouse reads that stream and writes the events to ClickHouse.

pub mod sink;
pub mod span;

pub use sink::{TraceSink, encoded};
