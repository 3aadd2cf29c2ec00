//! What all mails have in common, whoever carries them: recipient, sender, subject, parts, headers.
//!
//! Guarantee: pure. Every attempt of a delivery has the same Message-ID, headers and parts, so that a mailbox can tell a
//! repeat. Whatever a title or an override holds, it cannot begin a header of its own, name another recipient or
//! replace our ids.

mod plain;

use std::borrow::Cow;

use chasqui_contract::{Answer, Outcome};
use chasqui_schemas::{Delivery, delivery::Address, submission::Content, text::one_line};
use chasqui_settings::SettingsError;
use lettre::message::Mailbox;

/// The notification's id, for whoever looks at the mail's source.
pub(super) const NOTIFICATION: &str = "X-Chasqui-Notification";
/// The delivery's id.
pub(super) const DELIVERY: &str = "X-Chasqui-Delivery";
/// No person wrote it: vacation responders keep still.
/// [RFC 3834](https://www.rfc-editor.org/rfc/rfc3834#section-5)
pub(super) const AUTO_SUBMITTED: &str = "Auto-Submitted";
/// Where to unsubscribe. [RFC 2369](https://www.rfc-editor.org/rfc/rfc2369#section-3.2)
pub(super) const LIST_UNSUBSCRIBE: &str = "List-Unsubscribe";
/// One POST there is enough. [RFC 8058](https://www.rfc-editor.org/rfc/rfc8058#section-3.1)
pub(super) const LIST_UNSUBSCRIBE_POST: &str = "List-Unsubscribe-Post";
/// The mail's own id.
pub(super) const MESSAGE_ID: &str = "Message-ID";

/// Longest subject, in characters.
const MAX_SUBJECT: usize = 500;
/// Longest subject that is taken from the text, in characters: what mailboxes show.
const MAX_DERIVED_SUBJECT: usize = 78;
/// Longest address to unsubscribe at: a line of a mail has 998 characters at most (RFC 5322, 2.1.1).
const MAX_UNSUBSCRIBE: usize = 900;

/// A delivery, read as a mail.
#[derive(Debug)]
pub(super) struct Letter<'a> {
    /// The recipient.
    pub(super) to: lettre::Address,
    /// Of the delivery and the sender's domain, without angle brackets.
    pub(super) message_id: String,
    /// One line; the text's first where there is no title, because SendGrid refuses a mail without.
    pub(super) subject: String,
    /// The plain text, derived from the HTML where there is none.
    pub(super) text: Option<Cow<'a, str>>,
    /// The HTML, where there is any.
    pub(super) html: Option<Cow<'a, str>>,
    /// Our headers beside those that every mail has.
    pub(super) headers: Vec<(&'static str, String)>,
}

/// An enhanced status code (RFC 3463): class, subject, detail.
pub(crate) type EnhancedStatus = (u16, u16, u16);

/// The enhanced status code that a reply begins with: `5.1.1`.
pub(crate) fn enhanced_status(words: &str) -> Option<EnhancedStatus> {
    let mut numbers = words.split_whitespace().next()?.split('.').map(str::parse::<u16>);
    let status = (numbers.next()?.ok()?, numbers.next()?.ok()?, numbers.next()?.ok()?);
    (numbers.next().is_none() && matches!(status.0, 2 | 4 | 5)).then_some(status)
}

/// The enhanced status code of a whole reply, which begins with the code of three digits: `550 5.1.1 …`, `550-5.1.1 …`.
pub(crate) fn enhanced_of_reply(words: &str) -> Option<EnhancedStatus> {
    let (code, rest) = words.trim_start().split_at_checked(3)?;
    let is_code = code.bytes().all(|byte| byte.is_ascii_digit());
    if is_code { enhanced_status(rest.trim_start_matches(['-', ' '])) } else { enhanced_status(words) }
}

/// Whether there is no such mailbox, by the status and the words of a mail server's reply.
///
/// By class, from [RFC 3463](https://www.rfc-editor.org/rfc/rfc3463#section-3.2) and the list that
/// [IANA](https://www.iana.org/assignments/smtp-enhanced-status-codes) keeps: of `x.1.x` what is about the recipient's
/// address: no such mailbox, no such system, moved, no mail for that domain (`5.1.10`, RFC 7505; Exchange says so of an
/// unknown recipient); and `5.2.1`, disabled. `5.1.3` is about how the address is written; `5.2.2` (full), `5.7.x` (policy)
/// and the rest are not about it.
///
/// A status that says nothing, or none: then the words of the servers that are known for it ([`UNKNOWN_MAILBOX`]).
pub(crate) fn is_dead_mailbox(status: Option<EnhancedStatus>, words: &str) -> bool {
    match status {
        Some((5, 1, 1 | 2 | 6 | 10) | (5, 2, 1)) => true,
        None | Some((5, 0 | 1 | 5, 0) | (5, 4, 1)) => {
            let words = words.to_ascii_lowercase();
            UNKNOWN_MAILBOX.iter().any(|(of, phrase)| (of.is_none() || *of == status) && words.contains(phrase))
        }
        Some(_) => false,
    }
}

/// What servers say of a mailbox that does not exist, where their status does not say it; with a status, only beside that.
const UNKNOWN_MAILBOX: [(Option<EnhancedStatus>, &str); 12] = [
    // Exim: its routers, and the `data` that its manual gives for unknown users. It sends no enhanced status.
    (None, "unrouteable address"),
    (None, "unknown user"),
    (None, "no such user"),
    (None, "no such recipient"),
    (None, "no such mailbox"),
    // Sendmail, qmail, Postfix without a status.
    (None, "user unknown"),
    (None, "no mailbox here by that name"),
    (None, "recipient unknown"),
    (None, "mailbox not found"),
    // Exchange's resolver.
    (None, "recipientnotfound"),
    // Outlook.com: without that status the words are RFC 5321's for everything that is refused.
    (Some((5, 5, 0)), "mailbox unavailable"),
    // Exchange Online, where the edge knows all recipients of a domain.
    (Some((5, 4, 1)), "recipient address rejected: access denied"),
];

/// Why a delivery cannot be made a mail.
#[derive(Debug, PartialEq, thiserror::Error)]
pub(super) enum Error {
    #[error("a mail needs a mailbox: correct the routes")]
    NotAMailbox,
    #[error("not a mail address")]
    Address(#[from] lettre::address::AddressError),
}

impl From<Error> for Answer {
    fn from(error: Error) -> Self {
        let (outcome, code) = match error {
            Error::NotAMailbox => (Outcome::Misconfigured, "channel"),
            Error::Address(_) => (Outcome::Refused, "address"),
        };
        Answer::new(outcome, code, error.to_string())
    }
}

impl<'a> Letter<'a> {
    /// Reads a delivery as a mail from `from`.
    pub(super) fn of(delivery: &'a Delivery, from: &Mailbox) -> Result<Self, Error> {
        let Address::Mailbox(to) = &delivery.endpoint.address else { return Err(Error::NotAMailbox) };
        let text = text(&delivery.content).map(in_lines);
        let subject = match said(&delivery.content.title) {
            Some(title) => one_line(title, MAX_SUBJECT),
            None => {
                let mut lines = text.as_deref().unwrap_or_default().lines().map(str::trim);
                one_line(lines.find(|line| !line.is_empty()).unwrap_or("-"), MAX_DERIVED_SUBJECT)
            }
        };
        Ok(Letter {
            to: in_ascii(to.parse()?),
            message_id: format!("{}@{}", delivery.id, from.email.domain()),
            subject: subject.into_owned(),
            html: said(&delivery.content.html).map(|html| in_lines(Cow::Borrowed(html))),
            headers: headers(delivery),
            text,
        })
    }

    /// Whether a header is ours, so that no override replaces it.
    pub(super) fn keeps(&self, header: &str) -> bool {
        let names = self.headers.iter().map(|(name, _)| *name).chain([MESSAGE_ID]);
        names.into_iter().any(|name| name.eq_ignore_ascii_case(header))
    }
}

fn headers(delivery: &Delivery) -> Vec<(&'static str, String)> {
    let mut headers = vec![
        (NOTIFICATION, delivery.notification_id.to_string()),
        (DELIVERY, delivery.id.to_string()),
        (AUTO_SUBMITTED, "auto-generated".to_owned()),
    ];
    let fits = |url: &&String| url.len() <= MAX_UNSUBSCRIBE && url.bytes().all(|b| b.is_ascii_graphic() && b != b'>');
    if let Some(url) = delivery.unsubscribe_url.as_ref().filter(fits) {
        headers.push((LIST_UNSUBSCRIBE, format!("<{url}>")));
        // A POST that nobody confirms must not go in the clear: RFC 8058 wants HTTPS.
        if url.starts_with("https://") {
            headers.push((LIST_UNSUBSCRIBE_POST, "List-Unsubscribe=One-Click".to_owned()));
        }
    }
    headers
}

/// The plain text, with the link below where the text does not hold it.
fn text(content: &Content) -> Option<Cow<'_, str>> {
    let derived = || said(&content.html).map(plain::text).filter(|text| !text.is_empty()).map(Cow::Owned);
    let text = said(&content.body).map(Cow::Borrowed).or_else(derived);
    match (text, said(&content.url)) {
        (Some(text), Some(url)) if !text.contains(url) => Some(Cow::Owned(format!("{text}\n\n{url}\n"))),
        (text, url) => text.or(url.map(Cow::Borrowed)),
    }
}

/// `text` with line breaks as `\n` and without other control characters: a bare CR is a line's end to some relays and
/// text to others, so that what follows could become a mail of its own; NUL has no place in a mail (RFC 5322, 2.3).
fn in_lines(text: Cow<'_, str>) -> Cow<'_, str> {
    let stays = |c: char| !c.is_control() || matches!(c, '\n' | '\t');
    if text.chars().all(stays) {
        return text;
    }
    text.replace("\r\n", "\n").replace('\r', "\n").chars().filter(|c| stays(*c)).collect::<String>().into()
}

/// `address` with its domain as A-labels (RFC 5890), which every relay takes.
fn in_ascii(address: lettre::Address) -> lettre::Address {
    match idna::domain_to_ascii(address.domain()) {
        Ok(domain) if !address.domain().is_ascii() => lettre::Address::new_dangerous(address.user(), domain),
        _ => address,
    }
}

/// A text that says something.
fn said(text: &Option<String>) -> Option<&str> {
    text.as_deref().filter(|text| !text.trim().is_empty())
}

/// The sender. `key` is the setting's name, for errors.
pub(super) fn sender(key: &str, text: &str) -> Result<Mailbox, SettingsError> {
    text.parse().map_err(|error| SettingsError::invalid(key, format!("`{text}` is not a mailbox: {error}")))
}

#[cfg(test)]
mod tests;
