//! Switches off what a recipient wants no more of.
//!
//! Guarantee: `Ok` means stored, see [`chasqui_nats::amend`]: two opt-outs at once, or an opt-out and an operator, lose nothing.
//! Doing it again changes nothing: a record that says so already is not written.
//!
//! After a crash: do it again.

use std::time::Duration;

use async_nats::jetstream;
use chasqui_contract::StoreError;
use chasqui_nats::{amend::amend, bucket::open};
use chasqui_schemas::{
    OptOut,
    bucket::{shown, token},
    record::{CategoryPreference, Preferences, Record, Suppression},
};
use jiff::Timestamp;

/// Maximum time of one exchange with the server.
const TIMEOUT: Duration = Duration::from_secs(5);

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
            let store = open(&context, Preferences::BUCKET).await?;
            let off = |preferences: Option<Preferences>| (without(preferences.unwrap_or_default(), category), ());
            amend(&store, &token(user), user, off).await
        }
        OptOut::Address { key, reason } => {
            let store = open(&context, Suppression::BUCKET).await?;
            let add = |known: Option<Suppression>| (Suppression::learned(known.as_ref(), reason, at), ());
            amend(&store, key, &shown(key), add).await
        }
    }
}

/// The preferences without the category; `None` where it is off already.
fn without(mut preferences: Preferences, category: &str) -> Option<Preferences> {
    let before = preferences.categories.insert(category.to_owned(), CategoryPreference::All(false));
    (before != Some(CategoryPreference::All(false))).then_some(preferences)
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
