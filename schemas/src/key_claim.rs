//! What is on record about an idempotency key: who claimed it, and whether the claim was given back.
//!
//! A key protects what was handed to a provider. A notification that claimed one and ends before that gives it back: its
//! *generation* of the claim is over, and whoever comes next with the key claims the next generation.

use std::{collections::BTreeSet, fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::id;

/// Who claimed a key: the value of the claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// The notification.
    pub notification: Uuid,
    /// What it says: [`crate::notification::Request::fingerprint`].
    pub content: String,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.notification, self.content)
    }
}

/// A claim that names no notification.
#[derive(Debug, thiserror::Error)]
#[error("the claim of an idempotency key names no notification")]
pub struct NoHolder;

impl FromStr for Holder {
    type Err = NoHolder;

    fn from_str(text: &str) -> Result<Self, NoHolder> {
        let (notification, content) = text.split_once(' ').ok_or(NoHolder)?;
        Ok(Holder { notification: notification.parse().map_err(|_| NoHolder)?, content: content.to_owned() })
    }
}

/// A record that a notification, or one of its deliveries, ended before a provider was called.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GivenBack {
    /// The notification that had claimed the key.
    pub notification: Uuid,
    /// Which of its deliveries ended; `None`: the whole notification.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delivery: Option<Uuid>,
    /// How many deliveries it has.
    #[serde(default)]
    pub of: u16,
}

/// Whether `holder` has given its claim back: as a whole, or with every one of its deliveries.
pub fn is_given_back(holder: Uuid, records: &[GivenBack]) -> bool {
    let mut deliveries = BTreeSet::new();
    records.iter().filter(|record| record.notification == holder).any(|record| match record.delivery {
        None => true,
        Some(delivery) => {
            deliveries.insert(delivery);
            deliveries.len() >= usize::from(record.of.max(1))
        }
    })
}

/// The claim after `claim` was given back.
pub fn next(claim: &str) -> String {
    id::claim(&[claim, "again"])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_holder_is_read_as_it_is_written() {
        let holder = Holder { notification: Uuid::from_u128(7), content: "abc".into() };
        assert_eq!(holder.to_string().parse::<Holder>().unwrap(), holder);
        for wrong in ["", "abc", "00000000-0000-0000-0000-000000000007", "x y"] {
            assert!(wrong.parse::<Holder>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_claim_is_given_back_by_the_whole_or_by_every_delivery() {
        let [ours, theirs] = [1, 2].map(Uuid::from_u128);
        let part =
            |notification, delivery: u128| GivenBack { notification, delivery: Some(Uuid::from_u128(delivery)), of: 2 };
        assert!(is_given_back(ours, &[GivenBack { notification: ours, delivery: None, of: 0 }]));
        assert!(is_given_back(ours, &[part(ours, 1), part(theirs, 1), part(ours, 2)]));
        for records in [
            vec![],
            vec![part(ours, 1)],
            vec![part(ours, 1), part(ours, 1)],
            vec![part(ours, 1), part(theirs, 2)],
            vec![GivenBack { notification: theirs, delivery: None, of: 0 }],
        ] {
            assert!(!is_given_back(ours, &records), "{records:?}");
        }
    }
}
