//! Channels: the kinds of road to a person.

use std::{fmt, str::FromStr};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{UnknownWord, parse_word};

/// A kind of road to a person; each has queues, providers and policies of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Channel {
    /// A device: APNs, FCM, Web Push.
    Push,
    /// A phone number.
    Sms,
    /// A mailbox.
    Email,
    /// The inbox inside the producer's own app.
    InApp,
}

impl Channel {
    /// Every channel.
    pub const ALL: [Channel; 4] = [Channel::Push, Channel::Sms, Channel::Email, Channel::InApp];

    /// The channel's subject token and its spelling in JSON and ClickHouse.
    pub const fn as_str(self) -> &'static str {
        match self {
            Channel::Push => "push",
            Channel::Sms => "sms",
            Channel::Email => "email",
            Channel::InApp => "in_app",
        }
    }
}

impl fmt::Display for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Channel {
    type Err = UnknownWord;

    fn from_str(word: &str) -> Result<Self, UnknownWord> {
        parse_word("channel", word, &Self::ALL, Self::as_str)
    }
}
