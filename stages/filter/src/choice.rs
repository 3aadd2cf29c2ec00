//! Which endpoints a recipient has, and what to say where none is left.
//!
//! Pure functions of the records; a crash means nothing here.

use chasqui_schemas::{
    Channel, Pepper, Reason,
    delivery::{Address, Endpoint},
    notification::Recipient,
    record::Contacts,
};

/// The endpoints of a recipient on a channel: every device, the first phone, the first mailbox, the user's inbox.
pub(crate) fn endpoints(
    channel: Channel,
    recipient: &Recipient,
    contacts: &Contacts,
    pepper: &Pepper,
) -> Vec<Endpoint> {
    let hashed = |text: &String, address: fn(String) -> Address| Endpoint {
        id: pepper.endpoint(text),
        address: address(text.clone()),
    };
    match channel {
        Channel::Push => devices(contacts),
        Channel::Sms => contacts.phones.first().map(|phone| hashed(phone, Address::Phone)).into_iter().collect(),
        Channel::Email => contacts.emails.first().map(|email| hashed(email, Address::Mailbox)).into_iter().collect(),
        Channel::InApp => recipient
            .user()
            .map(|user| Endpoint { id: user.to_owned(), address: Address::Inbox(user.to_owned()) })
            .into_iter()
            .collect(),
    }
}

fn devices(contacts: &Contacts) -> Vec<Endpoint> {
    let mut endpoints: Vec<Endpoint> = Vec::with_capacity(contacts.devices.len());
    for device in &contacts.devices {
        // Two devices of one id would be two deliveries of one id.
        if endpoints.iter().any(|endpoint| endpoint.id == device.id) {
            continue;
        }
        endpoints.push(Endpoint {
            id: device.id.clone(),
            address: Address::Device {
                platform: device.platform,
                token: device.token.clone(),
                registered_at: device.registered_at,
            },
        });
    }
    endpoints
}

/// The one reason for a notification that may go nowhere: the user's own will is named before the suppression
/// list, and that before a mere lack of addresses; of several opt-outs the widest.
pub(crate) fn most_telling(reasons: impl Iterator<Item = Reason>) -> Reason {
    const WEIGHT: [Reason; 6] = [
        Reason::NoEndpoint,
        Reason::AddressSuppressed,
        Reason::OptedOutDevice,
        Reason::OptedOutChannel,
        Reason::OptedOutCategory,
        Reason::OptedOut,
    ];
    reasons.max_by_key(|reason| WEIGHT.iter().position(|each| each == reason)).unwrap_or(Reason::NoEndpoint)
}
