//! Out of ClickHouse: a notification as one tree and as text, outcomes and rates.

pub mod reconstruct;
pub mod stats;
pub mod waterfall;
