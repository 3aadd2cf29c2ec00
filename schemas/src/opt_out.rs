//! What a receipt switches off: travels beside it, in the header [`crate::header::OPT_OUT`], as JSON.
//!
//! A receipt says what happened; an opt-out says what the consumer of receipts has to switch off. The two are separate
//! because apps may report that a recipient unsubscribed, but may not choose whose preferences change.

use serde::{Deserialize, Serialize};

/// A recipient's wish to get no more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum OptOut {
    /// A user wants no more of a category: it is switched off in `preferences`, on every channel.
    Category {
        /// The app that sent the message. It is only shown on the page: preferences hold for all apps.
        app: String,
        /// The user whose preferences change.
        user: String,
        /// The category that is switched off.
        category: String,
    },
    /// An address gets nothing any more: it goes on the suppression list.
    Address {
        /// See [`crate::bucket::address_key`].
        key: String,
        /// As [`crate::record::Suppression::reason`].
        reason: String,
    },
}
