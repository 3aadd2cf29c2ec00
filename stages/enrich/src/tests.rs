use chasqui_contract::ManualClock;
use chasqui_rules::Permissions;
use chasqui_schemas::{
    app::AppRecord,
    record::{Device, Owners, Platform},
    sample,
};
use chasqui_stores::memory::MemoryDirectory;
use futures::executor::block_on;
use jiff::{SignedDuration, Timestamp};

use super::*;

const NOW: &str = "2026-07-01T12:00:00Z";

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn notification() -> Notification {
    Notification { submitted_at: at(NOW), ..sample::notification() }
}

fn with_times(send_at: Option<&str>, expires_at: Option<&str>) -> Notification {
    notification().with_request(|request| {
        request.send_at = send_at.map(at);
        request.expires_at = expires_at.map(at);
    })
}

fn ada() -> Contacts {
    Contacts {
        locale: Some("en-GB".into()),
        timezone: Some("Europe/London".into()),
        emails: vec!["ada@example.com".into(), "countess@example.com".into()],
        ..Contacts::default()
    }
}

fn directory() -> MemoryDirectory {
    MemoryDirectory::new().with("ada", ada())
}

fn trusting() -> Apps {
    Apps { unlisted: Permissions { mandatory: true, ..Permissions::default() }, ..Apps::default() }
}

fn decide_with(directory: &Arc<MemoryDirectory>, now: &str, notification: Notification) -> Decision {
    let stage =
        Enrich { directory: Arc::clone(directory) as _, clock: Arc::new(ManualClock::new(at(now))), apps: trusting() };
    block_on(stage.decide(notification)).unwrap()
}

fn decide(directory: MemoryDirectory, notification: Notification) -> Decision {
    decide_with(&Arc::new(directory), NOW, notification)
}

fn forwarded(decision: Decision) -> Notification {
    match decision.verdict {
        Verdict::Forward(outputs) => match <[Output; 1]>::try_from(outputs) {
            Ok([Output::Notification(notification)]) => notification,
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    }
}

fn attributes(decision: &Decision) -> Vec<(&str, &str)> {
    decision.attributes.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect()
}

#[test]
fn a_user_gets_the_contacts_and_the_policy_on_record() {
    let category = Category { mandatory: true, ..Category::default() };
    let decision = decide(directory().with("order", category.clone()), notification());
    assert_eq!(
        attributes(&decision),
        [
            ("policy", "record"),
            ("devices", "0"),
            ("emails", "2"),
            ("phones", "0"),
            ("locale", "en-GB"),
            ("timezone", "Europe/London"),
        ]
    );
    let expected = Notification { contacts: Some(ada()), policy: Some(category), ..notification() };
    assert_eq!(forwarded(decision), expected);
}

#[test]
fn an_unknown_category_has_the_default_policy() {
    let decision = decide(directory(), notification());
    assert_eq!(attributes(&decision)[0], ("policy", "default"));
    assert_eq!(forwarded(decision).policy, Some(Category::default()));
}

#[test]
fn an_unknown_user_is_suppressed() {
    assert_eq!(decide(MemoryDirectory::new(), notification()).verdict, Verdict::Suppress(Reason::UnknownUser));
}

#[test]
fn inline_contacts_are_taken_as_they_are() {
    let contacts = Contacts { phones: vec!["+4915112345678".into()], ..Contacts::default() };
    let notification = Notification { recipient: Recipient::Inline(contacts.clone()), ..notification() };
    let decision = decide(MemoryDirectory::new(), notification);
    assert_eq!(forwarded(decision).contacts, Some(contacts));
}

#[test]
fn no_address_is_in_the_attributes() {
    let decision = decide(directory(), notification());
    assert!(attributes(&decision).iter().all(|(_, value)| !value.contains('@')));
}

#[test]
fn a_scheduled_notification_waits_before_anything_is_looked_up() {
    let scheduled = with_times(Some("2026-07-01T12:00:00.000000001Z"), None);
    let directory = Arc::new(directory());
    directory.faults.fail_next(1);
    let decision = decide_with(&directory, NOW, scheduled.clone());
    let until = scheduled.request.send_at.unwrap();
    let message = Box::new(Output::Notification(scheduled.clone()));
    assert_eq!(decision.verdict, Verdict::Defer { until, reason: Reason::Scheduled, message });
    directory.faults.fail_next(0);
    let due = decide_with(&directory, &until.to_string(), scheduled);
    assert!(forwarded(due).contacts.is_some());
}

#[test]
fn what_would_be_too_late_at_its_time_does_not_wait_for_it() {
    let notification = with_times(Some("2026-07-02T12:00:00Z"), Some("2026-07-02T12:00:00Z"));
    assert_eq!(decide(directory(), notification).verdict, Verdict::Suppress(Reason::Expired));
}

#[test]
fn what_is_too_late_is_suppressed() {
    for (expires_at, expired) in
        [("2026-07-01T11:59:59Z", true), (NOW, true), ("2026-07-01T12:00:00.000000001Z", false)]
    {
        let decision = decide(directory(), with_times(None, Some(expires_at)));
        assert_eq!(decision.verdict == Verdict::Suppress(Reason::Expired), expired, "{expires_at}");
    }
}

#[test]
fn the_time_to_live_of_the_category_runs_from_send_at() {
    let category = Category { ttl_s: Some(60), ..Category::default() };
    let directory = Arc::new(directory().with("order", category));
    let send_at = at(NOW) + SignedDuration::from_hours(48);
    let scheduled = with_times(Some(&send_at.to_string()), None);
    for (now, expired) in [(send_at, false), (send_at + SignedDuration::from_secs(60), true)] {
        let decision = decide_with(&directory, &now.to_string(), scheduled.clone());
        assert_eq!(decision.verdict == Verdict::Suppress(Reason::Expired), expired, "{now}");
    }
    let unscheduled = decide_with(&directory, "2026-07-01T12:01:00Z", notification());
    assert_eq!(unscheduled.verdict, Verdict::Suppress(Reason::Expired));
}

#[test]
fn a_directory_that_fails_is_an_error_and_no_decision() {
    let directory = directory();
    directory.faults.fail_next(1);
    let stage = Enrich { directory: Arc::new(directory), clock: Arc::new(ManualClock::new(at(NOW))), apps: trusting() };
    assert!(matches!(block_on(stage.decide(notification())), Err(StoreError::Unavailable { .. })));
}

#[test]
fn a_category_that_became_mandatory_while_it_waited_is_refused_to_an_app_that_may_not() {
    let (directory, clock) =
        (Arc::new(directory().with("order", Category { mandatory: true, ..Category::default() })), at(NOW));
    let stage = Enrich { directory, clock: Arc::new(ManualClock::new(clock)), apps: Apps::default() };
    let decision = block_on(stage.decide(notification())).unwrap();
    assert_eq!(decision.verdict, Verdict::Suppress(Reason::CategoryNotAllowed));
    assert!(attributes(&decision)[0].1.contains("is mandatory"), "{decision:?}");
}

#[test]
fn what_a_record_takes_from_an_app_while_it_waited_is_taken() {
    let may = Permissions { categories: Some(vec!["digest".to_owned()]), ..Permissions::default() };
    let directory = directory().with("shop", AppRecord { may: Some(may), ..AppRecord::default() });
    let decision = decide(directory, notification());
    assert_eq!(decision.verdict, Verdict::Suppress(Reason::CategoryNotAllowed));
}

#[test]
fn of_too_many_devices_the_newest_are_used_and_the_trace_says_so() {
    let device = |n: i64| Device {
        id: n.to_string(),
        platform: Platform::Web,
        token: "t".into(),
        registered_at: Some(at(NOW) + SignedDuration::from_secs(n)),
    };
    let contacts = Contacts { devices: (0..60).map(device).collect(), ..Contacts::default() };
    let decision = decide(MemoryDirectory::new().with("ada", contacts), notification());
    assert!(attributes(&decision).contains(&("devices.left_out", "40")), "{decision:?}");
    let kept = forwarded(decision).contacts.unwrap().devices;
    assert_eq!(kept, (40..60).map(device).collect::<Vec<_>>());
}

#[test]
fn an_inline_address_leads_to_the_users_who_have_it_now() {
    let owners = Owners { users: vec!["ada".into(), "bob".into(), "gone".into()] };
    let records = || {
        directory()
            .with("Ada@example.com", owners.clone())
            .with("bob", Contacts { emails: vec!["bob@example.com".into()], ..Contacts::default() })
    };
    let contacts = Contacts { emails: vec!["ADA@example.com".into()], ..Contacts::default() };
    let inline = || Notification { recipient: Recipient::Inline(contacts.clone()), ..notification() };
    let decision = decide(records(), inline());
    assert!(attributes(&decision).contains(&("owners", "1")), "{decision:?}");
    let found = forwarded(decision);
    assert_eq!(found.owners, ["ada"], "bob has another address, and a third has no record");
    assert_eq!(found.contacts.unwrap().timezone.as_deref(), Some("Europe/London"));
    let mandatory =
        records().with("order", Category { mandatory: true, ..Category::default() }).with_bad_record::<Contacts>("ada");
    assert!(forwarded(decide(mandatory, inline())).owners.is_empty(), "nobody is asked");
}
