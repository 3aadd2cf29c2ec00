//! The list of what is wrong with a submission. Its size is bounded, whatever the submission holds.
//!
//! Pure, so a crash changes nothing.

use std::fmt::Display;

/// Maximum violations in the list: more than a person corrects in one go. "and more" stands for the rest.
const MAX_LISTED: usize = 50;
/// Maximum characters of a violation. It may quote the producer's own text, which can have any length.
const MAX_LENGTH: usize = 300;

/// Violations in the order in which they were found, without repeats.
#[derive(Default)]
pub(crate) struct Violations {
    listed: Vec<String>,
    more: bool,
}

impl Violations {
    /// Adds `path: what`.
    pub(crate) fn add(&mut self, path: impl Display, what: impl Display) {
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

    /// Whether the list is full, so that looking for more violations would change nothing.
    pub(crate) fn are_enough(&self) -> bool {
        self.more
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
