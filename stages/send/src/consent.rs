//! Opt-outs are law: what had to wait is asked about again before it goes out.
//!
//! Guarantee: the rules are filter's ([`chasqui_rules::consent`]), on the records of now. Quiet hours are not asked
//! again: they hold for the beginning of a delivery, not for its retries. A device must still be the user's: it may have been
//! handed on, and signed in by another.

use chasqui_contract::{Directory, StoreError};
use chasqui_rules::consent::{self, Weight};
use chasqui_schemas::{Delivery, Reason, delivery::Address, record::device_key};
use jiff::Timestamp;

/// Why a delivery must not go out any more, if so.
///
/// # Errors
/// The directory's. A record that cannot be used is one: a misspelt opt-out must not become a message.
pub(crate) async fn withdrawn(
    directory: &dyn Directory,
    delivery: &Delivery,
    now: Timestamp,
) -> Result<Option<Reason>, StoreError> {
    let category = directory.category(&delivery.category).await?;
    let mandatory = category.is_some_and(|category| category.mandatory);
    let weight = Weight { mandatory, lane: delivery.lane, now };
    let mut preferences = Vec::new();
    if !mandatory {
        for user in delivery.user.iter().chain(&delivery.owners) {
            preferences.extend(directory.preferences(user).await?);
        }
    }
    if let (Address::Device { platform, token, .. }, Some(user)) = (&delivery.endpoint.address, &delivery.user) {
        let contacts = directory.contacts(user).await?.unwrap_or_default();
        if !contacts.has_endpoint(*platform, token) {
            // A device that has another token now may still get what goes to the old one, unless that is another user's.
            let renewed = contacts.devices.iter().any(|device| device.id == delivery.endpoint.id);
            let owners = directory.owners(&device_key(*platform, token)).await?.unwrap_or_default();
            if !renewed || owners.users.iter().any(|owner| owner != user) {
                return Ok(Some(Reason::DeviceGone));
            }
        }
    }
    match preferences.iter().find_map(|each| each.opt_out(&delivery.category, delivery.channel())) {
        Some(reason) => Ok(Some(reason)),
        // Only a user has devices, and a user is one.
        None => consent::refusal(directory, &delivery.endpoint, preferences.first().map(|each| &**each), weight).await,
    }
}

#[cfg(test)]
mod tests {
    use chasqui_schemas::{
        Channel,
        record::{Category, Contacts, Owners, Platform, Preferences, Suppression},
    };
    use chasqui_stores::memory::MemoryDirectory;
    use serde_json::json;

    use super::*;
    use crate::testing::{at, delivery_by, with_ada};

    fn directory(preferences: serde_json::Value) -> MemoryDirectory {
        let preferences: Preferences = serde_json::from_value(preferences).unwrap();
        with_ada().with("ada", preferences)
    }

    async fn asked(directory: &MemoryDirectory, delivery: &Delivery) -> Option<Reason> {
        withdrawn(directory, delivery, at(0)).await.unwrap()
    }

    #[tokio::test]
    async fn whoever_says_no_meanwhile_is_heard() {
        for (preferences, channel, expected) in [
            (json!({}), Channel::Push, None),
            (json!({"enabled": false}), Channel::Email, Some(Reason::OptedOut)),
            (json!({"channels": {"sms": false}}), Channel::Sms, Some(Reason::OptedOutChannel)),
            (json!({"channels": {"sms": false}}), Channel::Push, None),
            (json!({"categories": {"order": false}}), Channel::InApp, Some(Reason::OptedOutCategory)),
            (json!({"devices": {"endpoint": false}}), Channel::Push, Some(Reason::OptedOutDevice)),
        ] {
            assert_eq!(asked(&directory(preferences.clone()), &delivery_by(channel)).await, expected, "{preferences}");
        }
    }

    #[tokio::test]
    async fn a_mandatory_category_passes_opt_outs_but_not_a_complaint() {
        let mandatory = Category { mandatory: true, ..Category::default() };
        let directory = directory(json!({"enabled": false})).with("order", mandatory);
        assert_eq!(asked(&directory, &delivery_by(Channel::Sms)).await, None);
        let directory = directory.with("+491711234567", Suppression::new(Suppression::UNSUBSCRIBE, at(0)));
        assert_eq!(asked(&directory, &delivery_by(Channel::Sms)).await, None);
        let directory = directory.with("+491711234567", Suppression::new("complaint", at(0)));
        assert_eq!(asked(&directory, &delivery_by(Channel::Sms)).await, Some(Reason::AddressSuppressed));
    }

    #[tokio::test]
    async fn a_recipient_without_a_user_has_only_the_suppression_list() {
        let inline = Delivery { user: None, ..delivery_by(Channel::Email) };
        assert_eq!(asked(&directory(json!({"enabled": false})), &inline).await, None);
    }

    #[tokio::test]
    async fn a_device_that_left_the_contacts_gets_nothing_more_and_one_under_a_new_id_does() {
        let with = |devices: serde_json::Value| {
            let contacts: Contacts = serde_json::from_value(json!({ "devices": devices })).unwrap();
            MemoryDirectory::new().with("ada", contacts)
        };
        let push = delivery_by(Channel::Push);
        for (devices, expected) in [
            (json!([{"id": "endpoint", "platform": "android", "token": "token-1"}]), None),
            (json!([{"id": "anew", "platform": "android", "token": "token-1"}]), None),
            (json!([{"id": "endpoint", "platform": "android", "token": "token-2"}]), None),
            (json!([{"id": "another", "platform": "android", "token": "token-2"}]), Some(Reason::DeviceGone)),
            (json!([]), Some(Reason::DeviceGone)),
        ] {
            assert_eq!(asked(&with(devices.clone()), &push).await, expected, "{devices}");
        }
        assert_eq!(asked(&MemoryDirectory::new(), &push).await, Some(Reason::DeviceGone), "she was forgotten");
        // Her next device has the id of the one that she handed on.
        let handed_on = with(json!([{"id": "endpoint", "platform": "android", "token": "token-2"}]))
            .with(&device_key(Platform::Android, "token-1"), Owners { users: vec!["bob".into()] });
        assert_eq!(asked(&handed_on, &push).await, Some(Reason::DeviceGone));
        assert_eq!(asked(&MemoryDirectory::new(), &delivery_by(Channel::InApp)).await, None);
    }

    #[tokio::test]
    async fn a_directory_that_is_away_is_an_error_and_not_a_yes() {
        let directory = directory(json!({}));
        directory.faults.fail_next(1);
        assert!(withdrawn(&directory, &delivery_by(Channel::Email), at(0)).await.unwrap_err().class().is_transient());
    }

    #[tokio::test]
    async fn the_owner_of_an_inline_address_is_heard_too() {
        let mut delivery = delivery_by(Channel::Email);
        (delivery.user, delivery.owners) = (None, vec!["ada".into()]);
        let off = serde_json::json!({"enabled": false});
        assert_eq!(asked(&directory(off.clone()), &delivery).await, Some(Reason::OptedOut));
        delivery.owners.clear();
        assert_eq!(asked(&directory(off), &delivery).await, None);
    }
}
