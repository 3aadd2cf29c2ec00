//! Mailboxes: a dot-atom and a domain of two labels or more ([RFC 5321](https://www.rfc-editor.org/rfc/rfc5321#section-4.1.2)),
//! the domain as A-labels in lower case ([UTS 46](https://www.unicode.org/reports/tr46/)), as every mail server takes it.
//!
//! Providers also take quoted local parts and address literals; those are refused, so that no address can break out
//! of a mail header. The case of the local part stays as it was written: it is the mail server's.

/// What is wrong with all that is no mailbox.
pub const PROBLEM: &str = "must be an e-mail address, such as ada@example.com";
/// Maximum bytes of a mailbox ([RFC 3696](https://www.rfc-editor.org/errata/eid1690)).
const MAX_BYTES: usize = 254;
/// Maximum bytes of the local part.
const MAX_LOCAL: usize = 64;

/// The mailbox with its domain as A-labels.
///
/// # Errors
/// It is none.
pub fn normal(text: &str) -> Result<String, &'static str> {
    let (local, domain) = text.trim_matches(' ').split_once('@').ok_or(PROBLEM)?;
    let is_atom = |part: &str| {
        !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+/=?^_`{|}~-".contains(&b))
    };
    if local.len() > MAX_LOCAL || domain.len() > MAX_BYTES || !local.split('.').all(is_atom) {
        return Err(PROBLEM);
    }
    let domain = labels(domain).ok_or(PROBLEM)?;
    let mailbox = format!("{local}@{domain}");
    if mailbox.len() > MAX_BYTES { Err(PROBLEM) } else { Ok(mailbox) }
}

/// A domain as A-labels.
fn labels(domain: &str) -> Option<String> {
    let lower = domain.to_ascii_lowercase();
    // What is spelled as A-labels already may say what no label may.
    let ascii = match lower.is_ascii() && !lower.contains("xn--") {
        true => lower,
        false => idna::domain_to_ascii(&lower).ok()?,
    };
    // The root's dot: the same domain, and not what mail servers expect.
    let ascii = ascii.strip_suffix('.').unwrap_or(&ascii);
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    (ascii.contains('.') && ascii.split('.').all(is_label)).then(|| ascii.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mailbox_has_one_form() {
        for (text, expected) in [
            ("ada@example.com", "ada@example.com"),
            (" Ada.L+tag@Example.COM ", "Ada.L+tag@example.com"),
            ("ada@bücher.example", "ada@xn--bcher-kva.example"),
            ("ada@BU\u{308}CHER.example", "ada@xn--bcher-kva.example"),
            ("ada@bücher。example.", "ada@xn--bcher-kva.example"),
            ("o'hara@XN--bcher-kva.example", "o'hara@xn--bcher-kva.example"),
        ] {
            assert_eq!(normal(text).as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_is_no_mailbox_is_refused() {
        let long = format!("ada@{}example.com", "ü.".repeat(60));
        for text in [
            "ada",
            "ada@localhost",
            "@example.com",
            "ada@",
            "ada@-example.com",
            "ada@example..com",
            "a b@example.com",
            "Ada <ada@example.com>",
            "ada@example.com\n",
            "ada@[127.0.0.1]",
            "ada@xn--a.example",
            "jürgen@example.com",
            "ada@example.com,bob@example.com",
            &long,
        ] {
            assert_eq!(normal(text), Err(PROBLEM), "{text}");
        }
    }
}
