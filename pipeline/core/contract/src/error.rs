//! Error classes: a caller decides what to do about an error by its type, never by its text.

use std::time::Duration;

/// What the caller who gets an error should do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// Try the same again, not before this delay.
    RetryAfter(Duration),
    /// The other side is full: wait longer, then try again.
    Overloaded,
    /// It will never work with this input.
    Permanent,
}

impl Class {
    /// Whether the same call may succeed later.
    pub fn is_transient(self) -> bool {
        matches!(self, Class::RetryAfter(_) | Class::Overloaded)
    }
}

/// A port to stored state did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The store cannot be reached, or did not answer in time. The call may or may not have had its effect;
    /// calls on ports are safe to repeat.
    #[error("{store} is unavailable")]
    Unavailable {
        /// Which store.
        store: &'static str,
        /// What its client said.
        #[source]
        source: Option<Box<dyn std::error::Error + Send + Sync>>,
    },
    /// The store is at its limit and refuses to take more.
    #[error("{store} is full")]
    Full {
        /// Which store.
        store: &'static str,
    },
    /// The store will never take what it was given, because it is too large, say.
    #[error("{store} refused what was written to it")]
    Refused {
        /// Which store.
        store: &'static str,
        /// What its client said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A record is there, and cannot be used until it is corrected.
    #[error("the record `{key}` in `{store}` cannot be used: correct it with `chasqui {store} put`")]
    BadRecord {
        /// Which store.
        store: &'static str,
        /// Which record.
        key: String,
        /// What is wrong with it.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl StoreError {
    /// What the caller should do about it.
    pub fn class(&self) -> Class {
        match self {
            StoreError::Unavailable { .. } => Class::RetryAfter(Duration::from_millis(100)),
            StoreError::Full { .. } => Class::Overloaded,
            StoreError::Refused { .. } | StoreError::BadRecord { .. } => Class::Permanent,
        }
    }
}

/// The text of an error and of all its sources.
pub fn with_sources(error: &dyn std::error::Error) -> String {
    let mut words = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        words.push_str(": ");
        words.push_str(&error.to_string());
        source = error.source();
    }
    words
}
