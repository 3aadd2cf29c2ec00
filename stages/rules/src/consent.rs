//! Whether an endpoint may be used. With [`Preferences::opt_out`] the one definition of what an opt-out and a suppressed
//! address mean: filter asks before anything is rendered, and send asks again before it tries what had to wait, so
//! that a recipient who says no in between is heard.

use chasqui_contract::{Directory, StoreError};
use chasqui_schemas::{
    Reason,
    delivery::{Address, Endpoint},
    record::Preferences,
};

/// Why this one endpoint must not be used, if so: its device is switched off, or its address is on the suppression
/// list, which nothing passes.
///
/// # Errors
/// The directory's.
pub async fn refusal(
    directory: &dyn Directory,
    endpoint: &Endpoint,
    preferences: Option<&Preferences>,
) -> Result<Option<Reason>, StoreError> {
    Ok(match &endpoint.address {
        Address::Device { .. } => {
            let switched = preferences.and_then(|preferences| preferences.devices.get(&endpoint.id));
            (switched == Some(&false)).then_some(Reason::OptedOutDevice)
        }
        Address::Phone(address) | Address::Mailbox(address) => {
            directory.suppression(address).await?.map(|_| Reason::AddressSuppressed)
        }
        Address::Inbox(_) => None,
    })
}
