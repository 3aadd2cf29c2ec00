//! Every way in which a submission can break the contract, and the words the producer gets.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use chasqui_contract::{Decide, Submitted};
use chasqui_rules::Permissions;
use chasqui_schemas::{Lane, Reason, app::AppRecord, record::Category, submission};
use chasqui_stores::memory::MemoryDirectory;
use common::{decide, decide_by, json, notifications, rejection, stage, submitted};
use futures::FutureExt;
use serde_json::{Value, json as j};

/// The violations of an otherwise good submission with some fields changed; null removes a field.
fn violations(changes: Value) -> Vec<String> {
    let mut value = j!({"category": "order", "recipients": ["ada"], "template": "order"});
    for (name, change) in changes.as_object().unwrap() {
        match change {
            Value::Null => value.as_object_mut().unwrap().remove(name),
            change => value.as_object_mut().unwrap().insert(name.clone(), change.clone()),
        };
    }
    let (reason, violations, _) = rejection(decide(json(&value)));
    assert_eq!(reason, Reason::Invalid);
    violations
}

#[test]
fn every_violation_of_a_thoroughly_bad_submission_is_told() {
    let (reason, violations, request_id) = rejection(decide(json(&j!({
        "id": "42",
        "idempotencyKey": "",
        "catgory": "order",
        "recipients": [
            "", 7, {}, {"user": "ada", "email": "ada@example.com"}, {"emial": "ada@example.com"},
            {"email": "ada@example.com\r\nBcc: all@example.com"}, {"phone": "555 1234"},
            {"email": "bob@example.com", "timezone": "Mars/Olympus", "locale": "pt BR"},
            {"user": 5}, {"user": "eve", "locale": "fr"}, "a\u{0}b"
        ],
        "template": "order", "content": {"title": " ", "text": "hi"},
        "data": [],
        "channels": ["push", "pigeon"],
        "sendAt": "2026-03-02T00:00:00Z", "expiresAt": "2026-03-01T00:00:00Z", "expires_at": "tomorrow",
        "locale": "english please", "collapse_key": "a\nb",
        "metadata": {"n": 1},
        "\u{1b}[31m": true
    }))));
    assert_eq!((reason, request_id), (Reason::Invalid, None));
    insta::assert_snapshot!(violations.join("\n"), @r"
    expires_at: is there twice, also as `expiresAt`
    category: is required
    channels[1]: must be `push` or `sms` or `email` or `in_app`
    content.text: unknown field
    data: must be an object, not a list
    expires_at: must be an RFC 3339 time, such as 2026-01-31T09:00:00Z
    id: must be a UUID, such as 018f4d5e-7b1a-7c3d-9e2f-0123456789ab
    idempotency_key: must not be empty
    metadata.n: must be a text, not a number
    recipients[0]: must not be empty
    recipients[1]: must be a text or an object
    recipients[4].emial: unknown field; did you mean `email`?
    recipients[8].user: must be a text, not a number
    �[31m: unknown field
    catgory: unknown field; did you mean `category`?
    collapse_key: control characters are not allowed
    locale: must be a BCP 47 language tag, such as pt-BR
    submission: give either `template` or `content`, not both
    content: says nothing: give `title`, `body` or `html`
    recipients[2]: give `user`, or an address in `email` or `phone`
    recipients[3]: give either `user` or an address, not both
    recipients[4]: give `user`, or an address in `email` or `phone`
    recipients[5].email: must be an e-mail address, such as ada@example.com
    recipients[6].phone: must be a phone number in E.164 form, such as +15551234567
    recipients[7].locale: must be a BCP 47 language tag, such as pt-BR
    recipients[7].timezone: must be an IANA time zone, such as America/Lima
    recipients[9].locale: only beside an address; a user's own is in `contacts`
    recipients[10]: control characters are not allowed
    ");
}

#[test]
fn each_rule_is_told_by_itself() {
    let long = "x".repeat(256);
    let table = [
        (j!({"category": null}), "category: is required"),
        (j!({"category": ""}), "category: must not be empty"),
        (j!({"category": " "}), "category: must not be blank"),
        (j!({"category": "c".repeat(65)}), "category: is longer than 64 characters"),
        (j!({"category": "a\tb"}), "category: control characters are not allowed"),
        (j!({"category": 5}), "category: must be a text, not a number"),
        (j!({"recipients": null}), "recipients: is required"),
        (j!({"recipients": []}), "recipients: must not be empty"),
        (j!({"recipients": "ada"}), "recipients: must be a list, not a text"),
        (j!({"recipients": ["u".repeat(129)]}), "recipients[0]: is longer than 128 characters"),
        (j!({"recipients": ["  "]}), "recipients[0]: must not be blank"),
        (j!({"recipients": [null]}), "recipients[0]: must be a text or an object"),
        (j!({"recipients": [{"user": "a\u{7f}"}]}), "recipients[0].user: control characters are not allowed"),
        (j!({"recipients": [{"phone": "+15551234567", "timezone": ""}]}), "recipients[0].timezone: must not be empty"),
        (j!({"template": null}), "submission: either `template` or `content` is required"),
        (j!({"content": {"body": "b"}}), "submission: give either `template` or `content`, not both"),
        (j!({"template": null, "content": {}}), "content: says nothing: give `title`, `body` or `html`"),
        (
            j!({"template": null, "content": {"url": "https://example.com"}}),
            "content: says nothing: give `title`, `body` or `html`",
        ),
        (
            j!({"template": null, "channels": ["sms", "push"], "content": {"html": "<p>", "title": " ", "body": null}}),
            "content: has `html` alone, which none of `channels` shows: give `title` or `body`, or ask for `email`",
        ),
        (j!({"template": null, "content": "hi"}), "content: must be an object or absent"),
        (j!({"template": null, "content": {"body": 1}}), "content.body: must be a text, not a number"),
        (
            j!({"template": null, "content": {"body": "b", "html": "x".repeat(submission::MAX_CONTENT_BYTES)}}),
            "content: takes 262145 bytes; at most 262144 are taken",
        ),
        (
            j!({"data": {"x": "x".repeat(submission::MAX_DATA_BYTES)}}),
            "data: takes 65544 bytes as JSON; at most 65536 are taken",
        ),
        (
            j!({"metadata": {"x": "x".repeat(submission::MAX_EXTRA_BYTES)}}),
            "metadata: takes 16392 bytes as JSON; at most 16384 are taken",
        ),
        (
            j!({"overrides": {"inbox": "x".repeat(submission::MAX_EXTRA_BYTES)}}),
            "overrides: takes 16396 bytes as JSON; at most 16384 are taken",
        ),
        (j!({"metadata": {"x": 1}}), "metadata.x: must be a text, not a number"),
        (j!({"channels": []}), "channels: must not be empty"),
        (j!({"channels": ["push", "push", "sms", "email", "in_app"]}), "channels: has more than 4 items"),
        (j!({"channels": ["Push"]}), "channels[0]: must be `push` or `sms` or `email` or `in_app`"),
        (j!({"id": "018f4d5e"}), "id: must be a UUID, such as 018f4d5e-7b1a-7c3d-9e2f-0123456789ab"),
        (j!({"id": "00000000-0000-0000-0000-000000000000"}), "id: must not be the nil UUID"),
        (j!({"idempotency_key": long}), "idempotency_key: is longer than 255 characters"),
        (j!({"transaction_id": long}), "transaction_id: is longer than 255 characters"),
        (j!({"send_at": "2026-03-01"}), "send_at: must be an RFC 3339 time, such as 2026-01-31T09:00:00Z"),
        (j!({"send_at": 1772323200}), "send_at: must be a text, not a number"),
        (
            j!({"send_at": "2026-03-01T00:00:00Z", "expires_at": "2026-03-01T01:00:00+01:00"}),
            "expires_at: must be later than `send_at`",
        ),
        (
            j!({"sendAt": "2026-03-01T00:00:00Z", "send_at": "2026-03-01T00:00:00Z"}),
            "send_at: is there twice, also as `sendAt`",
        ),
        (
            j!({"send_at": "2026-03-01T00:00:00.1234567890Z"}),
            "send_at: has more than nine digits after the second's point: leave out the last ones",
        ),
        (j!({"expires_at": "9999-12-31T23:59:59Z"}), "expires_at: must lie between 1970 and 2262-04-11T23:47:16Z"),
        (j!({"category": "ﷺ".repeat(4)}), "category: is longer than 64 characters"),
        (j!({"locale": "e"}), "locale: must be a BCP 47 language tag, such as pt-BR"),
        (j!({"colapse_key": "k"}), "colapse_key: unknown field; did you mean `collapse_key`?"),
        (j!({"userId": "ada"}), "recipients: is there twice, also as `userId`"),
        (j!({"recipients": [{"user": "ada", "devices": []}]}), "recipients[0].devices: unknown field"),
        (j!({"data": {"sendAt": 1}, "x": 1}), "x: unknown field"),
    ];
    for (changes, expected) in table {
        assert_eq!(violations(changes), [expected]);
    }
}

#[test]
fn only_an_address_that_cannot_break_a_header_is_an_email_address() {
    let longest = format!("{}@example.com", "a".repeat(64));
    for good in ["ada@example.com", "ada.l+tag@mail.example.co", "o'hara@xn--bcher-kva.example", longest.as_str()] {
        let value = j!({"category": "c", "recipients": [{"email": good}], "content": {"body": "b"}});
        assert_eq!(notifications(decide(json(&value))).len(), 1, "{good}");
    }
    let too_long = format!("{}@example.com", "a".repeat(65));
    for bad in [
        "ada",
        "ada@",
        "@example.com",
        "a@b@example.com",
        "ada@example",
        "ada@-example.com",
        "ada@example..com",
        ".ada@example.com",
        "ada.@example.com",
        "a b@example.com",
        "ada@exam ple.com",
        "ada@example.com\n",
        "ada\u{0}@example.com",
        "\"ada\"@example.com",
        "ada@[127.0.0.1]",
        "Ada <ada@example.com>",
        "ada,bob@example.com",
        "ada\u{2028}@example.com",
        too_long.as_str(),
    ] {
        let found = violations(j!({"recipients": [{"email": bad}]}));
        assert_eq!(found, ["recipients[0].email: must be an e-mail address, such as ada@example.com"], "{bad:?}");
    }
}

#[test]
fn only_an_e164_number_is_a_phone_number() {
    for bad in [
        "15551234567",
        "+0555123456",
        "+1 555 123 4567 ext. 8",
        "call me",
        "+999123456",
        "+123456",
        "+1234567890123456",
        "+1555123456a",
        "+15551234567\n",
    ] {
        let found = violations(j!({"recipients": [{"phone": bad}]}));
        assert_eq!(
            found,
            ["recipients[0].phone: must be a phone number in E.164 form, such as +15551234567"],
            "{bad:?}"
        );
    }
}

#[test]
fn a_lane_that_the_app_may_not_use_is_refused() {
    let may = Permissions { lanes: Some(vec![Lane::Bulk, Lane::Normal]), ..Permissions::default() };
    let stage = stage(may, MemoryDirectory::new());
    let id = "018f4d5e-7b1a-7c3d-9e2f-0123456789ab";
    let good = json(&j!({"id": id, "category": "c", "recipients": ["ada"], "template": "t"}));
    assert_eq!(notifications(decide_by(&stage, good.clone())).len(), 1);
    let mut urgent = good.clone();
    urgent.lane = Lane::Critical;
    let (reason, violations, request_id) = rejection(decide_by(&stage, urgent.clone()));
    assert_eq!(reason, Reason::LaneNotAllowed);
    assert_eq!(violations, ["subject: the app `shop` may not publish on the lane `critical`"]);
    assert_eq!(request_id, Some(id.parse().unwrap()));
    urgent.app = "bank".to_owned();
    assert_eq!(notifications(decide_by(&stage, urgent)).len(), 1, "an app that is not listed may use every lane");
}

#[test]
fn unreadable_headers_are_refused_whatever_the_payload_says() {
    let mut message = json(&j!({"category": "c", "recipients": ["ada"], "template": "t"}));
    message.incoming.unreadable_headers = Some("NATS/1.0 503".into());
    let (reason, violations, _) = rejection(decide(message));
    assert_eq!(reason, Reason::UnreadableHeaders);
    assert!(violations.len() == 1 && violations[0].starts_with("headers: "), "{violations:?}");
}

#[test]
fn what_is_no_name_of_an_app_makes_no_subject_and_no_word_of_the_trace() {
    use chasqui_contract::StageInput;
    let mut message = json(&j!({}));
    for odd in ["\u{fffd}".to_owned(), "a".repeat(3_900), String::new()] {
        message.app = odd;
        assert_eq!(message.context().app, chasqui_schemas::subject::NO_APP);
    }
}

#[test]
fn an_app_name_that_is_not_one_token_is_refused() {
    let mut message = json(&j!({"category": "c", "recipients": ["ada"], "template": "t"}));
    message.app = "shop.eu".to_owned();
    assert_eq!(rejection(decide(message)).0, Reason::Invalid);
}

#[test]
fn a_submission_over_the_limit_is_refused_unread() {
    let (reason, violations, request_id) = rejection(decide(submitted(None, vec![b' '; submission::MAX_BYTES + 1])));
    assert_eq!((reason, request_id), (Reason::TooLarge, None));
    assert_eq!(violations, ["submission: 1048577 bytes; at most 1048576 are taken"]);
    let mut largest = br#"{"category":"c","recipients":["ada"],"template":"t"}"#.to_vec();
    largest.resize(submission::MAX_BYTES, b' ');
    assert_eq!(notifications(decide(submitted(None, largest))).len(), 1);
}

#[test]
fn bytes_that_are_no_submission_are_malformed() {
    let cases: [(Option<&str>, &[u8], &str); 17] = [
        (None, b"", "not JSON: EOF while parsing a value at line 1 column 0"),
        (None, b"{\"category\":\n \"or", "not JSON: EOF while parsing a string at line 2 column 4"),
        (None, b"{} {}", "not JSON: trailing characters at line 1 column 4"),
        (None, b"[1]", "must be an object, not a list"),
        (None, b"\"hi\"", "must be an object, not a text"),
        (None, b"{\"a\":\"\xff\"}", "not JSON: invalid unicode code point at line 1 column 7"),
        (None, b"{\"a\":1,\"a\":2}", "not JSON: the field `a` is there twice at line 1 column 13"),
        (None, b"{\"data\":{\"k\":{\"a\":1,\"a\":2}}}", "not JSON: the field `a` is there twice at line 1 column 26"),
        (
            Some("text/plain"),
            b"{}",
            "the Content-Type `text/plain` is not supported; use application/json or application/msgpack",
        ),
        (Some("application/msgpack"), b"", "not MessagePack: it ends in the middle of a value"),
        (Some("application/msgpack"), b"\x80\x80", "not MessagePack: bytes follow the value"),
        (
            Some("application/msgpack"),
            b"\x81\x01\x01",
            "not MessagePack: invalid type: integer `1`, expected a text as the name of a field",
        ),
        (
            Some("application/msgpack"),
            b"\x81\xc4\x01a\x01",
            "not MessagePack: invalid type: byte array, expected a text as the name of a field",
        ),
        (
            Some("application/msgpack"),
            b"\x81\xa1a\xc4\x01b",
            "not MessagePack: binary values are not accepted; send text",
        ),
        (
            Some("application/msgpack"),
            b"\x81\xa1a\xd6\xff\x00\x00\x00\x00",
            "not MessagePack: extension types are not accepted; send times and ids as text",
        ),
        (
            Some("application/msgpack"),
            b"\x81\xa1a\xcb\x7f\xf8\x00\x00\x00\x00\x00\x00",
            "not MessagePack: NaN and infinity are not accepted",
        ),
        (Some("application/x-msgpack"), b"\x81\xa1a\xa1\xff", "not MessagePack: a text is not UTF-8"),
    ];
    for (content_type, bytes, expected) in cases {
        let (reason, violations, _) = rejection(decide(submitted(content_type, bytes.to_vec())));
        assert_eq!(reason, Reason::Malformed);
        assert_eq!(violations, [format!("submission: {expected}")]);
    }
}

#[test]
fn a_rejection_carries_the_submissions_own_id() {
    let id = "018f4d5e-7b1a-7c3d-9e2f-0123456789ab";
    let (_, _, request_id) = rejection(decide(json(&j!({"id": id, "category": 1}))));
    assert_eq!(request_id, Some(id.parse().unwrap()));
}

#[test]
fn a_message_id_is_under_the_rules_of_the_key_that_it_stands_for() {
    let mut message = json(&j!({"category": "c", "recipients": ["ada"], "template": "t"}));
    message.incoming.message_id = Some("x".repeat(256).into());
    let (_, violations, _) = rejection(decide(message.clone()));
    assert_eq!(violations, ["Nats-Msg-Id: longer than 255 characters; give a shorter `idempotency_key`"]);
    let mut own_key = json(&j!({"category": "c", "recipients": ["ada"], "template": "t", "idempotency_key": "k"}));
    own_key.incoming.message_id = message.incoming.message_id;
    assert_eq!(notifications(decide(own_key))[0].request.idempotency_key, "k");
}

#[test]
fn a_time_beyond_all_calendars_is_refused_by_name() {
    for (at, what) in [
        ("2026-05-30T12:00:01Z", "lies more than 90 days ahead (`submissions.max_send_at_days`): send it later"),
        ("2262-04-11T23:47:16Z", "lies more than 90 days ahead (`submissions.max_send_at_days`): send it later"),
        ("2262-04-11T23:47:17Z", "must lie between 1970 and 2262-04-11T23:47:16Z"),
        ("9999-12-30T00:00:00Z", "must lie between 1970 and 2262-04-11T23:47:16Z"),
        ("9999-12-31T23:59:59Z", "must lie between 1970 and 2262-04-11T23:47:16Z"),
        ("0000-01-01T00:00:00Z", "must lie between 1970 and 2262-04-11T23:47:16Z"),
        ("1969-12-31T23:59:59Z", "must lie between 1970 and 2262-04-11T23:47:16Z"),
        ("1772366400", "must be an RFC 3339 time, such as 2026-01-31T09:00:00Z"),
        ("10000-01-01T00:00:00Z", "must be an RFC 3339 time, such as 2026-01-31T09:00:00Z"),
    ] {
        assert_eq!(violations(j!({"send_at": at})), [format!("send_at: {what}")], "{at}");
        if !what.contains("days") {
            assert_eq!(violations(j!({"expires_at": at})), [format!("expires_at: {what}")], "{at}");
        }
    }
    assert_eq!(violations(j!({"send_at": 1_772_366_400})), ["send_at: must be a text, not a number"]);
    let latest = json(&j!({"category": "c", "recipients": ["a"], "template": "t", "send_at": "2026-05-30T12:00:00Z",
                           "expires_at": "2262-04-11T23:47:16Z"}));
    assert_eq!(notifications(decide(latest)).len(), 1);
}

#[test]
fn copies_for_everybody_take_no_more_than_eight_mebibytes() {
    let submit = |recipients: usize, bytes: usize| {
        let users: Vec<_> = (0..recipients).map(|n| format!("u{n}")).collect();
        decide(json(&j!({"category": "c", "recipients": users, "content": {"body": "x".repeat(bytes)}})))
    };
    assert_eq!(notifications(submit(1_000, 8_000)).len(), 1_000);
    assert_eq!(notifications(submit(8, 250_000)).len(), 8);
    let (reason, violations, _) = rejection(submit(1_000, 250_000));
    assert_eq!(reason, Reason::Invalid);
    assert_eq!(
        violations,
        [
            "recipients: 1000 recipients of 250011 bytes of content, data, metadata and overrides are 250011000 together, of \
          8388608 at most: send fewer at a time"
        ]
    );
    let labels: serde_json::Map<String, Value> = (0..100).map(|n| (n.to_string(), "x".repeat(150).into())).collect();
    let users: Vec<_> = (0..1_000).map(|n| format!("u{n}")).collect();
    let value = j!({"category": "c", "recipients": users, "template": "t", "metadata": labels});
    assert_eq!(rejection(decide(json(&value))).0, Reason::Invalid, "metadata is traced for each");
}

#[test]
fn a_link_that_would_run_or_read_is_refused() {
    for bad in ["javascript:alert(1)", "data:text/html,x", "file:///etc/passwd", "//example.com", "java\tscript:x"] {
        let found = violations(j!({"template": null, "content": {"body": "b", "url": bad}}));
        assert!(found.len() == 1 && found[0].starts_with("content.url: "), "{bad}: {found:?}");
    }
    let good = json(&j!({"category": "c", "recipients": ["a"], "content": {"body": "b", "url": "myshop://orders/7"}}));
    assert_eq!(notifications(decide(good)).len(), 1);
}

/// What becomes of a submission of `shop`, otherwise good, with some fields changed.
fn of_shop(may: Permissions, changes: Value) -> chasqui_contract::Decision {
    let records = MemoryDirectory::new()
        .with("security", Category { mandatory: true, lane: Some(Lane::Critical), ..Category::default() })
        .with("chat", Category { lane: Some(Lane::High), ..Category::default() });
    let mut value = j!({"category": "order", "recipients": ["ada"], "template": "order"});
    value.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
    decide_by(&stage(may, records), json(&value))
}

#[test]
fn an_app_uses_no_category_that_is_not_its_own() {
    let by_default = Permissions::default;
    assert_eq!(notifications(of_shop(by_default(), j!({"category": "chat"}))).len(), 1);
    let (reason, violations, _) = rejection(of_shop(by_default(), j!({"category": "security"})));
    assert_eq!(reason, Reason::CategoryNotAllowed);
    assert_eq!(
        violations,
        ["category: the category `security` is mandatory, and the app's `categories` do not name it"]
    );
    let listed = || Permissions { categories: Some(vec!["security".into()]), ..Permissions::default() };
    assert_eq!(notifications(of_shop(listed(), j!({"category": "security"}))).len(), 1);
    assert_eq!(rejection(of_shop(listed(), j!({"category": "chat"}))).0, Reason::CategoryNotAllowed);
    let bulk = Permissions { lanes: Some(vec![Lane::Normal, Lane::Bulk]), ..Permissions::default() };
    assert_eq!(rejection(of_shop(bulk, j!({"category": "chat"}))).0, Reason::CategoryNotAllowed);
    let mut other = json(&j!({"category": "security", "recipients": ["ada"], "template": "t"}));
    other.app = "newsletter".to_owned();
    let records = MemoryDirectory::new().with("security", Category { mandatory: true, ..Category::default() });
    assert_eq!(rejection(decide_by(&stage(listed(), records), other)).0, Reason::CategoryNotAllowed);
}

#[test]
fn an_app_that_may_name_only_users_names_no_address() {
    let users_only = || Permissions { inline: false, ..Permissions::default() };
    let recipients =
        j!({"recipients": ["ada", {"user": "bob"}, {"email": "ada@example.com"}, {"phone": "+15551234567"}]});
    let (reason, violations, _) = rejection(of_shop(users_only(), recipients));
    assert_eq!(reason, Reason::InlineNotAllowed);
    assert_eq!(
        violations,
        [
            "recipients[2]: the app may not name addresses, only users",
            "recipients[3]: the app may not name addresses, only users"
        ]
    );
    assert_eq!(notifications(of_shop(users_only(), j!({"recipients": ["ada", {"user": "bob"}]}))).len(), 2);
}

#[test]
fn overrides_go_as_far_as_the_app_may() {
    let bypass = j!({"overrides": {"mail": {"from": {"email": "ceo@shop.example"}, "reply_to": "eve@evil.example",
        "mail_settings": {"bypass_list_management": {"enable": true}}}}});
    let all = Permissions { overrides: Some(vec!["mail".into()]), ..Permissions::default() };
    for may in [Permissions::default(), all.clone()] {
        let (reason, violations, _) = rejection(of_shop(may, bypass.clone()));
        assert_eq!(reason, Reason::SenderNotAllowed);
        assert_eq!(
            violations,
            [
                "overrides.mail.from: not one of the app's own `senders`",
                "overrides.mail.mail_settings.bypass_list_management: no app may set it",
                "overrides.mail.reply_to: not one of the app's own `senders`",
            ]
        );
    }
    let template = j!({"overrides": {"mail": {"template_id": "d-1"}, "inbox": {"badge": 1}}});
    assert_eq!(rejection(of_shop(Permissions::default(), template.clone())).0, Reason::OverrideNotAllowed);
    let named =
        Permissions { overrides: Some(vec!["mail.template_id".into(), "inbox".into()]), ..Permissions::default() };
    assert_eq!(notifications(of_shop(named, template)).len(), 1);
    let sender = Permissions { senders: vec!["@shop.example".into()], ..Permissions::default() };
    assert_eq!(
        notifications(of_shop(sender, j!({"overrides": {"mail": {"from": "CEO <ceo@shop.example>"}}}))).len(),
        1
    );
    let script = of_shop(Permissions::default(), j!({"overrides": {"inbox": {"url": "javascript:alert(1)"}}}));
    assert_eq!(rejection(script).0, Reason::Invalid);
}

#[test]
fn a_broken_contract_and_what_is_not_allowed_are_told_together() {
    let (reason, violations, _) = rejection(of_shop(
        Permissions { inline: false, ..Permissions::default() },
        j!({"colour": "red", "recipients": [{"email": "ada@example.com"}]}),
    ));
    assert_eq!((reason, violations.len()), (Reason::Invalid, 2));
}

#[test]
fn an_app_in_the_bucket_may_what_its_record_says_where_the_settings_are_silent() {
    let bulk = AppRecord {
        may: Some(Permissions { lanes: Some(vec![Lane::Bulk]), ..Permissions::default() }),
        ..AppRecord::default()
    };
    let records = MemoryDirectory::new().with("crm", bulk.clone()).with("shop", bulk);
    let stage = stage(Permissions::default(), records.with_bad_record::<AppRecord>("bad"));
    let of = |app: &str| {
        let good = json(&j!({"category": "c", "recipients": ["ada"], "template": "t"}));
        Submitted { app: app.to_owned(), ..good }
    };
    assert_eq!(rejection(decide_by(&stage, of("crm"))).0, Reason::LaneNotAllowed);
    assert_eq!(notifications(decide_by(&stage, of("shop"))).len(), 1, "the settings list it");
    assert_eq!(notifications(decide_by(&stage, of("other"))).len(), 1);
    let answer = stage.decide(of("bad")).now_or_never().unwrap();
    assert!(answer.is_err(), "a record that cannot be read allows nothing");
}
