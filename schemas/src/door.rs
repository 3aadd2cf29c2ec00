//! What the HTTP door says of a submission beside its bytes: the trace begins there.
//!
//! It travels in a header, as words of the publisher: an app that publishes over NATS could write the same about its own
//! submissions, and nothing but the trace reads it.

use compact_str::{CompactString, ToCompactString};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::trace::Attributes;

/// How a submission came in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Door {
    /// The id of the key that was shown.
    pub key: String,
    /// The `Idempotency-Key` of the request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idempotency_key: Option<String>,
    /// When the request was accepted.
    pub received_at: Timestamp,
    /// How long it was in the gateway's spool, where it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spooled_ms: Option<u64>,
}

impl Door {
    /// Reads the header; `None` where it says nothing that can be understood.
    pub fn parse(text: &str) -> Option<Self> {
        serde_json::from_str(text).ok()
    }

    /// The attributes of the trace's root.
    pub fn attributes(self) -> Attributes {
        let Door { key, idempotency_key, received_at, spooled_ms } = self;
        let mut attributes: Attributes = vec![
            ("door".into(), "http".into()),
            ("door.key".into(), key.into()),
            ("door.received_at".into(), received_at.to_compact_string()),
        ];
        attributes.extend(idempotency_key.map(|key| ("door.idempotency_key".into(), CompactString::from(key))));
        attributes.extend(spooled_ms.map(|ms| ("door.spooled_ms".into(), ms.to_compact_string())));
        attributes
    }
}
