use std::collections::BTreeMap;

use chasqui_contract::ManualClock;
use chasqui_schemas::{
    notification::Recipient,
    record::{Category, CategoryPreference, Device, Platform, Suppression},
    sample,
};
use chasqui_stores::memory::{MemoryDirectory, MemoryNewest};
use futures::executor::block_on;
use jiff::{SignedDuration, Timestamp};
use proptest::{collection::vec, option, prelude::*, sample::subsequence};
use serde_json::json;

use super::*;

const EMAIL: &str = "ada@example.com";
const PHONE: &str = "+4915112345678";
/// 12:00 UTC: 13:00 in London, 21:00 in Seoul.
const NOON: &str = "2026-07-01T12:00:00Z";

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn device(id: &str) -> Device {
    Device { id: id.into(), platform: Platform::Ios, token: format!("token of {id}"), registered_at: None }
}

/// To Ada, who has two devices, two mailboxes, a phone, and lives in London.
fn notification(channels: &[Channel]) -> Notification {
    let contacts = Contacts {
        locale: None,
        timezone: Some("Europe/London".into()),
        emails: vec![EMAIL.into(), "countess@example.com".into()],
        phones: vec![PHONE.into()],
        devices: vec![device("phone"), device("tablet")],
    };
    Notification {
        submitted_at: at(NOON),
        policy: Some(Category::default()),
        contacts: Some(contacts),
        ..sample::notification().with_request(|request| request.channels = Some(channels.to_vec()))
    }
}

fn mandatory(mut notification: Notification) -> Notification {
    notification.policy.as_mut().unwrap().mandatory = true;
    notification
}

fn expiring(notification: Notification, at: Timestamp) -> Notification {
    notification.with_request(|request| request.expires_at = Some(at))
}

fn directory(preferences: &Preferences, suppressed: &[&str]) -> MemoryDirectory {
    let suppression = Suppression { reason: "manual".into(), since: None, bounces: Vec::new() };
    suppressed
        .iter()
        .fold(MemoryDirectory::new(), |directory, address| directory.with(address, suppression.clone()))
        .with("ada", preferences.clone())
}

fn try_decide(directory: MemoryDirectory, now: Timestamp, input: Notification) -> Result<Decision, StoreError> {
    let pepper = Pepper::new(b"a test's");
    let stage = Filter {
        directory: Arc::new(directory),
        clock: Arc::new(ManualClock::new(now)),
        newest: Arc::new(MemoryNewest::default()),
        pepper,
    };
    block_on(stage.decide(input))
}

/// Decides with the preferences, as JSON, of Ada.
fn decide_at(now: &str, preferences: serde_json::Value, suppressed: &[&str], input: Notification) -> Decision {
    let preferences = serde_json::from_value(preferences).unwrap();
    let directory = directory(&preferences, suppressed);
    try_decide(directory, at(now), input).unwrap()
}

fn decide(preferences: serde_json::Value, suppressed: &[&str], input: Notification) -> Decision {
    decide_at(NOON, preferences, suppressed, input)
}

fn endpoints(decision: &Decision) -> &[Endpoint] {
    match &decision.verdict {
        Verdict::Forward(outputs) => match &outputs[..] {
            [Output::Notification(notification)] => &notification.endpoints,
            other => panic!("{other:?}"),
        },
        _ => &[],
    }
}

/// The channels, or for devices the ids, of what is forwarded.
fn allowed(decision: &Decision) -> Vec<&str> {
    endpoints(decision)
        .iter()
        .map(|endpoint| match endpoint.channel() {
            Channel::Push => endpoint.id.as_str(),
            channel => channel.as_str(),
        })
        .collect()
}

fn attributes(decision: &Decision) -> Vec<(&str, &str)> {
    decision.attributes.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect()
}

#[test]
fn every_wanted_channel_gets_its_endpoints_once() {
    let decision = decide(json!({}), &[], notification(&[Channel::Email, Channel::Push, Channel::Email]));
    assert_eq!(allowed(&decision), ["phone", "tablet", "email"]);
    assert!(decision.attributes.is_empty());

    let decision = decide(json!({}), &[], notification(&Channel::ALL));
    let addresses: Vec<&str> = endpoints(&decision).iter().map(|endpoint| endpoint.address.text()).collect();
    assert_eq!(addresses, ["token of phone", "token of tablet", PHONE, EMAIL, "ada"]);
}

#[test]
fn without_channels_in_the_request_the_categorys_are_wanted() {
    let mut input = notification(&[]);
    Arc::make_mut(&mut input.request).channels = None;
    assert_eq!(allowed(&decide(json!({}), &[], input)), ["phone", "tablet", "email", "in_app"]);
}

#[test]
fn an_endpoints_id_tells_addresses_apart_without_showing_them() {
    let id_of = |email: &str| {
        let mut input = notification(&[Channel::Email]);
        input.contacts.as_mut().unwrap().emails = vec![email.to_owned()];
        endpoints(&decide(json!({}), &[], input))[0].id.clone()
    };
    assert_eq!(id_of(EMAIL).len(), 16);
    assert_eq!(id_of(EMAIL), id_of("Ada@Example.com"));
    assert_ne!(id_of(EMAIL), id_of("bob@example.com"));
    assert!(!id_of(EMAIL).contains("ada"));
}

#[test]
fn two_devices_of_one_id_are_one_endpoint() {
    let mut input = notification(&[Channel::Push]);
    input.contacts.as_mut().unwrap().devices = vec![device("phone"), device("phone")];
    assert_eq!(allowed(&decide(json!({}), &[], input)), ["phone"]);
}

#[test]
fn an_opted_out_channel_category_or_device_gets_nothing() {
    // Preferences, what is left of push, email and in-app, and the explanation.
    type Case = (serde_json::Value, &'static [&'static str], &'static [(&'static str, &'static str)]);
    let cases: [Case; 7] = [
        (json!({"channels": {"push": true}}), &["phone", "tablet", "email", "in_app"], &[]),
        (json!({"channels": {"push": false}}), &["email", "in_app"], &[("skipped.push", "opted_out_channel")]),
        (
            json!({"categories": {"order": {"push": false, "in_app": false}}}),
            &["email"],
            &[("skipped.push", "opted_out_category"), ("skipped.in_app", "opted_out_category")],
        ),
        (json!({"categories": {"order": true, "news": false}}), &["phone", "tablet", "email", "in_app"], &[]),
        (
            json!({"devices": {"tablet": false}}),
            &["phone", "email", "in_app"],
            &[("skipped.push.devices", r#"{"tablet":"opted_out_device"}"#)],
        ),
        (
            json!({"devices": {"tablet": false, "phone": false, "watch": false}}),
            &["email", "in_app"],
            &[
                ("skipped.push.devices", r#"{"phone":"opted_out_device","tablet":"opted_out_device"}"#),
                ("skipped.push", "opted_out_device"),
            ],
        ),
        (
            json!({"categories": {"order": {"push": false}}, "channels": {"push": false}, "devices": {"phone": false}}),
            &["email", "in_app"],
            &[("skipped.push", "opted_out_category")],
        ),
    ];
    for (preferences, left, explanation) in cases {
        let input = notification(&[Channel::Push, Channel::Email, Channel::InApp]);
        let decision = decide(preferences.clone(), &[], input);
        assert_eq!(allowed(&decision), left, "{preferences}");
        assert_eq!(attributes(&decision), explanation, "{preferences}");
    }
}

#[test]
fn a_suppressed_address_gets_nothing_and_no_other_takes_its_place() {
    let decision = decide(json!({}), &[EMAIL, PHONE], notification(&Channel::ALL));
    assert_eq!(allowed(&decision), ["phone", "tablet", "in_app"]);
    assert_eq!(attributes(&decision), [("skipped.sms", "address_suppressed"), ("skipped.email", "address_suppressed")]);
}

#[test]
fn a_mandatory_category_passes_every_opt_out_but_not_the_suppression_list() {
    for preferences in [
        json!({"enabled": false}),
        json!({"categories": {"order": false}}),
        json!({"channels": {"push": false, "sms": false, "email": false, "in_app": false}}),
        json!({"devices": {"phone": false, "tablet": false}}),
        json!({"quiet_hours": {"start": "00:00", "end": "23:59"}}),
    ] {
        let decision = decide(preferences, &[EMAIL], mandatory(notification(&Channel::ALL)));
        assert_eq!(allowed(&decision), ["phone", "tablet", "sms", "in_app"]);
    }
}

#[test]
fn an_entry_on_the_suppression_list_stops_what_its_reason_says() {
    let now = at(NOON);
    let again = vec![now - SignedDuration::from_hours(30), now];
    let confirmed = Suppression { bounces: again, ..Suppression::new("bounce", now) };
    for (entry, passes) in [
        (Suppression::new("unsubscribe", now), (true, false, false)),
        (Suppression::new("bounce", now), (true, true, false)),
        (confirmed, (false, false, false)),
        (Suppression::new("complaint", now), (false, false, false)),
    ] {
        let goes = |input: Notification| {
            let directory = MemoryDirectory::new().with(EMAIL, entry.clone());
            let decision = try_decide(directory, now, input).unwrap();
            if allowed(&decision).is_empty() {
                assert_eq!(decision.verdict, Verdict::Suppress(Reason::AddressSuppressed));
            }
            !allowed(&decision).is_empty()
        };
        let normal = || notification(&[Channel::Email]);
        let mut bulk = normal();
        bulk.policy.as_mut().unwrap().lane = Some(Lane::Bulk);
        assert_eq!((goes(mandatory(normal())), goes(normal()), goes(bulk)), passes, "{entry:?}");
    }
}

#[test]
fn a_token_under_two_device_ids_is_called_once_under_the_later_one() {
    let registered = |id: &str, token: &str, day: Option<&str>| Device {
        token: token.into(),
        registered_at: day.map(|day| at(&format!("2026-01-{day}T00:00:00Z"))),
        ..device(id)
    };
    for (devices, expected) in [
        (vec![registered("old", "t", Some("01")), registered("new", "t", Some("02"))], vec!["new"]),
        (vec![registered("new", "t", Some("02")), registered("old", "T ", Some("01"))], vec!["new"]),
        (vec![registered("new", "t", Some("02")), registered("old", "t", None)], vec!["new"]),
        (vec![registered("first", "t", None), registered("second", "t", None)], vec!["second"]),
        (vec![registered("a", "t", None), registered("b", "u", None), registered("c", "t", None)], vec!["c", "b"]),
    ] {
        let mut input = notification(&[Channel::Push]);
        input.contacts.as_mut().unwrap().devices = devices;
        assert_eq!(allowed(&decide(json!({}), &[], input)), expected);
    }
}

#[test]
fn of_several_that_waited_for_the_morning_only_the_newest_goes_on() {
    let night: Preferences =
        serde_json::from_value(json!({"quiet_hours": {"start": "11:00", "end": "14:00", "timezone": "UTC"}})).unwrap();
    let directory = directory(&night, &[]).with("ada", notification(&[]).contacts.unwrap());
    let (newest, clock) = (Arc::new(MemoryNewest::default()), Arc::new(ManualClock::new(at(NOON))));
    let pepper = Pepper::new(b"a test's");
    let stage = Filter { directory: Arc::new(directory), clock: clock.clone(), newest: newest.clone(), pepper };
    let score = |minute: i64| {
        let submitted_at = at(NOON) + SignedDuration::from_mins(minute);
        let keyed =
            notification(&[Channel::Push]).with_request(|request| request.collapse_key = Some("match-7".into()));
        Notification { id: Uuid::from_u128(minute as u128), submitted_at, ..keyed }
    };
    let decide = |input: Notification| block_on(stage.decide(input)).unwrap();
    let newer =
        |minute: u128| Decision::suppress(Reason::Superseded).with("newer", Uuid::from_u128(minute).to_string());
    let mut waiting = Vec::new();
    for minute in [1, 2, 3, 5, 6] {
        let decision = decide(score(minute));
        let Verdict::Defer { message, .. } = decision.verdict else { panic!("{decision:?}") };
        let Output::Notification(again) = message.again() else { panic!("a notification stays one") };
        waiting.push(again);
    }
    let late = decide(score(4));
    assert_eq!(late.verdict, Verdict::Suppress(Reason::Superseded), "it would only wait: {late:?}");

    clock.advance(SignedDuration::from_hours(3));
    let last = waiting.pop().unwrap();
    for old in waiting {
        assert_eq!(decide(old), newer(6));
    }
    assert_eq!(allowed(&decide(last.clone())), ["phone", "tablet"]);
    assert_eq!(allowed(&decide(last.clone())), ["phone", "tablet"], "again, after a crash");
    // What passes meanwhile without waiting replaces what waits, too.
    let passed = score(7);
    block_on(newest.raise(&passed.collapse(Passage::Passed).unwrap().key, passed.version())).unwrap();
    assert_eq!(decide(last), newer(7));
}

#[test]
fn a_device_that_was_handed_on_while_a_message_waited_does_not_get_it() {
    let contacts: Contacts = serde_json::from_value(json!({
        "devices": [
            {"id": "new id", "platform": "ios", "token": "TOKEN OF TABLET"},
            {"id": "watch", "platform": "ios", "token": "new token of watch"}
        ]
    }))
    .unwrap();
    let mut waited = Notification { pass: 1, ..notification(&[Channel::Push]) };
    waited.contacts.as_mut().unwrap().devices.push(device("watch"));
    let directory = MemoryDirectory::new().with("ada", contacts);
    let decision = try_decide(directory, at(NOON), waited.clone()).unwrap();
    let tokens: Vec<&str> = endpoints(&decision).iter().map(|endpoint| endpoint.address.text()).collect();
    assert_eq!((allowed(&decision), tokens), (vec!["tablet", "watch"], vec!["token of tablet", "new token of watch"]));
    let forgotten = try_decide(MemoryDirectory::new(), at(NOON), waited).unwrap();
    assert_eq!(forgotten.verdict, Verdict::Suppress(Reason::NoEndpoint));
}

#[test]
fn a_broken_preferences_record_stops_all_but_mandatory_categories() {
    let broken = || MemoryDirectory::new().with_bad_record::<Preferences>("ada");
    let result = try_decide(broken(), at(NOON), notification(&[Channel::InApp]));
    assert!(matches!(result, Err(StoreError::BadRecord { .. })), "{result:?}");
    let decision = try_decide(broken(), at(NOON), mandatory(notification(&[Channel::InApp]))).unwrap();
    assert_eq!(allowed(&decision), ["in_app"]);
}

#[test]
fn a_suppression_list_that_cannot_be_asked_sends_nothing() {
    let directory = MemoryDirectory::new().with_bad_record::<Suppression>(EMAIL);
    let result = try_decide(directory, at(NOON), mandatory(notification(&Channel::ALL)));
    assert!(matches!(result, Err(StoreError::BadRecord { .. })), "{result:?}");
}

#[test]
fn a_notification_that_may_go_nowhere_names_the_most_telling_reason() {
    type Case = (serde_json::Value, &'static [&'static str], &'static [Channel], Reason);
    let cases: [Case; 9] = [
        (json!({"enabled": false}), &[], &Channel::ALL, Reason::OptedOut),
        (json!({"categories": {"order": false}}), &[], &Channel::ALL, Reason::OptedOutCategory),
        (json!({"channels": {"email": false}}), &[], &[Channel::Email], Reason::OptedOutChannel),
        (
            json!({"devices": {"phone": false, "tablet": false}}),
            &[EMAIL],
            &[Channel::Push, Channel::Email],
            Reason::OptedOutDevice,
        ),
        (
            json!({"channels": {"push": false}, "categories": {"order": {"email": false}}}),
            &[],
            &[Channel::Push, Channel::Email],
            Reason::OptedOutCategory,
        ),
        (json!({"channels": {"push": false}}), &[EMAIL], &[Channel::Push, Channel::Email], Reason::OptedOutChannel),
        (json!({}), &[EMAIL], &[Channel::Email], Reason::AddressSuppressed),
        (json!({}), &[EMAIL, PHONE], &[Channel::Sms, Channel::Email], Reason::AddressSuppressed),
        (json!({}), &[], &[], Reason::NoEndpoint),
    ];
    for (preferences, suppressed, channels, reason) in cases {
        let decision = decide(preferences.clone(), suppressed, notification(channels));
        assert_eq!(decision.verdict, Verdict::Suppress(reason), "{preferences}");
    }
    let mut without_phone = notification(&[Channel::Sms]);
    without_phone.contacts.as_mut().unwrap().phones.clear();
    let decision = decide(json!({}), &[], without_phone);
    assert_eq!(decision, Decision::suppress(Reason::NoEndpoint).with("skipped.sms", "no_endpoint"));
}

#[test]
fn an_inline_recipient_has_no_preferences_and_no_inbox() {
    let contacts = Contacts { emails: vec![EMAIL.into()], ..Contacts::default() };
    let mut input = notification(&[Channel::Email, Channel::InApp]);
    input.recipient = Recipient::Inline(contacts.clone());
    input.contacts = Some(contacts);
    let decision = decide(json!({"enabled": false}), &[], input.clone());
    assert_eq!(allowed(&decision), ["email"]);
    assert_eq!(attributes(&decision), [("skipped.in_app", "no_endpoint")]);
    assert_eq!(decide(json!({}), &[EMAIL], input).verdict, Verdict::Suppress(Reason::AddressSuppressed));
}

#[test]
fn what_is_too_late_is_suppressed() {
    let nanosecond = SignedDuration::from_nanos(1);
    for (expires_at, expired) in [(at(NOON), true), (at(NOON) + nanosecond, false)] {
        let decision = decide(json!({}), &[], expiring(mandatory(notification(&Channel::ALL)), expires_at));
        assert_eq!(decision.verdict == Verdict::Suppress(Reason::Expired), expired);
    }
}

#[test]
fn what_enrich_did_not_complete_is_a_dead_letter() {
    let complete = notification(&Channel::ALL);
    for input in
        [Notification { contacts: None, ..complete.clone() }, Notification { policy: None, ..complete.clone() }]
    {
        let decision = decide(json!({}), &[], input);
        assert!(matches!(decision.verdict, Verdict::Dead { reason: Reason::Undecodable, .. }), "{decision:?}");
    }
}

/// 23:00 in London.
const NIGHT: &str = "2026-07-01T22:00:00Z";
const MORNING: &str = "2026-07-02T06:00:00Z";

fn night() -> serde_json::Value {
    json!({"quiet_hours": {"start": "22:00", "end": "07:00"}})
}

fn deferred(until: &str, input: Notification) -> Verdict {
    let message = Box::new(Output::Notification(input));
    Verdict::Defer { until: at(until), reason: Reason::QuietHours, message }
}

#[test]
fn quiet_hours_defer_the_unchanged_notification_to_their_end() {
    let input = notification(&Channel::ALL);
    let decision = decide_at(NIGHT, night(), &[], input.clone());
    assert_eq!(decision.verdict, deferred(MORNING, input.clone()));
    assert_eq!(attributes(&decision), [("quiet_hours", "22:00:00-07:00:00 Europe/London")]);
    assert_eq!(allowed(&decide_at(MORNING, night(), &[], input)).len(), 5);
}

#[test]
fn quiet_hours_are_in_their_own_zone_else_the_contacts_else_utc() {
    let quiet = |zone: Option<&str>| json!({"quiet_hours": {"start": "22:00", "end": "07:00", "timezone": zone}});
    let mut nowhere = notification(&Channel::ALL);
    nowhere.contacts.as_mut().unwrap().timezone = None;
    let mut lost = notification(&Channel::ALL);
    lost.contacts.as_mut().unwrap().timezone = Some("Europe/Atlantis".into());
    let london = notification(&Channel::ALL);
    for (zone, input, end) in [
        (Some("Asia/Tokyo"), &london, "2026-07-01T22:00:00Z"),
        (None, &london, "2026-07-02T06:00:00Z"),
        (None, &nowhere, "2026-07-02T07:00:00Z"),
        (None, &lost, "2026-07-02T07:00:00Z"),
        (Some("Europe/Atlantis"), &london, "2026-07-02T07:00:00Z"),
    ] {
        // The second before the end it is quiet, and at the end it is not.
        let before = (at(end) - SignedDuration::from_secs(1)).to_string();
        let decision = decide_at(&before, quiet(zone), &[], input.clone());
        assert_eq!(decision.verdict, deferred(end, input.clone()), "{zone:?}");
        let decision = decide_at(end, quiet(zone), &[], input.clone());
        assert!(!allowed(&decision).is_empty(), "{zone:?}");
    }
    let decision = decide_at(NOON, quiet(Some("Europe/Atlantis")), &[], london);
    assert_eq!(attributes(&decision), [("unknown_timezone", "Europe/Atlantis")]);
}

#[test]
fn the_final_lane_decides_whether_quiet_hours_are_passed() {
    let cases = [
        (Lane::Critical, None, true),
        (Lane::High, None, false),
        (Lane::High, Some(Lane::Critical), true),
        (Lane::Critical, Some(Lane::Bulk), false),
    ];
    for (lane, category_lane, passes) in cases {
        let mut input = Notification { lane, ..notification(&Channel::ALL) };
        input.policy.as_mut().unwrap().lane = category_lane;
        let decision = decide_at(NIGHT, night(), &[], input);
        assert_eq!(!allowed(&decision).is_empty(), passes, "{lane}, {category_lane:?}");
    }
}

#[test]
fn the_inbox_alone_disturbs_nobody() {
    let inbox_only = decide_at(NIGHT, night(), &[], notification(&[Channel::InApp]));
    assert_eq!(allowed(&inbox_only), ["in_app"]);

    let email_suppressed = decide_at(NIGHT, night(), &[EMAIL], notification(&[Channel::Email, Channel::InApp]));
    assert_eq!(allowed(&email_suppressed), ["in_app"]);

    let with_push = decide_at(NIGHT, night(), &[], notification(&[Channel::Push, Channel::InApp]));
    assert!(matches!(with_push.verdict, Verdict::Defer { .. }));
}

#[test]
fn what_may_go_nowhere_does_not_wait_for_the_morning() {
    let decision = decide_at(NIGHT, night(), &[EMAIL], notification(&[Channel::Email]));
    assert_eq!(decision.verdict, Verdict::Suppress(Reason::AddressSuppressed));
}

#[test]
fn what_would_be_too_late_in_the_morning_is_expired_at_once() {
    let nanosecond = SignedDuration::from_nanos(1);
    for (expires_at, expired) in [(at(MORNING), true), (at(MORNING) + nanosecond, false)] {
        let decision = decide_at(NIGHT, night(), &[], expiring(notification(&Channel::ALL), expires_at));
        assert_eq!(decision.verdict == Verdict::Suppress(Reason::Expired), expired);
        assert_eq!(attributes(&decision)[0].0, "quiet_hours");
    }
}

fn any_channels() -> impl Strategy<Value = Vec<Channel>> {
    subsequence(Channel::ALL.to_vec(), 0..=4)
}

/// Channels or devices switched on and off.
fn switches<T: Ord + Clone + std::fmt::Debug + 'static>(of: Vec<T>) -> impl Strategy<Value = BTreeMap<T, bool>> {
    let count = of.len();
    (subsequence(of, 0..=count), vec(any::<bool>(), count)).prop_map(|(of, on)| of.into_iter().zip(on).collect())
}

fn any_preferences() -> impl Strategy<Value = Preferences> {
    let category = prop_oneof![
        any::<bool>().prop_map(CategoryPreference::All),
        switches(Channel::ALL.to_vec()).prop_map(CategoryPreference::Channels),
    ];
    (
        prop::bool::weighted(0.8),
        switches(Channel::ALL.to_vec()),
        option::of((prop_oneof!["order", "news"], category)),
        switches(vec!["phone".to_owned(), "tablet".to_owned()]),
        option::of((0..24i8, 0..24i8)),
    )
        .prop_map(|(enabled, channels, category, devices, quiet)| Preferences {
            enabled,
            channels,
            categories: category.into_iter().collect(),
            devices,
            quiet_hours: quiet.map(|(start, end)| QuietHours {
                start: jiff::civil::time(start, 0, 0, 0),
                end: jiff::civil::time(end, 0, 0, 0),
                timezone: None,
            }),
            ..Preferences::default()
        })
}

fn is_off(preferences: &Preferences, endpoint: &Endpoint) -> bool {
    let channel = endpoint.channel();
    let category_off = preferences.categories.get("order").is_some_and(|choice| match choice {
        CategoryPreference::All(on) => !on,
        CategoryPreference::Channels(on) => on.get(&channel).is_some_and(|on| !on),
    });
    let channel_off = preferences.channels.get(&channel).is_some_and(|on| !on);
    let device_off = channel == Channel::Push && preferences.devices.get(&endpoint.id).is_some_and(|on| !on);
    !preferences.enabled || category_off || channel_off || device_off
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn nothing_goes_where_it_must_not_and_all_goes_where_it_may(
        preferences in any_preferences(),
        channels in any_channels(),
        is_mandatory: bool,
        suppressed in subsequence(vec![EMAIL, PHONE], 0..=2),
        hour in 0..24i64,
    ) {
        let mut input = notification(&channels);
        input.policy.as_mut().unwrap().mandatory = is_mandatory;
        let directory = || directory(&preferences, &suppressed);
        let now = at(NOON) + SignedDuration::from_hours(hour);
        let mut decision = try_decide(directory(), now, input.clone()).unwrap();
        // What is deferred goes on at its time: it is never deferred twice.
        if let Verdict::Defer { until, message, .. } = &decision.verdict {
            prop_assert!(!is_mandatory);
            prop_assert_eq!(&**message, &Output::Notification(input.clone()));
            decision = try_decide(directory(), *until, input.clone()).unwrap();
            let deferred_again = matches!(decision.verdict, Verdict::Defer { .. });
            prop_assert!(!deferred_again);
        }

        // Every endpoint that Ada has on the wanted channels is either allowed, or there is a rule against it.
        let everywhere = try_decide(MemoryDirectory::new(), at(NOON), input).unwrap();
        for endpoint in endpoints(&everywhere) {
            let listed = suppressed.contains(&endpoint.address.text());
            let forbidden = listed || (!is_mandatory && is_off(&preferences, endpoint));
            prop_assert_eq!(endpoints(&decision).contains(endpoint), !forbidden, "{:?}", endpoint);
        }
        for endpoint in endpoints(&decision) {
            prop_assert!(endpoints(&everywhere).contains(endpoint), "{endpoint:?}");
        }
        // The trace explains what was removed, without a raw address.
        for (key, value) in &decision.attributes {
            prop_assert!(![EMAIL, PHONE].iter().any(|address| key.contains(address) || value.contains(address)));
        }
    }
}

#[test]
fn an_inline_address_falls_under_the_preferences_of_its_users() {
    let contacts = Contacts { emails: vec![EMAIL.into()], ..Contacts::default() };
    let inline = |owners: &[&str]| {
        let input = notification(&[Channel::Email]);
        let owners = owners.iter().map(|&user| user.to_owned()).collect();
        Notification {
            recipient: Recipient::Inline(contacts.clone()),
            contacts: Some(contacts.clone()),
            owners,
            ..input
        }
    };
    let off = json!({"categories": {"order": false}});
    let decision = decide(off.clone(), &[], inline(&["ada"]));
    assert_eq!(decision.verdict, Verdict::Suppress(Reason::OptedOutCategory));
    let decision = decide(off.clone(), &[], inline(&["bob", "ada"]));
    assert_eq!(decision.verdict, Verdict::Suppress(Reason::OptedOutCategory), "what one does not want is not sent");
    assert_eq!(allowed(&decide(off.clone(), &[], inline(&[]))), ["email"]);
    assert_eq!(allowed(&decide(off, &[], mandatory(inline(&["ada"])))), ["email"]);
    let night = json!({"quiet_hours": {"start": "11:00", "end": "13:00", "timezone": "UTC"}});
    let decision = decide(night, &[], inline(&["ada"]));
    assert!(matches!(decision.verdict, Verdict::Defer { reason: Reason::QuietHours, .. }), "{decision:?}");
}

#[test]
fn what_is_no_address_is_passed_over() {
    let mut input = notification(&[Channel::Sms, Channel::Email]);
    let contacts = input.contacts.as_mut().unwrap();
    contacts.phones = vec!["call me".into(), PHONE.into()];
    contacts.emails = vec!["Ada <ada@example.com>".into()];
    let decision = decide(json!({}), &[], input);
    assert_eq!(endpoints(&decision).iter().map(|each| each.address.text()).collect::<Vec<_>>(), [PHONE]);
    assert_eq!(attributes(&decision), [("skipped.email", "no_endpoint")]);
}

#[test]
fn a_category_and_an_address_are_the_same_in_any_spelling() {
    let off = json!({ "categories": { "Marketing": false } });
    let marketing = notification(&[Channel::Email]).with_request(|request| request.category = "marketing".into());
    assert_eq!(decide(off, &[], marketing).verdict, Verdict::Suppress(Reason::OptedOutCategory));
    let mut input = notification(&[Channel::Sms]);
    input.contacts.as_mut().unwrap().phones = vec!["+15552010199".into()];
    let decision = decide(json!({}), &["+1 (555) 201-0199"], input);
    assert_eq!(decision.verdict, Verdict::Suppress(Reason::AddressSuppressed));
}
