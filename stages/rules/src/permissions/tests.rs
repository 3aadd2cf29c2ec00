use chasqui_schemas::{Lane, record::Category};
use proptest::prelude::*;
use serde_json::json as j;

use super::*;

static MAIL: Overridable = Overridable {
    never: &["personalizations", "mail_settings.bypass_*", "headers.Bcc"],
    senders: &["from", "reply_to", "headers.Sender"],
    links: &["link"],
    harmless: &["headers.X-*", "categories"],
};

fn refused(may: &Permissions, over: Value) -> Vec<(Reason, String)> {
    let vendors = Vendors::from([("mail", &MAIL)]);
    let overrides = j!({ "mail": over });
    let found = refused_overrides(may, overrides.as_object().unwrap(), &vendors, &Schemes::default());
    found.into_iter().map(|(reason, field, _)| (reason, field)).collect()
}

fn everything() -> Permissions {
    Permissions { overrides: Some(vec!["mail".to_owned()]), ..Permissions::default() }
}

fn category(mandatory: bool, lane: Option<Lane>) -> Category {
    Category { mandatory, lane, ..Category::default() }
}

#[test]
fn the_settings_say_what_an_app_may_and_else_its_record_and_else_the_star() {
    let inline = |inline| Permissions { inline, ..Permissions::default() };
    let apps = Apps { listed: BTreeMap::from([("shop".to_owned(), inline(true))]), unlisted: inline(true) };
    let record = AppRecord { may: Some(inline(false)), ..AppRecord::default() };
    assert!(apps.of("shop", Some(&record)).inline, "the settings go before the record");
    assert!(!apps.of("crm", Some(&record)).inline);
    assert!(apps.of("crm", Some(&AppRecord::default())).inline, "a record of keys alone allows nothing");
    assert!(apps.of("crm", None).inline);
}

#[test]
fn a_mandatory_category_must_be_named() {
    let by_default = Permissions::default();
    assert!(by_default.category("otp", Some(&category(true, None))).unwrap().contains("mandatory"));
    assert_eq!(by_default.category("news", Some(&category(false, None))), None);
    assert_eq!(by_default.category("new", None), None, "a category without a record is not mandatory");
    let named = Permissions { categories: Some(vec!["otp".into()]), ..Permissions::default() };
    assert_eq!(named.category("otp", Some(&category(true, None))), None);
    assert!(named.category("news", Some(&category(false, None))).is_some());
    assert!(named.category("OTP", None).is_some());
    let trusted = Permissions { mandatory: true, ..Permissions::default() };
    assert_eq!(trusted.category("otp", Some(&category(true, None))), None);
    let both = Permissions { mandatory: true, ..named };
    assert!(both.category("security", Some(&category(true, None))).is_some(), "the list says all");
}

#[test]
fn a_category_does_not_lift_an_app_above_its_lanes() {
    let bulk = Permissions { lanes: Some(vec![Lane::Normal, Lane::Bulk]), ..Permissions::default() };
    assert!(bulk.category("chat", Some(&category(false, Some(Lane::High)))).unwrap().contains("`high`"));
    assert_eq!(bulk.category("digest", Some(&category(false, Some(Lane::Normal)))), None);
    assert_eq!(Permissions::default().category("chat", Some(&category(false, Some(Lane::Critical)))), None);
    let named = Permissions { categories: Some(vec!["chat".into()]), ..bulk };
    assert_eq!(named.category("chat", Some(&category(false, Some(Lane::High)))), None);
}

#[test]
fn what_is_harmless_passes_and_the_rest_must_be_named() {
    let by_default = Permissions::default();
    assert_eq!(refused(&by_default, j!({"headers": {"x-note": "a"}, "categories": ["a"]})), []);
    let found = refused(&by_default, j!({"template_id": "d-1", "mail_settings": {"footer": {"enable": true}}}));
    let fields: Vec<_> = found.iter().map(|(_, field)| field.as_str()).collect();
    assert_eq!(fields, ["overrides.mail.mail_settings.footer.enable", "overrides.mail.template_id"]);
    let named = Permissions { overrides: Some(vec!["mail.template_id".into()]), ..Permissions::default() };
    assert_eq!(refused(&named, j!({"template_id": "d-1"})), []);
    assert_eq!(refused(&named, j!({"categories": ["a"]})).len(), 1, "the list says all");
    let none = Permissions { overrides: Some(Vec::new()), ..Permissions::default() };
    assert_eq!(refused(&none, j!({"headers": {"x-note": "a"}})).len(), 1);
}

#[test]
fn no_list_opens_what_nobody_may() {
    for over in [
        j!({"personalizations": [{"to": [{"email": "eve@evil.example"}]}]}),
        j!({"Personalizations": null}),
        j!({"mail_settings": {"bypass_list_management": {"enable": true}}}),
        j!({"mail_settings": {"Bypass_Bounce_Management": {}}}),
        j!({"mail_settings.bypass_list_management": {"enable": true}}),
        j!({"headers": {"bcc": "all@example.com"}}),
    ] {
        let found = refused(&everything(), over.clone());
        assert!(matches!(&found[..], [(Reason::OverrideNotAllowed, _)]), "{over}: {found:?}");
    }
}

#[test]
fn senders_are_the_apps_own() {
    let shop = Permissions { senders: vec!["news@shop.example".into(), "@mail.shop.example".into()], ..everything() };
    for good in [
        j!("news@shop.example"),
        j!("Shop <News@shop.example>"),
        j!("anybody@mail.shop.example"),
        j!({"email": "news@shop.example", "name": "Shop"}),
        j!([{"email": "news@shop.example"}, {"email": "a.b+c@mail.shop.example"}]),
    ] {
        assert_eq!(refused(&shop, j!({"from": good, "reply_to": good})), [], "{good}");
    }
    for bad in [
        j!("ceo@shop.example"),
        j!("news@shop.example <ceo@shop.example>"),
        j!("ceo@shop.example <news@shop.example>"),
        j!("a, b <news@shop.example>"),
        j!("ceo@evil.example, news@shop.example"),
        j!("ceo@evil.example\r\n <news@shop.example>"),
        j!("x <y> <news@shop.example>"),
        j!("@mail.shop.example"),
        j!("a@evil.example@mail.shop.example"),
        j!({"email": "ceo@shop.example", "name": "news@shop.example"}),
        j!({"email": "<news@shop.example>"}),
        j!({"email": "news@shop.example", "cc": "eve@evil.example"}),
        j!([]),
        j!([{"email": "news@shop.example"}, {"email": "ceo@shop.example"}]),
        j!(null),
        j!({}),
        j!(7),
    ] {
        let found = refused(&shop, j!({"from": bad}));
        assert!(matches!(&found[..], [(Reason::SenderNotAllowed, _)]), "{bad}: {found:?}");
        assert_eq!(refused(&shop, j!({"headers": {"SENDER": bad}})).len(), 1, "{bad}");
    }
    assert_eq!(refused(&everything(), j!({"from": "news@shop.example"})).len(), 1, "without senders nobody is one");
}

#[test]
fn links_in_overrides_are_links() {
    assert_eq!(refused(&everything(), j!({"link": "https://example.com"})), []);
    for bad in [j!("javascript:alert(1)"), j!(["https://example.com"]), j!({"a": "b"})] {
        assert!(matches!(&refused(&everything(), j!({"link": bad}))[..], [(Reason::Invalid, _)]));
    }
}

#[test]
fn what_is_no_vendor_or_no_object_is_refused() {
    let overrides = j!({"mial": {"a": 1}, "mail": null});
    let vendors = Vendors::from([("mail", &MAIL)]);
    let found = refused_overrides(&everything(), overrides.as_object().unwrap(), &vendors, &Schemes::default());
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].1, "overrides.mial");
    assert_eq!(refused(&Permissions::default(), j!(7)), [(Reason::OverrideNotAllowed, "overrides.mail".into())]);
}

proptest! {
    /// Whatever is asked for: what gets through holds none of what nobody may, at any depth and spelling.
    #[test]
    fn whatever_stands_around_it_a_bypass_is_found(
        before in "[a-z_]{0,8}", after in "[a-z_]{0,8}", name in "(?i)mail_settings", bypass in "(?i)bypass_[a-z_]{0,12}",
    ) {
        let over = j!({before: 1, name: {bypass: {"enable": true}, after: true}});
        prop_assert!(refused(&everything(), over).iter().any(|(reason, _)| *reason == Reason::OverrideNotAllowed));
    }
}
