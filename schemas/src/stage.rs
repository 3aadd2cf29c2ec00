//! The seven stages, in the order a notification meets them.

crate::vocabulary! {
    /// A step on the way of a notification. The folders of `stages/` have the same seven names.
    pub enum Stage "stage" {
        Validate = "validate": "Parses a submission and makes one notification per recipient.",
        Enrich = "enrich": "Adds the recipient's contacts and the category's policy.",
        Filter = "filter": "Applies opt-outs, quiet hours and suppressions.",
        Dedupe = "dedupe": "Claims the idempotency key.",
        Render = "render": "Makes one rendered delivery per endpoint.",
        Prioritize = "prioritize": "Chooses the final lane and the provider.",
        Send = "send": "Calls the provider.",
    }
}

impl Stage {
    /// The stage that receives what this one forwards; `None` after the last.
    pub fn next(self) -> Option<Stage> {
        Self::ALL.get(self as usize + 1).copied()
    }
}
