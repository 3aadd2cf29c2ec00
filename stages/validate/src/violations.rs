//! The list of what is wrong with a submission. Its size is bounded, whatever the submission holds.
//!
//! Pure, so a crash changes nothing.

use std::fmt::Display;

use chasqui_schemas::Reason;

/// Maximum violations in the list: more than a person corrects in one go. "and more" stands for the rest.
const MAX_LISTED: usize = 50;
/// Maximum characters of a violation. It may quote the producer's own text, which can have any length.
const MAX_LENGTH: usize = 300;

/// Violations in the order in which they were found, without repeats.
#[derive(Default)]
pub(crate) struct Violations {
    listed: Vec<String>,
    more: bool,
    /// Whether one of them breaks the contract.
    breaks_contract: bool,
    /// The first thing that the app may not do.
    not_allowed: Option<Reason>,
}

impl Violations {
    /// Adds `path: what`, which breaks the contract.
    pub(crate) fn add(&mut self, path: impl Display, what: impl Display) {
        self.breaks_contract = true;
        self.list(path, what);
    }

    /// Adds `path: what`, which the app may not do.
    pub(crate) fn add_not_allowed(&mut self, reason: Reason, path: impl Display, what: impl Display) {
        self.not_allowed.get_or_insert(reason);
        self.list(path, what);
    }

    fn list(&mut self, path: impl Display, what: impl Display) {
        if self.listed.len() >= MAX_LISTED {
            self.more = true;
            return;
        }
        let violation = clip(&format!("{path}: {what}"), MAX_LENGTH);
        if !self.listed.contains(&violation) {
            self.listed.push(violation);
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.listed.is_empty()
    }

    /// Whether a field is named already.
    pub(crate) fn name(&self, field: &str) -> bool {
        self.listed.iter().any(|each| each.strip_prefix(field).is_some_and(|rest| rest.starts_with(": ")))
    }

    /// Whether the list is full, so that looking for more violations would change nothing.
    pub(crate) fn are_enough(&self) -> bool {
        self.more
    }

    /// The reason of the rejection: a broken contract, else the first thing that was not allowed.
    pub(crate) fn reason(&self) -> Reason {
        self.not_allowed.filter(|_| !self.breaks_contract).unwrap_or(Reason::Invalid)
    }

    pub(crate) fn into_list(mut self) -> Vec<String> {
        if self.more {
            self.listed.push("and more".to_owned());
        }
        self.listed
    }
}

/// A producer's text, safe to repeat: short, and without control characters.
pub(crate) fn clip(text: &str, max_chars: usize) -> String {
    let mut clipped: String =
        text.chars().take(max_chars).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
    if text.chars().nth(max_chars).is_some() {
        clipped.push('…');
    }
    clipped
}
