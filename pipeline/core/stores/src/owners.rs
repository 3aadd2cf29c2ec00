//! Whose an address is: an index from addresses to users, so that a user's preferences also hold where a submission names
//! the address.
//!
//! Contacts are written straight into their bucket, by any backend. So the index cannot be written with them: it follows
//! them ([`OwnersIndex::follow`]). It keeps for each user which addresses it knows, because a record that is gone cannot say.
//!
//! A device is one person's: where the contacts of several users have it, it stays with the one who registered it last, and
//! leaves the others' contacts. What registered means, and what stands in for a missing date, [`Contacts::registered`] says.
//!
//! Guarantee: readers ask the contacts once more, so an entry too many does no harm. Within seconds of a write the
//! index has every address of the record; before that, an address counts as nobody's.
//!
//! After a crash the change comes again. Entries are made before the list of the user's addresses is, and removed before it
//! too, so that doing it again finds what is left to do.

use std::{collections::BTreeSet, time::Duration};

use async_nats::jetstream::{
    self,
    kv::{Operation, Store, UpdateErrorKind},
};
use bytes::Bytes;
use chasqui_contract::{Class, StoreError};
use chasqui_nats::{amend::amend_dated, bucket::open, unavailable};
use chasqui_schemas::{
    bucket::{address_key, token},
    id,
    record::{self, Contacts, Device, Owners, Record},
};
use jiff::Timestamp;
use serde::{Serialize, de::DeserializeOwned};

/// Maximum times that a record is read while others keep writing it; an error then, and the caller repeats later.
const TRIES: u32 = 10;
/// Pause before the second try; each later one is longer by as much.
const PAUSE: Duration = Duration::from_millis(5);

/// Writes the index.
#[derive(Debug, Clone)]
pub struct OwnersIndex {
    contacts: Store,
    index: Store,
}

impl OwnersIndex {
    /// Opens both buckets.
    ///
    /// # Errors
    /// `Unavailable` where a bucket does not exist or does not answer.
    pub async fn open(context: &jetstream::Context) -> Result<Self, StoreError> {
        Ok(OwnersIndex {
            contacts: open(context, Contacts::BUCKET).await?,
            index: open(context, Owners::BUCKET).await?,
        })
    }

    /// Makes the index say of `user` what the contacts say now.
    ///
    /// # Errors
    /// `Unavailable`: call it again.
    pub async fn follow(&self, user: &str) -> Result<(), StoreError> {
        // A hash, because the key of an erased entry stays in the bucket.
        let own = format!("of.{}", id::claim(&["owner", user]));
        for tried in 0..TRIES {
            tokio::time::sleep(PAUSE * tried).await;
            let (known, revision) = self.read::<BTreeSet<String>>(&own).await?;
            let known = known.unwrap_or_default();
            let Some((now, devices)) = self.addresses(user).await? else { return Ok(()) };
            for address in now.iter() {
                self.change(address, user, true).await?;
            }
            for address in known.difference(&now) {
                self.change(address, user, false).await?;
            }
            for device in &devices {
                self.settle(device).await?;
            }
            if known == now || self.write(&own, (!now.is_empty()).then_some(&now), revision).await? {
                return Ok(());
            }
        }
        Err(unavailable(Owners::BUCKET, "the user's contacts change again and again"))
    }

    /// The keys of a user's addresses and devices, and of the devices alone; none without a record, `None` where the record
    /// cannot be used: what is known stays.
    async fn addresses(&self, user: &str) -> Result<Option<(BTreeSet<String>, BTreeSet<String>)>, StoreError> {
        let json = self.contacts.get(token(user)).await.map_err(|error| unavailable(Contacts::BUCKET, error))?;
        let Some(json) = json else { return Ok(Some(Default::default())) };
        let contacts: Option<Contacts> = record::read(&json).ok();
        let keys = |mut contacts: Contacts| {
            contacts.keep_newest_devices();
            let devices: BTreeSet<String> = contacts.devices.iter().map(Device::key).collect();
            let addresses = contacts.emails.iter().chain(&contacts.phones).take(Owners::MAX_ADDRESSES);
            let all = addresses.chain(&devices).map(|address| address_key(address)).collect();
            (all, devices)
        };
        Ok(contacts.map(keys))
    }

    /// Makes an address the user's, or no longer the user's.
    async fn change(&self, address: &str, user: &str, is_theirs: bool) -> Result<(), StoreError> {
        for tried in 0..TRIES {
            tokio::time::sleep(PAUSE * tried).await;
            let (owners, revision) = self.read::<Owners>(address).await?;
            let mut users = owners.unwrap_or_default().users;
            if users.iter().any(|each| each == user) == is_theirs {
                return Ok(());
            }
            users.retain(|each| each != user);
            if is_theirs {
                // Of too many, the first were there longest.
                let too_many = (users.len() + 1).saturating_sub(Owners::MAX_USERS);
                users.drain(..too_many);
                users.push(user.to_owned());
            }
            let owners = (!users.is_empty()).then_some(Owners { users });
            if self.write(address, owners.as_ref(), revision).await? {
                return Ok(());
            }
        }
        Err(unavailable(Owners::BUCKET, "others change the address again and again"))
    }

    /// Leaves a device to the user who registered it last.
    async fn settle(&self, device: &str) -> Result<(), StoreError> {
        let users = self.read::<Owners>(&address_key(device)).await?.0.unwrap_or_default().users;
        if users.len() < 2 {
            return Ok(());
        }
        // Of two that say the same moment, the one that was written last.
        let mut registered: Vec<(Timestamp, Timestamp, &str)> = Vec::new();
        for user in &users {
            let at = |contacts: Option<Contacts>, written_at| {
                (None, contacts.and_then(|it| it.registered(device, written_at)).map(|at| (at, written_at)))
            };
            let found = self.amend(user, at).await?.flatten();
            registered.extend(found.map(|(at, written_at)| (at, written_at, user.as_str())));
        }
        let Some(last) = registered.iter().copied().max() else { return Ok(()) };
        for (.., user) in registered.into_iter().filter(|each| *each != last) {
            let remove = |contacts: Option<Contacts>, written_at| {
                // It may have been registered again since.
                let is_later = |at| (at, written_at, user) > last;
                let Some(mut contacts) = contacts else { return (None, false) };
                if contacts.registered(device, written_at).is_none_or(is_later) {
                    return (None, false);
                }
                contacts.remove_key(device, written_at);
                (Some(contacts), true)
            };
            if self.amend(user, remove).await? == Some(true) {
                tracing::info!("a device has left the contacts of a user, because another one registered it later");
            }
        }
        Ok(())
    }

    /// Amends the contacts of a user; `None` where they cannot be used.
    async fn amend<R>(
        &self,
        user: &str,
        change: impl Fn(Option<Contacts>, Timestamp) -> (Option<Contacts>, R),
    ) -> Result<Option<R>, StoreError> {
        match amend_dated(&self.contacts, &token(user), user, change).await {
            Err(error) if error.class() == Class::Permanent => Ok(None),
            answer => answer.map(Some),
        }
    }

    /// What is under a key, and its revision. What cannot be read is written anew: it is nobody's but ours.
    async fn read<T: DeserializeOwned>(&self, key: &str) -> Result<(Option<T>, u64), StoreError> {
        let entry = self.index.entry(key).await.map_err(|error| unavailable(Owners::BUCKET, error))?;
        // A deleted record has a revision too. Without any, zero says that there must be none.
        let revision = entry.as_ref().map_or(0, |entry| entry.revision);
        let value = entry.filter(|entry| entry.operation == Operation::Put).map(|entry| entry.value);
        Ok((value.and_then(|json| serde_json::from_slice(&json).ok()), revision))
    }

    /// Writes or erases what is under a key; false where somebody else has written it since it was read.
    async fn write<T: Serialize>(&self, key: &str, value: Option<&T>, revision: u64) -> Result<bool, StoreError> {
        let done = match value {
            Some(value) => {
                let json = serde_json::to_vec(value).map_err(|error| unavailable(Owners::BUCKET, error))?;
                self.index.update(key, Bytes::from(json), revision).await.map(drop)
            }
            None => self.index.purge_expect_revision(key, Some(revision)).await,
        };
        match done {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == UpdateErrorKind::WrongLastRevision => Ok(false),
            Err(error) => Err(unavailable(Owners::BUCKET, error)),
        }
    }
}
