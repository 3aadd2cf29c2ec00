//! The mail itself: RFC 5322 headers and MIME parts.
//!
//! Guarantee: every attempt of a delivery has the same Message-ID and the same parts, so that a mailbox can tell
//! a repeat. Whatever a title holds, it cannot begin a header of its own.

use chasqui_schemas::{Delivery, delivery::Address};
use jiff::Timestamp;
use lettre::{
    Message,
    address::Envelope,
    message::{
        Mailbox, MultiPart, MultiPartKind, SinglePart,
        header::{HeaderName, HeaderValue},
    },
};

/// The notification's id, for whoever looks at the mail's source.
pub(super) const NOTIFICATION: &str = "X-Chasqui-Notification";
/// The delivery's id.
pub(super) const DELIVERY: &str = "X-Chasqui-Delivery";
/// No person wrote it: vacation responders keep still.
/// [RFC 3834](https://www.rfc-editor.org/rfc/rfc3834#section-5)
pub(super) const AUTO_SUBMITTED: &str = "Auto-Submitted";
/// Longest subject, in characters.
const MAX_SUBJECT: usize = 500;

/// A mail ready to be sent.
#[derive(Debug)]
pub(super) struct Mail {
    pub(super) envelope: Envelope,
    /// Without angle brackets.
    pub(super) message_id: String,
    pub(super) bytes: Vec<u8>,
}

/// Why a delivery cannot be made a mail.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("smtp serves the channel email only")]
    NotAMailbox,
    #[error("not a mail address")]
    Address(#[source] lettre::address::AddressError),
    #[error("the mail cannot be built")]
    Build(#[source] lettre::error::Error),
}

/// Makes the mail of a delivery.
pub(super) fn build(delivery: &Delivery, from: &Mailbox, now: Timestamp) -> Result<Mail, Error> {
    let Address::Mailbox(to) = &delivery.endpoint.address else { return Err(Error::NotAMailbox) };
    let to: lettre::Address = to.parse().map_err(Error::Address)?;
    let message_id = format!("{}@{}", delivery.id, from.email.domain());

    let mail = Message::builder()
        .from(from.clone())
        .to(Mailbox::new(None, to))
        .subject(subject(delivery))
        .date(now.into())
        .message_id(Some(format!("<{message_id}>")))
        .raw_header(header(NOTIFICATION, delivery.notification_id.to_string()))
        .raw_header(header(DELIVERY, delivery.id.to_string()))
        .raw_header(header(AUTO_SUBMITTED, "auto-generated".to_owned()));
    let mail = match (text(delivery), &delivery.content.html) {
        (Some(text), Some(html)) => {
            // The usual boundary is random; this one is the delivery's, so that every attempt is the same.
            let parts = MultiPart::builder().kind(MultiPartKind::Alternative);
            let parts = parts.boundary(format!("chasqui-{}", delivery.id.simple()));
            mail.multipart(parts.singlepart(SinglePart::plain(text)).singlepart(SinglePart::html(html.clone())))
        }
        (None, Some(html)) => mail.singlepart(SinglePart::html(html.clone())),
        (text, None) => mail.singlepart(SinglePart::plain(text.unwrap_or_default())),
    }
    .map_err(Error::Build)?;
    Ok(Mail { envelope: mail.envelope().clone(), message_id, bytes: mail.formatted() })
}

/// One line: control characters, line breaks among them, become blanks.
fn subject(delivery: &Delivery) -> String {
    let title = delivery.content.title.as_deref().unwrap_or_default();
    title.chars().take(MAX_SUBJECT).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// The plain text, with the link below where the text does not hold it.
fn text(delivery: &Delivery) -> Option<String> {
    match (&delivery.content.body, &delivery.content.url) {
        (Some(body), Some(url)) if !body.contains(url.as_str()) => Some(format!("{body}\r\n\r\n{url}\r\n")),
        (Some(body), _) => Some(body.clone()),
        (None, Some(url)) if delivery.content.html.is_none() => Some(url.clone()),
        (None, _) => None,
    }
}

fn header(name: &'static str, value: String) -> HeaderValue {
    HeaderValue::new(HeaderName::new_from_ascii_str(name), value)
}

#[cfg(test)]
mod tests {
    use chasqui_schemas::{Channel, submission::Content};
    use mail_parser::{MessageParser, MimeHeaders};
    use proptest::prelude::*;

    use super::*;
    use crate::testing::{at, delivery, delivery_to};

    fn from() -> Mailbox {
        "Shop <no-reply@shop.example>".parse().unwrap()
    }

    fn mail(content: Content) -> Mail {
        build(&Delivery { content, ..delivery(Channel::Email) }, &from(), at(5)).unwrap()
    }

    #[test]
    fn a_mail_has_both_parts_and_says_what_it_is() {
        let content = Content {
            title: Some("Вaшe заказ — 注文".into()),
            body: Some("Grüße\n.\nund Tschüß".into()),
            html: Some("<p>Grüße</p>".into()),
            url: Some("https://shop.example/o/1".into()),
        };
        let mail = mail(content.clone());
        let delivery = delivery(Channel::Email);
        let parsed = MessageParser::default().parse(&mail.bytes).unwrap();

        assert!(mail.bytes.is_ascii());
        assert_eq!(parsed.subject(), content.title.as_deref());
        assert_eq!(parsed.from().unwrap().first().unwrap().address(), Some("no-reply@shop.example"));
        assert_eq!(parsed.to().unwrap().first().unwrap().address(), Some("ada@example.com"));
        assert_eq!(parsed.message_id(), Some(format!("{}@shop.example", delivery.id).as_str()));
        assert_eq!(parsed.date().unwrap().to_timestamp(), at(5).as_second());
        assert_eq!(parsed.header_raw(NOTIFICATION).unwrap().trim(), delivery.notification_id.to_string());
        assert_eq!(parsed.header_raw(DELIVERY).unwrap().trim(), delivery.id.to_string());
        assert_eq!(parsed.header_raw(AUTO_SUBMITTED).unwrap().trim(), "auto-generated");
        assert_eq!(parsed.content_type().unwrap().subtype(), Some("alternative"));
        let text = "Grüße\r\n.\r\nund Tschüß\r\n\r\nhttps://shop.example/o/1\r\n";
        assert_eq!(parsed.body_text(0).unwrap().trim_end(), text.trim_end());
        assert_eq!(parsed.body_html(0).unwrap(), "<p>Grüße</p>");
    }

    #[test]
    fn a_part_that_is_not_there_is_left_out() {
        let text = mail(Content { body: Some("Hello".into()), ..Content::default() });
        let parsed = MessageParser::default().parse(&text.bytes).unwrap();
        assert_eq!((parsed.text_body_count(), parsed.parts.len()), (1, 1));
        let html = mail(Content { html: Some("<b>Hello</b>".into()), ..Content::default() });
        let parsed = MessageParser::default().parse(&html.bytes).unwrap();
        assert_eq!((parsed.html_body_count(), parsed.parts.len()), (1, 1));
    }

    #[test]
    fn every_attempt_is_the_same_mail() {
        let content = Content { html: Some("<b>x</b>".into()), ..delivery(Channel::Email).content };
        let first = Delivery { content, ..delivery(Channel::Email) };
        let second = Delivery { attempt: 2, pass: 1, ..first.clone() };
        let bytes = |delivery| build(delivery, &from(), at(5)).unwrap().bytes;
        assert_eq!(bytes(&first), bytes(&second));
    }

    #[test]
    fn what_is_no_mailbox_makes_no_mail() {
        assert!(matches!(build(&delivery(Channel::Sms), &from(), at(0)), Err(Error::NotAMailbox)));
        for address in ["", "ada", "ada@", "ada@example.com\r\nRCPT TO:<bob@example.com>", "a@b> SIZE=1 <"] {
            let delivery = delivery_to(Address::Mailbox(address.into()));
            assert!(matches!(build(&delivery, &from(), at(0)), Err(Error::Address(_))), "{address}");
        }
    }

    proptest! {
        #[test]
        fn no_title_can_begin_a_header(title in "(.|\r|\n|\r\n|\r\nBcc: eve@example.com){0,200}") {
            let mail = mail(Content { title: Some(title), body: Some("x".into()), ..Content::default() });
            let parsed = MessageParser::default().parse(&mail.bytes).unwrap();
            prop_assert!(!parsed.subject().unwrap_or_default().contains(char::is_control));
            let text = String::from_utf8(mail.bytes).unwrap();
            let (head, _) = text.split_once("\r\n\r\n").unwrap();
            let mut names: Vec<&str> = head
                .split("\r\n")
                .filter(|line| !line.starts_with([' ', '\t']))
                .map(|line| line.split_once(':').unwrap().0)
                .collect();
            names.sort_unstable();
            prop_assert!(!head.replace("\r\n", "").contains(['\r', '\n']));
            prop_assert_eq!(names, [
                "Auto-Submitted", "Content-Transfer-Encoding", "Content-Type", "Date", "From", "MIME-Version",
                "Message-ID", "Subject", "To", "X-Chasqui-Delivery", "X-Chasqui-Notification",
            ]);
        }
    }
}
