//! The list of what is wrong with a submission. Its size is bounded, whatever the submission holds.
//!
//! Pure, so a crash changes nothing.

use std::fmt::{self, Display};

use chasqui_schemas::Reason;

/// Maximum violations in the list: more than a person corrects in one go. "and more" stands for the rest.
const MAX_LISTED: usize = 50;
/// Maximum characters of a violation. It may quote the producer's own text, which can have any length.
const MAX_LENGTH: usize = 300;

/// One thing that is wrong with a submission.
#[derive(Debug, Clone, PartialEq)]
pub struct Violation {
    /// Where in the submission as it was sent, as a JSON pointer (RFC 6901); empty where the whole is meant.
    pub pointer: String,
    /// Where and what, in words: `recipients[3].email: must be …`.
    pub text: String,
    /// Why it is refused.
    pub reason: Reason,
}

impl Violation {
    /// What is wrong, without the field.
    pub fn what(&self) -> &str {
        self.text.split_once(": ").map_or(&self.text, |(_, what)| what)
    }
}

impl Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Violations in the order in which they were found, without repeats.
#[derive(Default)]
pub(crate) struct Violations {
    listed: Vec<Violation>,
    more: bool,
    /// Whether one of them breaks the contract.
    breaks_contract: bool,
    /// The first thing that the app may not do.
    not_allowed: Option<Reason>,
}

impl Violations {
    /// Adds `path: what`, which breaks the contract.
    pub(crate) fn add(&mut self, path: impl Display, what: impl Display) {
        let path = path.to_string();
        self.add_at(pointer(&path), path, what);
    }

    /// The same where the pointer is known, because a name in the path may hold a dot.
    pub(crate) fn add_at(&mut self, pointer: String, path: impl Display, what: impl Display) {
        self.breaks_contract = true;
        self.list(pointer, Reason::Invalid, format!("{path}: {what}"));
    }

    /// Adds `path: what`, which the app may not do.
    pub(crate) fn add_not_allowed(&mut self, reason: Reason, path: impl Display, what: impl Display) {
        self.not_allowed.get_or_insert(reason);
        let path = path.to_string();
        self.list(pointer(&path), reason, format!("{path}: {what}"));
    }

    fn list(&mut self, pointer: String, reason: Reason, text: String) {
        if self.listed.len() >= MAX_LISTED {
            self.more = true;
            return;
        }
        let text = clip(&text, MAX_LENGTH);
        if self.listed.iter().all(|each| each.text != text) {
            self.listed.push(Violation { pointer: clip(&pointer, MAX_LENGTH), text, reason });
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.listed.is_empty()
    }

    /// Whether a field is named already.
    pub(crate) fn name(&self, field: &str) -> bool {
        self.listed.iter().any(|each| each.text.strip_prefix(field).is_some_and(|rest| rest.starts_with(": ")))
    }

    /// Whether the list is full, so that looking for more violations would change nothing.
    pub(crate) fn are_enough(&self) -> bool {
        self.more
    }

    /// The reason of the rejection: a broken contract, else the first thing that was not allowed.
    pub(crate) fn reason(&self) -> Reason {
        self.not_allowed.filter(|_| !self.breaks_contract).unwrap_or(Reason::Invalid)
    }

    /// The list. `renamed` says where fields really stand, by our pointer to them.
    pub(crate) fn into_list(mut self, renamed: &[(String, String)]) -> Vec<Violation> {
        if self.more {
            let (pointer, text) = (String::new(), "and more".to_owned());
            self.listed.push(Violation { pointer, text, reason: Reason::Invalid });
        }
        for violation in &mut self.listed {
            let given = renamed.iter().find_map(|(ours, given)| {
                let rest = violation.pointer.strip_prefix(ours.as_str())?;
                (rest.is_empty() || rest.starts_with('/')).then(|| format!("{given}{rest}"))
            });
            if let Some(given) = given {
                violation.pointer = given;
            }
        }
        self.listed
    }
}

/// `recipients[0].user` as `/recipients/0/user`. What is no field has the pointer of the whole.
fn pointer(path: &str) -> String {
    if ["submission", "headers", "subject", chasqui_schemas::header::MSG_ID].contains(&path) {
        return String::new();
    }
    let segments = path.split('.').flat_map(|part| part.split('[')).map(|segment| segment.trim_end_matches(']'));
    segments.fold(String::new(), |pointer, segment| pointer + "/" + &escaped(segment))
}

/// A name as a segment of a JSON pointer.
pub(crate) fn escaped(name: &str) -> String {
    name.replace('~', "~0").replace('/', "~1")
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
