//! Priority lanes: a token of every subject and a consumer of its own at every stage.

use schemars::JsonSchema;

crate::vocabulary! {
    /// How urgent a message is. Order is urgency: `Critical` is the smallest.
    #[derive(JsonSchema)]
    pub enum Lane "lane" {
        Critical = "critical": "One-time passwords and security alerts: it never waits for other lanes, and passes quiet hours.",
        High = "high": "A person is waiting: order and chat messages.",
        Normal = "normal": "Everything that is neither urgent nor a campaign: the default.",
        Bulk = "bulk": "Campaigns: it takes the capacity that other lanes leave.",
    }
}

impl Lane {
    /// Position in [`Lane::ALL`], to index per-lane arrays.
    pub const fn index(self) -> usize {
        self as usize
    }
}
