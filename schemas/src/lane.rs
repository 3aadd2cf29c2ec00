//! Priority lanes: a token of every subject and a consumer of its own at every stage.

use std::{fmt, str::FromStr};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{UnknownWord, parse_word};

/// How urgent a message is. Order is urgency: `Critical` is the smallest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Lane {
    /// One-time passwords, security alerts: never waits, passes quiet hours.
    Critical,
    /// A person is waiting: order and chat messages.
    High,
    /// The default.
    Normal,
    /// Campaigns: takes what capacity is left.
    Bulk,
}

impl Lane {
    /// Every lane, most urgent first.
    pub const ALL: [Lane; 4] = [Lane::Critical, Lane::High, Lane::Normal, Lane::Bulk];

    /// The lane's subject token.
    pub const fn as_str(self) -> &'static str {
        match self {
            Lane::Critical => "critical",
            Lane::High => "high",
            Lane::Normal => "normal",
            Lane::Bulk => "bulk",
        }
    }

    /// Position in [`Lane::ALL`], to index per-lane arrays.
    pub const fn index(self) -> usize {
        self as usize
    }
}

impl fmt::Display for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Lane {
    type Err = UnknownWord;

    fn from_str(word: &str) -> Result<Self, UnknownWord> {
        parse_word("lane", word, &Self::ALL, Self::as_str)
    }
}
