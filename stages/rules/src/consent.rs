//! Whether an endpoint may be used. Together with [`Preferences::opt_out`] this is the only definition of what an opt-out
//! and a suppressed address mean. Filter asks before anything is rendered; send asks again before it tries a delivery
//! that had to wait, because the recipient may have opted out in between.
//!
//! Pure but for one look-up in the directory; a crash changes nothing.

use chasqui_contract::{Directory, StoreError};
use chasqui_schemas::{
    Lane, Reason,
    delivery::{Address, Endpoint},
    record::Preferences,
};
use jiff::Timestamp;

/// What of a message counts against an entry on the suppression list.
#[derive(Debug, Clone, Copy)]
pub struct Weight {
    /// Whether its category is mandatory.
    pub mandatory: bool,
    /// The lane that it goes out on.
    pub lane: Lane,
    /// When it goes out.
    pub now: Timestamp,
}

/// The reason why this one endpoint must not be used, if there is one: the user switched the device off, or the address
/// is on the suppression list with a reason that stops this message
/// ([`chasqui_schemas::record::Suppression::stops`]).
///
/// # Errors
/// The directory's.
pub async fn refusal(
    directory: &dyn Directory,
    endpoint: &Endpoint,
    preferences: Option<&Preferences>,
    Weight { mandatory, lane, now }: Weight,
) -> Result<Option<Reason>, StoreError> {
    Ok(match &endpoint.address {
        Address::Device { .. } => {
            let switched = preferences.and_then(|preferences| preferences.devices.get(&endpoint.id));
            (switched == Some(&false)).then_some(Reason::OptedOutDevice)
        }
        Address::Phone(address) | Address::Mailbox(address) => {
            let suppression = directory.suppression(address).await?;
            suppression.filter(|entry| entry.stops(mandatory, lane, now)).map(|_| Reason::AddressSuppressed)
        }
        Address::Inbox(_) => None,
    })
}
