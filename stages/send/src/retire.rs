//! What an answer says of the address is acted on: a dead device leaves the contacts, a dead or opted-out address goes on
//! the suppression list.
//!
//! | answer | device | mailbox, phone |
//! |---|---|---|
//! | dead endpoint | removed from the user's contacts, unless registered again since | suppressed: `bounce` |
//! | opted out | stays | suppressed: `unsubscribe` |
//!
//! Guarantee: done before the decision is published, and again, with the same effect and the same words in the trace,
//! if a crash came between the two.

use chasqui_contract::{AddressBook, Outcome, StoreError};
use chasqui_schemas::{Delivery, delivery::Address, record::Suppression};

use crate::Finished;

/// Acts on an answer; tells the trace what it did.
///
/// # Errors
/// Those of the address book that pass. A record that cannot be changed is no reason to keep the delivery.
pub(crate) async fn retire(
    book: &dyn AddressBook,
    delivery: &Delivery,
    finished: &Finished,
) -> Result<Option<(&'static str, &'static str)>, StoreError> {
    let answer = &finished.answer;
    let suppress = async |address: &str, reason: &'static str| {
        let suppression = Suppression { reason: reason.to_owned(), since: Some(finished.at) };
        book.suppress(address, suppression).await.map(|()| ("endpoint_suppressed", reason))
    };
    // The sandbox says nothing of addresses.
    if delivery.test {
        return Ok(None);
    }
    let done = match (answer.outcome, &delivery.endpoint.address, &delivery.user) {
        (Outcome::DeadEndpoint, Address::Device { token, .. }, Some(user)) => {
            let gone = book.remove_device(user, &delivery.endpoint.id, token, answer.gone_since).await;
            gone.map(|gone| if gone { ("endpoint_removed", "device") } else { ("endpoint_kept", "registered again") })
        }
        (Outcome::DeadEndpoint, Address::Mailbox(address) | Address::Phone(address), _) => {
            suppress(address, Suppression::BOUNCE).await
        }
        (Outcome::OptedOut, Address::Mailbox(address) | Address::Phone(address), _) => {
            suppress(address, Suppression::UNSUBSCRIBE).await
        }
        _ => return Ok(None),
    };
    match done {
        Err(error) if error.class().is_transient() => Err(error),
        Err(error) => {
            tracing::warn!(delivery = %delivery.id, error = &error as &dyn std::error::Error, "a dead address stays");
            Ok(Some(("endpoint_kept", "unusable record")))
        }
        Ok(done) => Ok(Some(done)),
    }
}

#[cfg(test)]
mod tests {
    use chasqui_contract::{Answer, Directory};
    use chasqui_schemas::{
        Channel,
        delivery::Endpoint,
        record::{Contacts, Device, Platform},
    };
    use chasqui_stores::memory::MemoryDirectory;
    use jiff::Timestamp;

    use super::*;
    use crate::testing::{at, delivery_by};

    fn finished(outcome: Outcome, gone_since: Option<Timestamp>) -> Finished {
        let answer = Answer { gone_since, ..Answer::new(outcome, "410", "") };
        Finished { at: at(9), interrupted: false, answer }
    }

    /// Ada's phone, as [`delivery`] to push has it.
    fn contacts(token: &str, registered_at: i64) -> MemoryDirectory {
        let device = Device {
            id: "endpoint".into(),
            platform: Platform::Android,
            token: token.into(),
            registered_at: Some(at(registered_at)),
        };
        MemoryDirectory::new().with("ada", Contacts { devices: vec![device], ..Contacts::default() })
    }

    async fn devices(directory: &MemoryDirectory) -> usize {
        directory.contacts("ada").await.unwrap().unwrap().devices.len()
    }

    #[tokio::test]
    async fn a_dead_device_is_removed_and_doing_it_again_says_the_same() {
        let directory = contacts("token-1", 0);
        for _ in 0..2 {
            let done =
                retire(&directory, &delivery_by(Channel::Push), &finished(Outcome::DeadEndpoint, Some(at(5)))).await;
            assert_eq!(done.unwrap(), Some(("endpoint_removed", "device")));
            assert_eq!(devices(&directory).await, 0);
        }
    }

    #[tokio::test]
    async fn a_newer_token_and_a_newer_registration_stay() {
        let push = delivery_by(Channel::Push);
        let newer_token = contacts("token-2", 0);
        retire(&newer_token, &push, &finished(Outcome::DeadEndpoint, None)).await.unwrap();
        assert_eq!(devices(&newer_token).await, 1);
        let newer_registration = contacts("token-1", 6);
        let done = retire(&newer_registration, &push, &finished(Outcome::DeadEndpoint, Some(at(5)))).await.unwrap();
        assert_eq!((done, devices(&newer_registration).await), (Some(("endpoint_kept", "registered again")), 1));
    }

    #[tokio::test]
    async fn dead_and_opted_out_addresses_are_suppressed_for_users_and_others() {
        for (channel, outcome, reason) in [
            (Channel::Email, Outcome::DeadEndpoint, "bounce"),
            (Channel::Sms, Outcome::DeadEndpoint, "bounce"),
            (Channel::Sms, Outcome::OptedOut, "unsubscribe"),
        ] {
            let directory = MemoryDirectory::new();
            let inline = Delivery { user: None, ..delivery_by(channel) };
            let done = retire(&directory, &inline, &finished(outcome, None)).await.unwrap();
            assert_eq!(done, Some(("endpoint_suppressed", reason)));
            let suppression = directory.suppression(inline.endpoint.address.text()).await.unwrap().unwrap();
            assert_eq!((suppression.reason.as_str(), suppression.since), (reason, Some(at(9))));
        }
    }

    #[tokio::test]
    async fn other_answers_and_inboxes_change_nothing() {
        let directory = contacts("token-1", 0);
        for outcome in [Outcome::Accepted, Outcome::Refused, Outcome::NoAnswer, Outcome::OptedOut] {
            assert_eq!(retire(&directory, &delivery_by(Channel::Push), &finished(outcome, None)).await.unwrap(), None);
        }
        let inbox = delivery_by(Channel::InApp);
        assert_eq!(retire(&directory, &inbox, &finished(Outcome::DeadEndpoint, None)).await.unwrap(), None);
        let test = Delivery { test: true, ..delivery_by(Channel::Push) };
        assert_eq!(retire(&directory, &test, &finished(Outcome::DeadEndpoint, None)).await.unwrap(), None);
        assert_eq!(devices(&directory).await, 1);
    }

    #[tokio::test]
    async fn a_store_that_is_away_is_waited_for_and_an_unusable_record_is_not() {
        let dead = finished(Outcome::DeadEndpoint, None);
        let directory = contacts("token-1", 0);
        directory.faults.fail_next(1);
        assert!(retire(&directory, &delivery_by(Channel::Push), &dead).await.unwrap_err().class().is_transient());
        let bad = Delivery {
            endpoint: Endpoint { id: "x".into(), ..delivery_by(Channel::Push).endpoint },
            ..delivery_by(Channel::Push)
        };
        let directory = MemoryDirectory::new().with_bad_record::<Contacts>("ada");
        assert_eq!(retire(&directory, &bad, &dead).await.unwrap(), Some(("endpoint_kept", "unusable record")));
    }
}
