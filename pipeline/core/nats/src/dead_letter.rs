//! The headers that all dead letters have in common, whoever stores them.

use chasqui_schemas::{Reason, header, text::one_line};

/// Maximum characters of `Chasqui-Detail`: enough for a list of violations or an error with its sources, and far below the
/// server's limit for all headers of a message.
const MAX_DETAIL: usize = 4 * 1024;

/// Says why a message that was published on `subject` is a dead letter of `stage`, and what happened in words.
pub fn dead_letter(reason: Reason, detail: &str, stage: &str, subject: &str) -> Vec<(&'static str, String)> {
    vec![
        (header::REASON, reason.as_str().to_owned()),
        (header::DETAIL, one_line(detail, MAX_DETAIL).into_owned()),
        (header::STAGE, stage.to_owned()),
        (header::SUBJECT, subject.to_owned()),
    ]
}
