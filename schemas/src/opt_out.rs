//! What a receipt switches off: travels beside it, in the header [`crate::header::OPT_OUT`], as JSON.
//!
//! A receipt says what happened; this says what is to be done about it, by whoever consumes receipts. It is apart from
//! the receipt because apps may report that somebody unsubscribed, but not decide for whom.

use serde::{Deserialize, Serialize};

/// A wish to get no more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum OptOut {
    /// A user wants no more of a category: it is switched off in `preferences`, on every channel.
    Category {
        /// The app that sent it; for the words on the page, since preferences hold for all apps.
        app: String,
        /// Whose preferences.
        user: String,
        /// What they have had enough of.
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
