//! The address book: takes addresses out of use, because a provider calls them dead or their owner wants no more.

use async_trait::async_trait;
use jiff::Timestamp;

use crate::StoreError;

/// Writes to contacts and to the suppression list. Every call may be repeated: its answer says how things are, not what
/// this call changed.
#[async_trait]
pub trait AddressBook: Send + Sync {
    /// Removes a device from the contacts of `user` as [`chasqui_schemas::record::Contacts::remove_device`] says, with the
    /// time at which the store has the record.
    /// A change that somebody else makes to the record meanwhile is kept.
    ///
    /// True if no device of that id has that token now; false if the device stays, because it was registered again
    /// since.
    async fn remove_device(
        &self,
        user: &str,
        device: &str,
        token: &str,
        gone_since: Option<Timestamp>,
    ) -> Result<bool, StoreError>;

    /// Puts an e-mail address or phone number on the suppression list, or adds to the entry that is there, as
    /// [`chasqui_schemas::record::Suppression::learned`] says.
    async fn suppress(&self, address: &str, reason: &str, at: Timestamp) -> Result<(), StoreError>;
}
