//! Notifications that replace one another: those of one app, to one recipient, with one `collapse_key`.
//!
//! Guarantee: of two of them, every process takes the same one for the newer.

use std::{fmt, str::FromStr};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{Notification, id};

/// How new a notification is: by when it is meant to arrive, which is its submission or a later `send_at`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// Milliseconds since 1970.
    pub at_ms: i64,
    /// Decides between two of the same moment.
    pub notification: Uuid,
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.at_ms, self.notification)
    }
}

/// A text that is no [`Version`].
#[derive(Debug, thiserror::Error)]
#[error("not a time and a notification")]
pub struct NoVersion;

impl FromStr for Version {
    type Err = NoVersion;

    fn from_str(text: &str) -> Result<Self, NoVersion> {
        let (at_ms, notification) = text.split_once(' ').ok_or(NoVersion)?;
        let (Ok(at_ms), Ok(notification)) = (at_ms.parse(), notification.parse()) else { return Err(NoVersion) };
        Ok(Version { at_ms, notification })
    }
}

/// What a delivery carries to find out whether a newer one has passed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Collapse {
    /// Under which key the newest one that has passed is on record.
    pub key: String,
    /// See [`Version::at_ms`].
    pub at_ms: i64,
}

/// Which newest one a key is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Passage {
    /// Of those that wait for the end of quiet hours.
    Waiting,
    /// Of those that have claimed their idempotency keys and are on their way to a provider.
    Passed,
}

impl Notification {
    /// The key of the notifications that it replaces or is replaced by; `None` without a `collapse_key`.
    pub fn collapse(&self, passage: Passage) -> Option<Collapse> {
        let collapse_key = self.request.collapse_key.as_deref()?;
        let passage = match passage {
            Passage::Waiting => "waiting",
            Passage::Passed => "passed",
        };
        // A test replaces nothing that is meant.
        let kind = if self.request.test { "collapse.test" } else { "collapse" };
        let key = id::claim(&[kind, passage, &self.app, &self.recipient.key(), collapse_key]);
        Some(Collapse { key, at_ms: self.version().at_ms })
    }

    /// How new it is.
    pub fn version(&self) -> Version {
        let at = self.request.send_at.map_or(self.submitted_at, |send_at: Timestamp| send_at.max(self.submitted_at));
        Version { at_ms: at.as_millisecond(), notification: self.id }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{notification::Recipient, sample};

    #[test]
    fn a_version_is_read_as_it_is_written_and_the_later_is_the_newer() {
        let version = Version { at_ms: -5, notification: Uuid::from_u128(7) };
        assert_eq!(version.to_string().parse::<Version>().unwrap(), version);
        assert!("x".parse::<Version>().is_err() && "1 x".parse::<Version>().is_err() && "".parse::<Version>().is_err());
        let first = sample::notification();
        let scheduled =
            sample::notification().with_request(|request| request.send_at = Some(Timestamp::from_second(60).unwrap()));
        assert!(scheduled.version() > first.version());
    }

    #[test]
    fn only_the_same_app_recipient_and_key_replace_one_another() {
        let keyed = || sample::notification().with_request(|request| request.collapse_key = Some("match-7".into()));
        let key = |notification: &Notification| notification.collapse(Passage::Passed).unwrap().key;
        assert_eq!(sample::notification().collapse(Passage::Passed), None);
        assert_ne!(key(&keyed()), keyed().collapse(Passage::Waiting).unwrap().key);
        for other in [
            Notification { app: "bank".into(), ..keyed() },
            Notification { recipient: Recipient::User("bob".into()), ..keyed() },
            keyed().with_request(|request| request.collapse_key = Some("match-8".into())),
            keyed().with_request(|request| request.test = true),
        ] {
            assert_ne!(key(&keyed()), key(&other));
        }
    }
}
