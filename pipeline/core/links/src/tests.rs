//! What can be read, and what cannot.

use proptest::prelude::*;

use super::*;

const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";
const OTHER: &[u8] = b"another secret that is long enough";

fn links() -> Links {
    Links::new("https://n.example.com/", [("k1", SECRET)]).unwrap()
}

fn message() -> Origin {
    Origin { delivery_id: Uuid::from_u128(7), notification_id: Uuid::from_u128(9), channel: Channel::Email }
}

fn newsletter() -> OptOut {
    OptOut::Category { app: "shop".into(), user: "ada.lovelace".into(), category: "newsletter".into() }
}

/// The token of an address that the gateway gets.
fn token(url: &str) -> &str {
    url.rsplit('/').next().unwrap().trim_end_matches(".gif")
}

#[test]
fn what_is_made_is_read() {
    let links = links();
    let open = links.open(&message());
    assert!(open.starts_with("https://n.example.com/t/o/k1.") && open.ends_with(".gif"), "{open}");
    assert_eq!(links.read(token(&open)), Some((message(), Link::Open)));
    assert!(token(&open).len() < 80, "short: {open}");
    let target = "https://shop.example.com/orders/7?a=b&c=%20#top";
    let click = links.click(&message(), 513, target).unwrap();
    assert!(click.starts_with("https://n.example.com/t/c/k1."), "{click}");
    assert_eq!(links.read(token(&click)), Some((message(), Link::Click { link: 513, target: target.to_owned() })));
    for opt_out in [newsletter(), OptOut::Address { key: "0a".repeat(32), reason: "unsubscribe".into() }] {
        let url = links.unsubscribe(&message(), &opt_out).unwrap();
        assert!(url.starts_with("https://n.example.com/t/u/k1."), "{url}");
        assert_eq!(links.read(token(&url)), Some((message(), Link::Unsubscribe(opt_out.clone()))));
        assert_eq!(links.unsubscribe(&message(), &opt_out).unwrap(), url, "again, the same");
    }
}

#[test]
fn whom_an_unsubscription_concerns_cannot_be_read_in_it() {
    let url = links().unsubscribe(&message(), &newsletter()).unwrap();
    let bytes = URL_SAFE_NO_PAD.decode(token(&url).split_once('.').unwrap().1).unwrap();
    for word in ["ada", "newsletter", "shop", "category"] {
        assert!(!bytes.windows(word.len()).any(|window| window == word.as_bytes()), "{word}");
    }
}

#[test]
fn no_changed_byte_is_believed() {
    let links = links();
    let urls = [
        links.open(&message()),
        links.click(&message(), 3, "https://shop.example.com/").unwrap(),
        links.unsubscribe(&message(), &newsletter()).unwrap(),
    ];
    for url in urls {
        let (id, text) = token(&url).split_once('.').unwrap();
        let bytes = URL_SAFE_NO_PAD.decode(text).unwrap();
        let read = |bytes: &[u8]| links.read(&format!("{id}.{}", URL_SAFE_NO_PAD.encode(bytes)));
        assert!(read(&bytes).is_some());
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut changed = bytes.clone();
                changed[at] ^= 1 << bit;
                assert_eq!(read(&changed), None, "byte {at} of {url}");
            }
            assert_eq!(read(&bytes[..at]), None, "cut at {at}");
        }
        assert_eq!(read(&[&bytes[..], b"x"].concat()), None, "longer");
    }
}

#[test]
fn the_first_key_signs_and_every_key_is_read() {
    let old = links();
    let both = Links::new("https://n.example.com", [("k2", OTHER), ("k1", SECRET)]).unwrap();
    let new = Links::new("https://n.example.com", [("k2", OTHER)]).unwrap();
    let made_before = old.open(&message());
    let made_after = both.open(&message());
    assert!(token(&made_after).starts_with("k2."));
    assert!(both.read(token(&made_before)).is_some() && both.read(token(&made_after)).is_some());
    assert!(new.read(token(&made_after)).is_some());
    assert_eq!(new.read(token(&made_before)), None, "its key is forgotten");
    let same_id = Links::new("https://n.example.com", [("k1", OTHER)]).unwrap();
    assert_eq!(same_id.read(token(&made_before)), None, "another secret of the same name");
}

#[test]
fn only_web_addresses_become_clicks() {
    let links = links();
    let long = format!("https://example.com/{}", "a".repeat(MAX_TARGET_BYTES));
    for target in [
        "mailto:ada@example.com",
        "javascript:alert(1)",
        "//example.com",
        "/relative",
        "https://",
        "https:///nowhere",
        "https://example.com/\r\nSet-Cookie: a=b",
        "https://example.com/a b",
        "https://example.com/é",
        "https://n.example.com/t/u/k1.abc",
        &long,
    ] {
        assert_eq!(links.click(&message(), 0, target), None, "{target}");
    }
    let longest = &long[..MAX_TARGET_BYTES];
    let click = links.click(&message(), 0, longest).unwrap();
    assert!(links.read(token(&click)).is_some(), "{} bytes", token(&click).len());
    assert!(links.click(&message(), 0, "HTTPS://Example.com").is_some());
    assert!(links.click(&message(), 0, "https://n.example.com/t").is_some(), "ours, but not a link of this kind");
}

#[test]
fn settings_that_cannot_work_are_refused() {
    let refused = |url: &str, keys: &[(&str, &[u8])]| Links::new(url, keys.iter().copied()).unwrap_err();
    for url in ["", "n.example.com", "ftp://n.example.com", "https://n.example.com/?a", "https://n.example.com/#a"] {
        assert_eq!(refused(url, &[("k1", SECRET)]), LinksError::PublicUrl, "{url}");
    }
    assert_eq!(refused("https://x", &[]), LinksError::NoKey);
    for id in ["", "a.b", "a/b", "seventeen-letters"] {
        assert_eq!(refused("https://x", &[(id, SECRET)]), LinksError::KeyId(id.to_owned()));
    }
    assert_eq!(refused("https://x", &[("a", SECRET), ("a", OTHER)]), LinksError::KeyId("a".into()));
    assert_eq!(refused("https://x", &[("a", b"short")]), LinksError::ShortSecret("a".into()));
    assert!(!format!("{:?}", links()).contains("0123456789"));
}

proptest! {
    #[test]
    fn noise_is_nothing_and_never_a_panic(noise in ".{0,200}", bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let links = links();
        prop_assert_eq!(links.read(&noise), None);
        let encoded = format!("k1.{}", URL_SAFE_NO_PAD.encode(&bytes));
        prop_assert_eq!(links.read(&encoded), None);
    }

    #[test]
    fn noise_in_a_token_is_never_believed(
        which in 0..3_usize,
        changes in proptest::collection::vec((any::<prop::sample::Index>(), "[-A-Za-z0-9_.=%+/ \\PC]?"), 1..6),
    ) {
        let links = links();
        let urls = [
            links.open(&message()),
            links.click(&message(), 3, "https://shop.example.com/").unwrap(),
            links.unsubscribe(&message(), &newsletter()).unwrap(),
        ];
        let good = token(&urls[which]);
        let mut text: Vec<String> = good.chars().map(String::from).collect();
        for (at, piece) in changes {
            let at = at.index(text.len());
            text[at] = piece;
        }
        let text = text.concat();
        prop_assert_eq!(links.read(&text).is_some(), text == good, "{}", text);
    }

    #[test]
    fn any_message_and_target_come_back(delivery: u128, notification: u128, link: u16, path in "[!-~]{0,300}") {
        let origin = Origin {
            delivery_id: Uuid::from_u128(delivery),
            notification_id: Uuid::from_u128(notification),
            channel: Channel::Push,
        };
        let target = format!("http://example.com/{path}");
        let url = links().click(&origin, link, &target).unwrap();
        prop_assert_eq!(links().read(token(&url)), Some((origin, Link::Click { link, target })));
    }
}

#[test]
fn only_listed_hosts_get_our_name() {
    let links = links().only_to(&["Shop.example.com".to_owned(), "*.shop.example".to_owned()]);
    let click = |target: &str| links.click(&message(), 1, target).is_some();
    for good in ["https://shop.example.com/a", "http://SHOP.example.com:8080?x", "https://a.b.shop.example/"] {
        assert!(click(good), "{good}");
    }
    for bad in [
        "https://evil.example/",
        "https://shop.example.com.evil.example/",
        "https://shop.example.com@evil.example/",
        "https://evil.example\\@shop.example.com/",
        "https://evil.example/shop.example.com",
        "https://evil.example#shop.example.com",
        "https://evilshop.example/",
        "https://shop.example/",
        "https://.shop.example/",
        "https://[::1]/",
    ] {
        assert!(!click(bad), "{bad}");
    }
}

#[test]
fn links_go_out_in_the_clear_only_to_this_machine() {
    let open = |url: &str| Links::new(url, [("k1", SECRET)]).is_ok();
    for good in ["https://n.example.com", "http://localhost:8400", "http://127.0.0.1:8400/x", "http://[::1]:8400"] {
        assert!(open(good), "{good}");
    }
    for bad in ["http://n.example.com", "http://localhost.example.com", "http://10.0.0.1", "http://a@localhost"] {
        assert!(!open(bad), "{bad}");
    }
}
