//! The mail itself: RFC 5322 headers and MIME parts.
//!
//! Guarantee: every attempt of a delivery has the same Message-ID and the same parts, so that a mailbox can tell
//! a repeat. Whatever a title or an override holds, it cannot begin a header of its own.

use std::collections::BTreeMap;

use chasqui_contract::{Answer, Outcome};
use chasqui_schemas::{Delivery, text::one_line};
use email_encoding::headers::{rfc2047, writer::EmailWriter};
use jiff::Timestamp;
use lettre::{
    Message,
    address::Envelope,
    message::{
        Mailbox, MultiPart, MultiPartKind, SinglePart,
        header::{HeaderName, HeaderValue},
    },
};
use serde::Deserialize;

use super::NAME;
use crate::mail::{self, Letter};

/// Longest header that an override adds, in characters.
const MAX_HEADER: usize = 900;

/// A mail ready to be sent.
#[derive(Debug)]
pub(super) struct Mail {
    /// Who it is from, and whom it is to, as the relay is told.
    pub(super) from: String,
    pub(super) to: String,
    /// Without angle brackets.
    pub(super) message_id: String,
    pub(super) bytes: Vec<u8>,
}

impl Mail {
    /// Whether the addresses are ASCII; the message then is ASCII too, because its parts are encoded.
    pub(super) fn is_ascii(&self) -> bool {
        self.from.is_ascii() && self.to.is_ascii()
    }
}

/// What `overrides.smtp` may hold.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Overrides {
    /// Who answers go to.
    reply_to: Option<String>,
    /// More headers: `X-…`, but not ours.
    headers: BTreeMap<String, String>,
}

/// Why a delivery cannot be made a mail.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error(transparent)]
    Letter(#[from] mail::Error),
    // The parser's own words would quote what the producer wrote.
    #[error("`overrides.smtp` takes `reply_to`, a mailbox, and `headers`, an object of texts by `X-` names")]
    Overrides,
    #[error("the mail cannot be built")]
    Build(#[source] lettre::error::Error),
}

impl From<Error> for Answer {
    fn from(error: Error) -> Self {
        let code = match error {
            Error::Letter(error) => return error.into(),
            Error::Overrides => "overrides",
            Error::Build(_) => "message",
        };
        Answer::new(Outcome::Refused, code, error.to_string())
    }
}

/// Makes the mail of a delivery.
pub(super) fn build(delivery: &Delivery, from: &Mailbox, now: Timestamp) -> Result<Mail, Error> {
    let letter = Letter::of(delivery, from)?;
    // Said, because lettre would read it from the headers, where it cannot read every address that it wrote.
    let envelope = Envelope::new(Some(from.email.clone()), vec![letter.to.clone()]).map_err(Error::Build)?;
    let mut mail = Message::builder()
        .envelope(envelope)
        .from(from.clone())
        .to(Mailbox::new(None, letter.to.clone()))
        .raw_header(header(HeaderName::new_from_ascii_str("Subject"), &letter.subject))
        .date(now.into())
        .message_id(Some(format!("<{}>", letter.message_id)));
    for (name, value) in &letter.headers {
        mail = mail.raw_header(HeaderValue::new(HeaderName::new_from_ascii_str(name), value.clone()));
    }
    let overrides = overrides(delivery)?;
    if let Some(mailbox) = overrides.reply_to {
        mail = mail.reply_to(mailbox.parse().map_err(|_| Error::Overrides)?);
    }
    for (name, value) in overrides.headers {
        let name = extra(&letter, name).ok_or(Error::Overrides)?;
        mail = mail.raw_header(header(name, &one_line(&value, MAX_HEADER)));
    }
    let plain = |text: Option<_>| SinglePart::plain(text.map(String::from).unwrap_or_default());
    let mail = match (letter.text, letter.html) {
        (text @ Some(_), Some(html)) => {
            // The usual boundary is random; this one is the delivery's, so that every attempt is the same.
            let parts = MultiPart::builder().kind(MultiPartKind::Alternative);
            let parts = parts.boundary(format!("chasqui-{}", delivery.id.simple()));
            mail.multipart(parts.singlepart(plain(text)).singlepart(SinglePart::html(html.into_owned())))
        }
        (None, Some(html)) => mail.singlepart(SinglePart::html(html.into_owned())),
        (text, None) => mail.singlepart(plain(text)),
    }
    .map_err(Error::Build)?;
    Ok(Mail {
        from: from.email.to_string(),
        to: letter.to.to_string(),
        message_id: letter.message_id,
        bytes: mail.formatted(),
    })
}

/// A header that reads as `text` whatever is in it. What looks like an encoded word is encoded, because a reader would
/// decode it (RFC 2047, 5 and 7); lettre encodes only what is not ASCII.
fn header(name: HeaderName, text: &str) -> HeaderValue {
    if !text.contains("=?") {
        return HeaderValue::new(name, text.to_owned());
    }
    let mut encoded = String::new();
    // Writing to a string never fails.
    _ = rfc2047::encode(text, &mut EmailWriter::new(&mut encoded, name.len() + ": ".len(), 0, false));
    HeaderValue::dangerous_new_pre_encoded(name, text.to_owned(), encoded)
}

fn overrides(delivery: &Delivery) -> Result<Overrides, Error> {
    let Some(overrides) = delivery.overrides.get(NAME) else { return Ok(Overrides::default()) };
    Overrides::deserialize(overrides).map_err(|_| Error::Overrides)
}

/// The name of a header that an override may add.
fn extra(letter: &Letter, name: String) -> Option<HeaderName> {
    let free = name.get(..2).is_some_and(|prefix| prefix.eq_ignore_ascii_case("x-"))
        && name.bytes().all(|byte| byte.is_ascii_graphic())
        && !letter.keeps(&name);
    HeaderName::new_from_ascii(name).ok().filter(|_| free)
}

#[cfg(test)]
mod tests {
    use chasqui_schemas::{Channel, submission::Content};
    use mail_parser::{MessageParser, MimeHeaders};
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;
    use crate::{
        mail::{AUTO_SUBMITTED, DELIVERY, LIST_UNSUBSCRIBE, LIST_UNSUBSCRIBE_POST, NOTIFICATION},
        testing::{at, delivery_by},
    };

    fn from() -> Mailbox {
        "Shop <no-reply@shop.example>".parse().unwrap()
    }

    fn mail(content: Content) -> Mail {
        build(&Delivery { content, ..delivery_by(Channel::Email) }, &from(), at(5)).unwrap()
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
        let delivery = delivery_by(Channel::Email);
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
    fn what_looks_like_an_encoded_word_reads_as_it_was_written() {
        for title in [
            "=?utf-8?q?x=0D=0ABcc:_evil@example.com?=",
            "Use =?utf-8?q?=41?= here",
            "=?",
            "a =? b ?= 注文 =?utf-8?b?QQ==?=",
            &"=?x?= ".repeat(60),
        ] {
            let mail = mail(Content { title: Some(title.into()), body: Some("x".into()), ..Content::default() });
            let parsed = MessageParser::default().parse(&mail.bytes).unwrap();
            assert_eq!(parsed.subject().map(str::trim_end), Some(title.trim_end()));
            assert!(parsed.bcc().is_none());
            let long = mail.bytes.split(|byte| *byte == b'\n').map(<[u8]>::len).max();
            assert!(long < Some(80), "{long:?}");
        }
        let mail = overridden(json!({"headers": {"X-A": "=?utf-8?q?=41?="}})).unwrap();
        let parsed = MessageParser::default().parse(&mail.bytes).unwrap();
        assert!(!parsed.header_raw("X-A").unwrap().contains("=41"));
    }

    #[test]
    fn a_part_that_is_not_there_is_left_out() {
        let text = mail(Content { body: Some("Hello".into()), ..Content::default() });
        let parsed = MessageParser::default().parse(&text.bytes).unwrap();
        assert_eq!((parsed.text_body_count(), parsed.parts.len()), (1, 1));
        let html = mail(Content { html: Some("<img src=x>".into()), ..Content::default() });
        let parsed = MessageParser::default().parse(&html.bytes).unwrap();
        assert_eq!((parsed.html_body_count(), parsed.parts.len()), (1, 1));
    }

    #[test]
    fn every_attempt_is_the_same_mail() {
        let content = Content { html: Some("<b>x</b>".into()), ..delivery_by(Channel::Email).content };
        let first = Delivery { content, ..delivery_by(Channel::Email) };
        let second = Delivery { attempt: 2, pass: 1, ..first.clone() };
        let bytes = |delivery| build(delivery, &from(), at(5)).unwrap().bytes;
        assert_eq!(bytes(&first), bytes(&second));
    }

    #[test]
    fn html_alone_gets_a_text_beside_it() {
        let mail = mail(Content { html: Some("<p>Hello, <b>Ada</b></p>".into()), ..Content::default() });
        let parsed = MessageParser::default().parse(&mail.bytes).unwrap();
        assert_eq!(parsed.content_type().unwrap().subtype(), Some("alternative"));
        assert_eq!(parsed.body_text(0).unwrap().trim_end(), "Hello, Ada");
    }

    #[test]
    fn a_mail_says_how_to_unsubscribe() {
        let url = format!("https://n.example/u/{}", "a1B2-_".repeat(40));
        let delivery = Delivery { unsubscribe_url: Some(url.clone()), ..delivery_by(Channel::Email) };
        let mail = build(&delivery, &from(), at(5)).unwrap();
        let parsed = MessageParser::default().parse(&mail.bytes).unwrap();
        assert_eq!(parsed.header_raw(LIST_UNSUBSCRIBE).unwrap().trim(), format!("<{url}>"));
        assert_eq!(parsed.header_raw(LIST_UNSUBSCRIBE_POST).unwrap().trim(), "List-Unsubscribe=One-Click");
    }

    fn overridden(smtp: Value) -> Result<Mail, Error> {
        let overrides = [(NAME.to_owned(), smtp)].into_iter().collect();
        build(&Delivery { overrides, ..delivery_by(Channel::Email) }, &from(), at(5))
    }

    #[test]
    fn overrides_add_headers_and_who_answers_go_to() {
        let mail = overridden(json!({
            "reply_to": "Help <help@shop.example>",
            "headers": { "X-Campaign": "spring\r\nBcc: eve@example.com", "x-entity": "注文" },
        }))
        .unwrap();
        let parsed = MessageParser::default().parse(&mail.bytes).unwrap();
        assert_eq!(parsed.reply_to().unwrap().first().unwrap().address(), Some("help@shop.example"));
        assert_eq!(parsed.header_raw("X-Campaign").unwrap().trim(), "spring  Bcc: eve@example.com");
        assert_eq!(parsed.header_raw("x-entity").unwrap().trim(), "=?utf-8?b?5rOo5paH?=");
        assert!(parsed.bcc().is_none());
        assert_eq!(mail.to, "ada@example.com");
    }

    #[test]
    fn overrides_change_nothing_else() {
        for smtp in [
            json!("text"),
            json!({"bcc": "eve@example.com"}),
            json!({"reply_to": "nobody"}),
            json!({"headers": ["X-A"]}),
            json!({"headers": {"X-A": 1}}),
            json!({"headers": {"Bcc": "eve@example.com"}}),
            json!({"headers": {"x-chasqui-delivery": "other"}}),
            json!({"headers": {"X-A: b\r\nBcc": "eve@example.com"}}),
            json!({"headers": {"X-\t": "tab"}}),
            json!({"headers": {"é": "accent"}}),
            json!({"headers": {"X-".repeat(60): "long"}}),
        ] {
            let error = overridden(smtp.clone()).unwrap_err();
            assert!(matches!(error, Error::Overrides), "{smtp}: {error}");
            assert_eq!(Answer::from(error).outcome, Outcome::Refused);
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
