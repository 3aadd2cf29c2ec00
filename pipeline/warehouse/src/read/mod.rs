//! Out of ClickHouse: a notification as one tree and as text, outcomes and rates, what left a user's contacts.

pub mod reconstruct;
pub mod removals;
pub mod stats;
pub mod waterfall;
