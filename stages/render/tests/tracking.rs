//! Rewritten links, pixels, and who gets none.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use std::sync::Arc;

use chasqui_contract::{Decide, StoreError};
use chasqui_links::{Link, Links, Origin};
use chasqui_render::Render;
use chasqui_rules::Schemes;
use chasqui_schemas::{
    Channel, Delivery, Notification, OptOut,
    bucket::address_key,
    notification::{Message, Recipient},
    record::{Category, Contacts, Preferences},
    submission::Content,
};
use chasqui_stores::memory::MemoryDirectory;
use common::{decide, deliveries, device, inbox, mailbox, notification, phone, reading};
use futures::FutureExt;
use proptest::prelude::*;

const BASE: &str = "https://n.example.com";

fn links() -> Links {
    Links::new(BASE, [("k1", &b"0123456789abcdef0123456789abcdef"[..])]).unwrap()
}

fn stage(directory: MemoryDirectory) -> Render {
    Render::new(Arc::new(directory), Some(links()), chasqui_schemas::sample::pepper(), Schemes::default())
}

fn mail(html: &str) -> Notification {
    let content = Content {
        title: Some("t".into()),
        body: Some("see https://shop.example.com/plain".into()),
        html: Some(html.into()),
        url: Some("https://shop.example.com/tap".into()),
    };
    notification(Message::Content(content.into()), vec![mailbox()])
}

fn one(directory: MemoryDirectory, input: Notification) -> Delivery {
    deliveries(decide(&stage(directory), input)).remove(0)
}

fn rewritten(html: &str) -> String {
    one(MemoryDirectory::new(), mail(html)).content.html.unwrap()
}

/// What a link of ours says.
fn read(url: &str) -> (Origin, Link) {
    let token = url.rsplit('/').next().unwrap().trim_end_matches(".gif");
    links().read(token).unwrap_or_else(|| panic!("not ours: {url}"))
}

/// The address behind each `href="…"` of ours, in order.
fn targets(html: &str) -> Vec<(u16, String)> {
    let html = html.replace("HREF=", "href=");
    let hrefs = html.split(r#"href=""#).skip(1).map(|rest| rest.split('"').next().unwrap());
    let ours = hrefs.filter(|href| href.starts_with(&format!("{BASE}/t/c/")));
    ours.map(|href| match read(href).1 {
        Link::Click { link, target } => (link, target),
        other => panic!("{other:?}"),
    })
    .collect()
}

fn pixels(html: &str) -> usize {
    html.matches(&format!("{BASE}/t/o/")).count()
}

#[test]
fn links_lead_through_the_gateway_to_where_they_led() {
    let html = rewritten(
        "<!DOCTYPE html><html><head><style>a{b:c}</style></head><body class=x>\n\
         <a href=\"https://shop.example.com/?a=b&amp;c=d\" id=1>one</a>\n\
         <A HREF='http://shop.example.com/two'>two</A> <a href=https:&#x2f;&#x2f;shop.example.com&#x2f;three>three</a>\n\
         <map><area href=\" https://shop.example.com/four \"></map></body></html>",
    );
    let shop = |path: &str| format!("https://shop.example.com/{path}");
    assert_eq!(
        targets(&html),
        [(1, shop("?a=b&c=d")), (2, "http://shop.example.com/two".into()), (3, shop("three")), (4, shop("four"))]
    );
    assert!(html.starts_with("<!DOCTYPE html><html><head><style>a{b:c}</style></head><body class=x>\n"), "{html}");
    assert!(html.contains("id=1>one</a>") && html.contains(">three</a>"), "{html}");
    assert_eq!(pixels(&html), 1);
    assert!(html.ends_with(r#"style="display:block"></body></html>"#), "{html}");
}

#[test]
fn what_is_no_web_link_stays_as_it_is() {
    for html in [
        "<a href=\"mailto:ada@example.com\">a</a>",
        "<a href=\"tel:+15551234567\">a</a>",
        "<a href=\"#top\">a</a> <a name=x>b</a> <a href>c</a>",
        "<a href=\"/relative\">a</a>",
        "<a href=\"https://example.com/é\">a</a>",
        "<a href=\"https://example.com/&copy;\">a</a>",
        "<link href=\"https://example.com/style\"> <img src=\"https://example.com/x.png\">",
        "<!-- <a href=\"https://example.com/\">a</a> -->",
        "<!--[if mso]><a href=\"https://example.com/\">a</a><![endif]-->",
        "<style>a[href=\"https://example.com/\"]{}</style>",
        "<a title=\"href=https://example.com/\">a</a>",
        "<a href=\"https://n.example.com/t/u/k1.abc\">ours already</a>",
        "<p>https://example.com/",
        "<a href=\"https://example.com/",
    ] {
        let rewritten = rewritten(html);
        assert!(rewritten.starts_with(html), "{html} became {rewritten}");
        assert_eq!((pixels(&rewritten), targets(&rewritten)), (1, vec![]), "{html}");
    }
}

#[test]
fn a_link_that_says_so_stays_as_it_is() {
    for attribute in ["clicktracking=off", "clicktracking=\"OFF\""] {
        let rewritten = rewritten(&format!("<a href=\"https://app.example.com/o/1\" {attribute}>open</a>"));
        assert!(rewritten.starts_with("<a href=\"https://app.example.com/o/1\">open</a>"), "{rewritten}");
    }
    assert_eq!(targets(&rewritten("<a href=\"https://app.example.com/o/1\" clicktracking=on>open</a>")).len(), 1);
}

#[test]
fn the_rest_of_the_message_and_other_channels() {
    let mut input = mail("<p>hi</p>");
    input.endpoints = vec![device("a"), phone(), mailbox(), inbox()];
    let made = deliveries(decide(&stage(MemoryDirectory::new()), input.clone()));
    for each in &made {
        let origin = Origin { delivery_id: each.id, notification_id: each.notification_id, channel: each.channel() };
        // It opens an app, which knows its own links. A text message has it in its text.
        let (url, body) = match each.channel() {
            Channel::Sms => (None, "see https://shop.example.com/plain\nhttps://shop.example.com/tap"),
            _ => (Some("https://shop.example.com/tap"), "see https://shop.example.com/plain"),
        };
        assert_eq!((each.content.url.as_deref(), each.content.body.as_deref()), (url, Some(body)));
        match each.channel() {
            Channel::Email => {
                let html = each.content.html.as_deref().unwrap();
                let pixel = html.split("src=\"").nth(1).unwrap().split('"').next().unwrap();
                assert_eq!(read(pixel), (origin, Link::Open));
            }
            _ => assert_eq!((each.content.html.as_ref(), each.unsubscribe_url.as_ref()), (None, None)),
        }
    }
    assert_eq!(deliveries(decide(&stage(MemoryDirectory::new()), input)), made, "again, the same");
}

#[test]
fn without_tracking_nothing_is_rewritten_but_the_way_out_stays() {
    let html = "<a href=\"https://shop.example.com/\">a</a>";
    let off = Preferences { tracking: false, ..Preferences::default() };
    let user_says_no = one(MemoryDirectory::new().with("ada", off), mail(html));
    let mut input = mail(html);
    input.policy = Some(Category { tracking: false, ..Category::default() });
    let category_says_no = one(MemoryDirectory::new(), input);
    // Nobody knows whether this user allows it.
    let unknown = one(MemoryDirectory::new().with_bad_record::<Preferences>("ada"), mail(html));
    for delivery in [user_says_no, category_says_no, unknown] {
        assert_eq!(delivery.content.html.as_deref(), Some(html));
        assert_eq!(delivery.content.url.as_deref(), Some("https://shop.example.com/tap"));
        assert!(delivery.unsubscribe_url.is_some());
    }
    let allows = one(MemoryDirectory::new().with("ada", Preferences::default()), mail(html));
    assert_ne!(allows.content.html.as_deref(), Some(html));
}

#[test]
fn without_a_gateway_nothing_is_changed() {
    let html = "<a href=\"https://shop.example.com/\">a</a>";
    let delivery = deliveries(decide(&reading(MemoryDirectory::new()), mail(html))).remove(0);
    assert_eq!((delivery.content.html.as_deref(), delivery.unsubscribe_url), (Some(html), None));
}

#[test]
fn preferences_that_cannot_be_asked_for_are_waited_for() {
    let directory = MemoryDirectory::new();
    directory.faults.fail_next(1);
    let stage = stage(directory);
    let answer = stage.decide(mail("<p>")).now_or_never().unwrap();
    assert!(matches!(answer, Err(StoreError::Unavailable { .. })), "{answer:?}");
}

#[test]
fn a_mail_names_the_way_out_unless_it_is_mandatory() {
    let unsubscribe = |input: Notification| one(MemoryDirectory::new(), input).unsubscribe_url.map(|url| read(&url).1);
    let of_user = OptOut::Category { app: "shop".into(), user: "ada".into(), category: "order".into() };
    assert_eq!(unsubscribe(mail("<p>")), Some(Link::Unsubscribe(of_user)));
    let mut input = mail("<p>");
    input.recipient = Recipient::Inline(Contacts { emails: vec!["ada@example.com".into()], ..Contacts::default() });
    let of_address = OptOut::Address { key: address_key("ada@example.com"), reason: "unsubscribe".into() };
    assert_eq!(unsubscribe(input), Some(Link::Unsubscribe(of_address)));
    let mut input = mail("<p>");
    input.policy = Some(Category { mandatory: true, ..Category::default() });
    assert_eq!(unsubscribe(input), None);
}

#[test]
fn a_mail_with_very_many_links_stays_small_enough() {
    let html = "<a href=http://a.b>x</a>".repeat(10_000);
    let rewritten = rewritten(&html);
    assert_eq!(targets(&rewritten).len(), 200);
    assert!(rewritten.len() < html.len() + 64 * 1024, "{}", rewritten.len());
}

proptest! {
    #[test]
    fn no_html_is_too_strange(html in "(<a href=\"?(https://x/|[a-z&;#\"]{0,4})\"?>|</a>|<body>|</body>|<!--|-->|<script>|</script>|<svg>|<select>|<table>|<plaintext>|&[a-z]{0,3};?|[ -~]|é){0,20}") {
        let rewritten = rewritten(&html);
        // Whatever was understood as a link leads on to a web address.
        for (_, target) in targets(&rewritten) {
            prop_assert!(target.starts_with("https://x/"), "{}", target);
        }
        prop_assert!(pixels(&rewritten) <= 1);
    }
}
