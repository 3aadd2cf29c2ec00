use super::*;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn device(id: &str, token: &str, registered_at: Option<i64>) -> Device {
    Device { id: id.into(), platform: Platform::Ios, token: token.into(), registered_at: registered_at.map(at) }
}

#[test]
fn no_two_buckets_share_a_name() {
    let names: std::collections::BTreeSet<_> = Bucket::ALL.iter().map(|bucket| bucket.as_str()).collect();
    assert_eq!(names.len(), Bucket::ALL.len());
    assert!(!names.contains(crate::bucket::SECRETS));
}

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
struct Pace {
    per_second: u32,
}

impl Record for Pace {
    const BUCKET: &'static str = "paces";
    const MEANING: &'static str = "A record of this test.";
    const KEYED_BY: KeyedBy = KeyedBy::Name;

    fn check(&self) -> Result<(), Violation> {
        let problem = "a pace of zero never ends".to_owned();
        if self.per_second == 0 { Err(Violation { field: "per_second".into(), problem }) } else { Ok(()) }
    }
}

#[test]
fn a_record_that_parses_is_checked_too() {
    let paces = Bucket::of::<Pace>();
    assert_eq!(paces.check(br#"{"per_second":1}"#).unwrap().json, br#"{"per_second":1}"#);
    let refused = paces.check(br#"{"per_second":0}"#).unwrap_err();
    assert_eq!(refused.to_string(), "per_second: a pace of zero never ends");
}

#[test]
fn exactly_the_device_with_exactly_the_dead_token_is_removed() {
    let devices = [device("phone", "old", Some(1)), device("tablet", "old", None), device("phone", "new", None)];
    let mut contacts = Contacts { devices: devices.to_vec(), ..Contacts::default() };
    assert!(contacts.remove_device("phone", "old", None, at(3)));
    let left = [device("tablet", "old", Some(3)), device("phone", "new", Some(3))];
    assert_eq!(contacts.devices, left, "what is written anew keeps its time");
    assert!(!contacts.remove_device("phone", "old", None, at(9)));
    assert_eq!(contacts.devices, left);
}

#[test]
fn a_user_has_no_more_devices_than_twenty_and_the_oldest_go_first() {
    let mut devices: Vec<_> = (0..30).map(|n| device(&n.to_string(), "t", Some(100 - n))).collect();
    devices[0].registered_at = None;
    let mut contacts = Contacts { devices, ..Contacts::default() };
    let refused = contacts.check().unwrap_err();
    assert_eq!(refused.to_string(), "devices: 30 devices; at most 20 are taken: leave out the oldest");
    assert_eq!(contacts.keep_newest_devices(), 10);
    let kept: Vec<_> = contacts.devices.iter().map(|device| device.id.parse::<u8>().unwrap()).collect();
    assert_eq!(kept, (1..21).collect::<Vec<u8>>());
    assert_eq!((contacts.keep_newest_devices(), contacts.check()), (0, Ok(())));
}

#[test]
fn one_device_has_one_key_however_its_token_is_spelled() {
    let of = |platform, token: &str| Device { platform, ..device("x", token, None) }.key();
    assert_eq!(of(Platform::Ios, "AB12"), of(Platform::Ios, " ab12\n"));
    assert_ne!(of(Platform::Android, "AB12"), of(Platform::Android, "ab12"));
    let browser = |keys: &str| of(Platform::Web, &format!(r#"{{"endpoint":"https://push.example/1","keys":{keys}}}"#));
    assert_eq!(browser(r#"{"auth":"a-_"}"#), browser(r#"{"auth":"a+/=", "p256dh": "x"}"#));
    assert_ne!(browser("{}"), of(Platform::Web, r#"{"endpoint":"https://push.example/2"}"#));
    assert_ne!(of(Platform::Web, "no JSON"), of(Platform::Web, "none either"));
}

#[test]
fn a_token_registered_after_it_was_gone_stays() {
    let removed = |registered_at: Option<i64>, gone_since: Option<i64>, written_at: i64| {
        let devices = vec![device("phone", "t", registered_at)];
        let mut contacts = Contacts { devices, ..Contacts::default() };
        contacts.remove_device("phone", "t", gone_since.map(at), at(written_at))
    };
    for (registered_at, gone_since) in [(None, None), (None, Some(5)), (Some(5), None), (Some(5), Some(5))] {
        assert!(removed(registered_at, gone_since, 5), "{registered_at:?} {gone_since:?}");
    }
    assert!(!removed(Some(6), Some(5), 0));
    assert!(!removed(None, Some(5), 6), "the record is newer");
    assert!(removed(Some(4), Some(5), 6), "the device says more than the record");
}

/// What is wrong with a record, and what is doubted of one that is written.
fn answer<T: Record>(json: &str) -> Result<Vec<String>, String> {
    let checked = Bucket::of::<T>().check(json.as_bytes()).map_err(|wrong| wrong.to_string())?;
    Ok(checked.doubts.iter().map(Violation::to_string).collect())
}

#[test]
fn what_a_stage_could_not_use_is_refused_with_its_field() {
    for (json, expected) in [
        (r#"{"phones":["+15552010199","call me"]}"#, "phones[1]: must be a phone number"),
        (r#"{"emails":["Ada <ada@example.com>"]}"#, "emails[0]: must be an e-mail address"),
        (r#"{"timezone":"Mars/Olympus"}"#, "timezone: must be an IANA time zone"),
        (r#"{"locale":"english please"}"#, "locale: must be a BCP 47 language tag"),
        (r#"{"devices":[{"id":"a","platform":"web","token":"t"}]}"#, "devices[0].token: must be a push subscription"),
    ] {
        let wrong = answer::<Contacts>(json).unwrap_err();
        assert!(wrong.starts_with(expected), "{wrong}");
    }
    let wrong = answer::<Preferences>(r#"{"quiet_hours":{"start":"22:00","end":"07:00","timezone":"UTC+9"}}"#);
    assert!(wrong.unwrap_err().starts_with("quiet_hours.timezone: must be an IANA time zone"));
    let wrong = answer::<Template>(r#"{"channels":{"push":{"pt-BR":{"body":"a"},"pt_br":{"body":"b"}}}}"#);
    assert_eq!(wrong.unwrap_err(), "channels.push.pt_br: is there twice: it is the same as `pt-BR`");
    let wrong = answer::<Template>(r#"{"channels":{},"variants":{"b":{"weight":1,"channels":{"sms":{"?":{}}}}}}"#);
    assert!(wrong.unwrap_err().starts_with("variants.b.channels.sms.?: must be a BCP 47 language tag"));
}

#[test]
fn what_is_surely_a_mistake_is_doubted() {
    let doubt = |answer: Result<Vec<String>, String>, expected: &str| {
        let doubts = answer.unwrap();
        assert!(doubts.iter().any(|doubt| doubt.starts_with(expected)), "{expected}: {doubts:?}");
    };
    let twice = r#"{"devices":[{"id":"a","platform":"ios","token":"t"},{"id":"a","platform":"ios","token":"u"}]}"#;
    doubt(answer::<Contacts>(twice), "devices[1].id: is there twice");
    doubt(answer::<Preferences>(r#"{"quiet_hours":{"start":"22:00","end":"22:00"}}"#), "quiet_hours: begin and end");
    doubt(answer::<Template>(r#"{"channels":{}}"#), "channels: there are no texts");
    doubt(answer::<Template>(r#"{"channels":{"sms":{"ko":{"body":"a"}}}}"#), "channels.sms: has no `default`");
    let html = r#"{"channels":{"sms":{"default":{"html":"a"}}},"variants":{"b":{"weight":0}}}"#;
    doubt(answer::<Template>(html), "channels.sms.default: says nothing");
    doubt(answer::<Template>(html), "variants: every weight is zero");
    doubt(answer::<Category>(r#"{"channels":[],"ttl_s":0}"#), "channels: is empty");
    doubt(answer::<Category>(r#"{"channels":[],"ttl_s":0}"#), "ttl_s: is zero");
    doubt(answer::<Suppression>(r#"{"reason":"angry"}"#), "reason: `angry`");
    assert_eq!(answer::<Suppression>(r#"{"reason":"manual"}"#), Ok(Vec::new()));
}

#[test]
fn whatever_spelling_was_written_one_is_read() {
    let json = r#"{"locale":"iw_il","timezone":"asia/calcutta","emails":["Ada@BÜCHER.example","@"],
        "phones":["+1 (555) 201-0199","call me"],
        "devices":[{"id":"a","platform":"ios","token":"00AB"}]}"#;
    let contacts: Contacts = read(json.as_bytes()).unwrap();
    assert_eq!((contacts.locale.as_deref(), contacts.timezone.as_deref()), (Some("he-IL"), Some("Asia/Calcutta")));
    assert_eq!(contacts.emails, ["Ada@xn--bcher-kva.example", "@"], "what has no normal form stays");
    assert_eq!((contacts.phones, &*contacts.devices[0].token), (vec!["+15552010199".into(), "call me".into()], "00ab"));

    let json = r#"{"categories":{"Marketing":{"email":false},"marketing":{"push":false,"email":true},"News":true,"news":false}}"#;
    let preferences: Preferences = read(json.as_bytes()).unwrap();
    let off = |category, channel| preferences.opt_out(category, channel) == Some(Reason::OptedOutCategory);
    assert!(off("marketing", Channel::Email) && off("marketing", Channel::Push) && off("news", Channel::Sms));
    assert!(!off("marketing", Channel::Sms));

    let json = br#"{"channels":{"push":{"iw":{"body":"a"},"default":{"body":"b"}}}}"#;
    let checked = Bucket::of::<Template>().check(json).unwrap();
    assert_eq!(read::<Template>(&checked.json).unwrap(), read::<Template>(json).unwrap());
    assert!(String::from_utf8(checked.json).unwrap().contains(r#""he":"#), "it is stored in its normal form");
}
