//! Which endpoints a recipient has, and which reason to give where none of them may be used.
//!
//! Pure functions of the records, so a crash changes nothing.

use chasqui_schemas::{
    Channel, Pepper, Reason,
    delivery::{Address, Endpoint},
    normal::{mailbox, phone},
    notification::Recipient,
    record::{Contacts, Device},
};

/// The endpoints of a recipient on a channel: every device, the first phone, the first mailbox, the user's inbox.
///
/// What is no phone number or mailbox is passed over: others may have written it, and it could be on the suppression list
/// in a form that we cannot compare.
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
        Channel::Sms => {
            let phone = contacts.phones.iter().find(|text| phone::is_normal(text));
            phone.map(|phone| hashed(phone, Address::Phone)).into_iter().collect()
        }
        Channel::Email => {
            let email = contacts.emails.iter().find(|text| mailbox::normal(text).is_ok());
            email.map(|email| hashed(email, Address::Mailbox)).into_iter().collect()
        }
        Channel::InApp => recipient
            .user()
            .map(|user| Endpoint { id: user.to_owned(), address: Address::Inbox(user.to_owned()) })
            .into_iter()
            .collect(),
    }
}

/// Each device once. Where two records have one token, because the app was installed anew, say, the later one counts.
fn devices(contacts: &Contacts) -> Vec<Endpoint> {
    let mut devices: Vec<(String, &Device)> = Vec::with_capacity(contacts.devices.len());
    for device in &contacts.devices {
        // A delivery's id is made of the device's: a second device of the same id would be the same delivery.
        if devices.iter().any(|(_, known)| known.id == device.id) {
            continue;
        }
        let key = device.key();
        match devices.iter_mut().find(|(known, _)| *known == key) {
            Some((_, known)) if device.registered_at >= known.registered_at => *known = device,
            Some(_) => {}
            None => devices.push((key, device)),
        }
    }
    let endpoint = |device: &Device| Endpoint {
        id: device.id.clone(),
        address: Address::Device {
            platform: device.platform,
            token: device.token.clone(),
            registered_at: device.registered_at,
        },
    };
    devices.into_iter().map(|(_, device)| endpoint(device)).collect()
}

/// The one reason to give for a notification that may go nowhere. A user's own wish counts more than the suppression
/// list, the list more than a missing address, and of several opt-outs the widest counts.
pub(crate) fn most_telling(reasons: impl Iterator<Item = Reason>) -> Reason {
    /// Later ones count more.
    const ORDER: &[Reason] = &[
        Reason::NoEndpoint,
        Reason::AddressSuppressed,
        Reason::OptedOutDevice,
        Reason::OptedOutChannel,
        Reason::OptedOutCategory,
        Reason::OptedOut,
    ];
    reasons.max_by_key(|reason| ORDER.iter().position(|each| each == reason)).unwrap_or(Reason::NoEndpoint)
}
