//! The seven stages, in the order a notification meets them.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::{UnknownWord, parse_word};

/// A station on the way. `ls stages` shows the same seven names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Parses a submission and fans it out to one notification per recipient.
    Validate,
    /// Adds the recipient's contacts and the category's policy.
    Enrich,
    /// Applies opt-outs, quiet hours and suppressions.
    Filter,
    /// Claims the idempotency key.
    Dedupe,
    /// Makes one rendered delivery per endpoint.
    Render,
    /// Chooses the final lane and the provider.
    Prioritize,
    /// Calls the provider.
    Send,
}

impl Stage {
    /// Every stage, first to last.
    pub const ALL: [Stage; 7] =
        [Stage::Validate, Stage::Enrich, Stage::Filter, Stage::Dedupe, Stage::Render, Stage::Prioritize, Stage::Send];

    /// The stage's name in subjects, traces and on the command line.
    pub const fn as_str(self) -> &'static str {
        match self {
            Stage::Validate => "validate",
            Stage::Enrich => "enrich",
            Stage::Filter => "filter",
            Stage::Dedupe => "dedupe",
            Stage::Render => "render",
            Stage::Prioritize => "prioritize",
            Stage::Send => "send",
        }
    }

    /// The stage that receives what this one forwards; `None` after the last.
    pub fn next(self) -> Option<Stage> {
        Self::ALL.get(self as usize + 1).copied()
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Stage {
    type Err = UnknownWord;

    fn from_str(word: &str) -> Result<Self, UnknownWord> {
        parse_word("stage", word, &Self::ALL, Self::as_str)
    }
}
