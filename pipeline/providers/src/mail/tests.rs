use chasqui_schemas::Channel;

use super::*;
use crate::testing::{delivery_by, delivery_to};

fn from() -> Mailbox {
    "Shop <no-reply@shop.example>".parse().unwrap()
}

fn with(content: Content) -> Delivery {
    Delivery { content, ..delivery_by(Channel::Email) }
}

fn unsubscribe(url: &str) -> Vec<(&'static str, String)> {
    let delivery = Delivery { unsubscribe_url: Some(url.to_owned()), ..delivery_by(Channel::Email) };
    Letter::of(&delivery, &from()).unwrap().headers.split_off(3)
}

#[test]
fn what_is_no_mailbox_makes_no_mail() {
    assert_eq!(Letter::of(&delivery_by(Channel::Sms), &from()).unwrap_err(), Error::NotAMailbox);
    for address in ["", "ada", "ada@", "ada@example.com\r\nRCPT TO:<bob@example.com>", "a@b> SIZE=1 <"] {
        let delivery = delivery_to(Address::Mailbox(address.into()));
        assert!(matches!(Letter::of(&delivery, &from()), Err(Error::Address(_))), "{address}");
    }
}

#[test]
fn every_attempt_has_the_same_message_id() {
    let first = delivery_by(Channel::Email);
    let second = Delivery { attempt: 2, pass: 1, ..first.clone() };
    let id = |delivery| Letter::of(delivery, &from()).unwrap().message_id;
    assert_eq!(id(&first), format!("{}@shop.example", first.id));
    assert_eq!(id(&first), id(&second));
}

#[test]
fn a_mail_that_can_be_unsubscribed_says_how_in_one_click() {
    assert_eq!(
        unsubscribe("https://n.example/u/AbC-_"),
        [
            (LIST_UNSUBSCRIBE, "<https://n.example/u/AbC-_>".to_owned()),
            (LIST_UNSUBSCRIBE_POST, "List-Unsubscribe=One-Click".to_owned()),
        ]
    );
    assert_eq!(unsubscribe("http://127.0.0.1:1/u/x").len(), 1, "one click needs HTTPS");
    for url in
        ["https://n.example/u x", "https://n.example/>,<mailto:a@b.example", "https://n.example/\r\nBcc: a@b.example"]
    {
        assert_eq!(unsubscribe(url), [], "{url}");
    }
    assert_eq!(unsubscribe(&format!("https://n.example/{}", "x".repeat(MAX_UNSUBSCRIBE))), []);
    assert_eq!(Letter::of(&delivery_by(Channel::Email), &from()).unwrap().headers.len(), 3, "a mandatory category");
}

#[test]
fn the_text_is_what_was_said_or_comes_from_the_html() {
    let content = |body: Option<&str>, html: Option<&str>, url: Option<&str>| Content {
        title: None,
        body: body.map(Into::into),
        html: html.map(Into::into),
        url: url.map(Into::into),
    };
    for (body, html, url, text, has_html) in [
        (Some("Hi"), None, None, Some("Hi"), false),
        (Some("Hi"), Some("<p>Hello</p>"), None, Some("Hi"), true),
        (None, Some("<p>Hello</p>"), None, Some("Hello"), true),
        (Some(" "), Some("<p>Hello</p>"), Some("https://a.b/"), Some("Hello\n\nhttps://a.b/\n"), true),
        (Some("see https://a.b/"), None, Some("https://a.b/"), Some("see https://a.b/"), false),
        (None, Some("<img src=x>"), None, None, true),
        (None, Some("<img src=x>"), Some("https://a.b/"), Some("https://a.b/"), true),
        (None, Some(""), Some("https://a.b/"), Some("https://a.b/"), false),
        (None, None, None, None, false),
    ] {
        let delivery = with(content(body, html, url));
        let letter = Letter::of(&delivery, &from()).unwrap();
        assert_eq!((letter.text.as_deref(), letter.html.is_some()), (text, has_html), "{body:?} {html:?} {url:?}");
    }
}

#[test]
fn a_title_is_one_line() {
    let title = format!("Hello\r\nBcc: eve@example.com {}", "x".repeat(1_000));
    let delivery = with(Content { title: Some(title), ..Content::default() });
    let subject = Letter::of(&delivery, &from()).unwrap().subject;
    assert!(subject.starts_with("Hello  Bcc: eve@example.com") && subject.chars().count() == MAX_SUBJECT, "{subject}");
}

#[test]
fn a_mail_without_a_title_has_the_first_line_of_its_text() {
    let subject = |title: Option<&str>, body: Option<&str>, html: Option<&str>| {
        let [title, body, html] = [title, body, html].map(|text| text.map(String::from));
        Letter::of(&with(Content { title, body, html, url: None }), &from()).unwrap().subject
    };
    assert_eq!(subject(Some("T"), Some("B"), None), "T");
    assert_eq!(subject(Some(" "), Some("\r\n  Hello \rBcc: eve@example.com"), None), "Hello");
    assert_eq!(subject(None, None, Some("<h1>Hi</h1><p>x</p>")), "Hi");
    assert_eq!(subject(None, Some(&"é".repeat(100)), None).chars().count(), MAX_DERIVED_SUBJECT);
    assert_eq!(subject(None, None, None), "-");
}

#[test]
fn a_text_has_no_line_break_but_one_kind_and_no_other_control_character() {
    for (text, expected) in [
        ("a\rb", "a\nb"),
        ("x\r.\rMAIL FROM:<eve@example.com>", "x\n.\nMAIL FROM:<eve@example.com>"),
        ("a\r\nb\n\rc\td", "a\nb\n\nc\td"),
        ("a\0b\u{1b}[2J\u{85}c", "ab[2Jc"),
        ("مرحبا \u{2067}x\u{2069}", "مرحبا \u{2067}x\u{2069}"),
    ] {
        let delivery = with(Content { body: Some(text.into()), html: Some(text.into()), ..Content::default() });
        let letter = Letter::of(&delivery, &from()).unwrap();
        assert_eq!((letter.text.as_deref(), letter.html.as_deref()), (Some(expected), Some(expected)));
    }
}

#[test]
fn our_headers_are_kept_however_they_are_spelt() {
    let delivery = delivery_by(Channel::Email);
    let letter = Letter::of(&delivery, &from()).unwrap();
    for name in ["message-id", "Message-ID", "x-chasqui-delivery", "AUTO-SUBMITTED"] {
        assert!(letter.keeps(name), "{name}");
    }
    assert!(!letter.keeps("X-Campaign"));
    assert!(!letter.keeps(LIST_UNSUBSCRIBE), "a producer may bring its own where we have none");
}

#[test]
fn a_sender_must_be_a_mailbox() {
    assert_eq!(sender("k", "Shop <no-reply@example.com>").unwrap().email.domain(), "example.com");
    let error = sender("accounts.smtp.from", "").unwrap_err();
    assert!(error.to_string().starts_with("accounts.smtp.from"), "{error}");
}
