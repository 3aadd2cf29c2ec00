//! Switches off what a recipient wants no more of.
//!
//! Guarantee: `Ok` means stored. A record is read and written back with what else it says, and only if nobody has written
//! it in between (compare and set on its revision), so two opt-outs at once, or an opt-out and an operator, lose nothing.
//! Doing it again changes nothing: a record that says so already is not written.
//!
//! After a crash: do it again.

use std::time::Duration;

use async_nats::jetstream::{
    self,
    kv::{Operation, Store, UpdateErrorKind},
};
use bytes::Bytes;
use chasqui_contract::StoreError;
use chasqui_schemas::{
    OptOut,
    bucket::{Bucket, shown, token},
    record::{CategoryPreference, Preferences, Suppression},
};
use jiff::Timestamp;
use serde::{Serialize, de::DeserializeOwned};

use crate::{directory::open, unavailable};

/// Longest exchange with the server.
const TIMEOUT: Duration = Duration::from_secs(5);
/// How often a record may be written by others while we look at it, before we come back later.
const TRIES: usize = 10;

/// Does what `opt_out` says. `at` is when it was wished.
///
/// # Errors
/// `BadRecord` where there are preferences that cannot be read: then nothing of that category is sent either, and an
/// operator has to correct them. Else `Unavailable`.
pub async fn apply(context: &jetstream::Context, opt_out: &OptOut, at: Timestamp) -> Result<(), StoreError> {
    let mut context = context.clone();
    context.set_timeout(TIMEOUT);
    match opt_out {
        OptOut::Category { user, category, .. } => {
            let store = open(&context, Bucket::Preferences).await?;
            let off = |preferences: Option<Preferences>| without(preferences.unwrap_or_default(), category);
            change(&store, Bucket::Preferences, &token(user), user, off).await
        }
        OptOut::Address { key, reason } => {
            let store = open(&context, Bucket::Suppressions).await?;
            let add = |known: Option<Suppression>| match known {
                Some(_) => None,
                None => Some(Suppression { reason: reason.clone(), since: Some(at) }),
            };
            change(&store, Bucket::Suppressions, key, &shown(key), add).await
        }
    }
}

/// The preferences without the category; `None` where it is off already.
fn without(mut preferences: Preferences, category: &str) -> Option<Preferences> {
    let before = preferences.categories.insert(category.to_owned(), CategoryPreference::All(false));
    (before != Some(CategoryPreference::All(false))).then_some(preferences)
}

/// Writes what `change` makes of the record under `key`, unless it makes nothing.
async fn change<T: Serialize + DeserializeOwned>(
    store: &Store,
    bucket: Bucket,
    key: &str,
    name: &str,
    change: impl Fn(Option<T>) -> Option<T>,
) -> Result<(), StoreError> {
    let bad = |source: serde_json::Error| StoreError::BadRecord {
        store: bucket.as_str(),
        key: name.to_owned(),
        source: Box::new(source),
    };
    for _ in 0..TRIES {
        let entry = store.entry(key).await.map_err(|error| unavailable(bucket.as_str(), error))?;
        // A deleted record has a revision too. Without any, zero says that there must be none.
        let revision = entry.as_ref().map_or(0, |entry| entry.revision);
        let value = entry.filter(|entry| entry.operation == Operation::Put).map(|entry| entry.value);
        let record = value.map(|json| serde_json::from_slice(&json)).transpose().map_err(bad)?;
        let Some(changed) = change(record) else { return Ok(()) };
        let json = Bytes::from(serde_json::to_vec(&changed).map_err(bad)?);
        match store.update(key, json, revision).await {
            Ok(_) => return Ok(()),
            Err(error) if error.kind() == UpdateErrorKind::WrongLastRevision => {}
            Err(error) => return Err(unavailable(bucket.as_str(), error)),
        }
    }
    Err(StoreError::Unavailable { store: bucket.as_str(), source: None })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use chasqui_schemas::Channel;

    use super::*;

    #[test]
    fn a_category_is_switched_off_and_all_else_stays() {
        let before = Preferences {
            channels: BTreeMap::from([(Channel::Sms, false)]),
            categories: BTreeMap::from([
                ("news".to_owned(), CategoryPreference::Channels(BTreeMap::from([(Channel::Push, false)]))),
                ("order".to_owned(), CategoryPreference::All(true)),
            ]),
            tracking: false,
            ..Preferences::default()
        };
        let after = without(before.clone(), "news").unwrap();
        assert_eq!(after.categories["news"], CategoryPreference::All(false));
        assert_eq!(after.categories["order"], CategoryPreference::All(true));
        assert_eq!((&after.channels, after.tracking), (&before.channels, false));
        assert_eq!(without(after, "news"), None, "again: nothing to write");
    }
}
