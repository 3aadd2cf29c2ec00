//! The headers that all dead letters have in common, whoever stores them.

use chasqui_schemas::{Reason, header};

/// Maximum bytes of `Chasqui-Detail`: enough for a list of violations or an error with its sources, and far below the
/// server's limit for all headers of a message.
const MAX_DETAIL: usize = 4 * 1024;

/// Says why a message that was published on `subject` is a dead letter of `stage`, and what happened in words.
pub fn dead_letter(reason: Reason, detail: &str, stage: &str, subject: &str) -> Vec<(&'static str, String)> {
    vec![
        (header::REASON, reason.as_str().to_owned()),
        (header::DETAIL, one_line(detail)),
        (header::STAGE, stage.to_owned()),
        (header::SUBJECT, subject.to_owned()),
    ]
}

/// A header is one line, and here not a long one.
fn one_line(text: &str) -> String {
    let mut line: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    if line.len() > MAX_DETAIL {
        line.truncate(line.floor_char_boundary(MAX_DETAIL - '…'.len_utf8()));
        line.push('…');
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_detail_is_one_bounded_line() {
        assert_eq!(one_line("a\r\nb\tc"), "a  b c");
        let long = one_line(&"é".repeat(MAX_DETAIL));
        assert!(long.len() <= MAX_DETAIL && long.ends_with('…'));
    }
}
