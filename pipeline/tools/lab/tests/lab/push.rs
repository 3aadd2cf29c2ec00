//! APNs, FCM and Web Push.

use chasqui_lab::{Behaviour, Fault, Lab, Rule, Script, Vendor, When};
use serde_json::{Value, json};

use crate::client::*;

#[tokio::test]
async fn apns_takes_a_right_notification_and_echoes_its_id() {
    let lab = Lab::start(Script::default()).await.unwrap();
    let answer = apns(&lab).answer().await;
    assert_eq!((answer.status, answer.text.as_str()), (200, ""));
    assert_eq!(answer.header("apns-id"), "123e4567-e89b-12d3-a456-4266554400a0");
    let made = apns(&lab).without("apns-id").answer().await;
    assert_eq!(made.header("apns-id").len(), 36, "{made:?}");
    let silent = json!({ "aps": { "content-available": 1 } }).to_string();
    let background = apns(&lab).set("apns-push-type", "background").set("apns-priority", "5").body(silent);
    assert_eq!(background.answer().await.status, 200);
    let accepted = lab.ledger().accepted(Vendor::Apns);
    assert_eq!((accepted[0].recipient.as_str(), accepted[0].delivery_id.as_str()), (DEVICE, DELIVERY));
    assert_eq!(accepted[2].delivery_id, accepted[2].message_id, "without one, the apns-id is the delivery's");
    assert!(lab.ledger().wrong().is_empty());
}

#[tokio::test]
async fn apns_refuses_each_wrong_notification_with_its_reason() {
    let lab = Lab::start(Script::default()).await.unwrap();
    let other = Lab::start(Script::default()).await.unwrap();
    let accounts = lab.accounts();
    let (key, team) = (accounts.apns_key_id.as_str(), accounts.apns_team_id.as_str());
    let token =
        |key: &str, team: &str, issued| apns(&lab).set("authorization", apns_token(accounts, key, team, issued));
    let foreign = apns_token(other.accounts(), key, team, now());
    let large = json!({ "aps": { "alert": "x".repeat(4096) } }).to_string();
    let cases = vec![
        ("GET", apns(&lab).method(reqwest::Method::GET), 405, "MethodNotAllowed"),
        ("path", apns(&lab).at("/3/", "/4/"), 404, "BadPath"),
        ("no token", apns(&lab).without("authorization"), 403, "MissingProviderToken"),
        ("another's key", apns(&lab).set("authorization", foreign), 403, "InvalidProviderToken"),
        ("no JWT", apns(&lab).set("authorization", "bearer x.y"), 403, "InvalidProviderToken"),
        ("key id", token("OTHERKEY01", team, now()), 403, "InvalidProviderToken"),
        ("team", token(key, "OTHERTEAM1", now()), 403, "InvalidProviderToken"),
        ("old token", token(key, team, now() - 3601), 403, "ExpiredProviderToken"),
        ("future token", token(key, team, now() + 600), 403, "InvalidProviderToken"),
        ("no device", apns(&lab).at(DEVICE, ""), 400, "MissingDeviceToken"),
        ("short device", apns(&lab).at(DEVICE, "00fc"), 400, "BadDeviceToken"),
        ("device", apns(&lab).at(&DEVICE[..2], "zz"), 400, "BadDeviceToken"),
        ("no topic", apns(&lab).without("apns-topic"), 400, "MissingTopic"),
        ("topic", apns(&lab).set("apns-topic", "com.example.other"), 400, "TopicDisallowed"),
        ("twice", apns(&lab).add("apns-topic", "com.example.other"), 400, "DuplicateHeaders"),
        ("no type", apns(&lab).without("apns-push-type"), 400, "InvalidPushType"),
        ("type", apns(&lab).set("apns-push-type", "loud"), 400, "InvalidPushType"),
        (
            "loud background",
            apns(&lab).set("apns-push-type", "background").set("apns-priority", "5"),
            400,
            "InvalidPushType",
        ),
        ("background at 10", apns(&lab).set("apns-push-type", "background"), 400, "BadPriority"),
        ("priority", apns(&lab).set("apns-priority", "7"), 400, "BadPriority"),
        ("expiration", apns(&lab).set("apns-expiration", "soon"), 400, "BadExpirationDate"),
        ("id", apns(&lab).set("apns-id", "7"), 400, "BadMessageId"),
        ("collapse id", apns(&lab).set("apns-collapse-id", "x".repeat(65)), 400, "BadCollapseId"),
        ("no payload", apns(&lab).body(""), 400, "PayloadEmpty"),
        ("payload", apns(&lab).body("{}"), 400, "PayloadEmpty"),
        ("size", apns(&lab).body(large), 413, "PayloadTooLarge"),
    ];
    all_refused(&lab, Vendor::Apns, cases).await;
}

#[tokio::test]
async fn apns_speaks_no_http_1_and_wants_tokens_reused() {
    let lab = Lab::start(Script::default()).await.unwrap();
    let old = apns(&lab).via(http1());
    assert!(old.send().await.is_err());
    let accounts = lab.accounts();
    let mut last = String::new();
    for second in 0..40 {
        let token = apns_token(accounts, &accounts.apns_key_id, &accounts.apns_team_id, now() - second);
        last = apns(&lab).set("authorization", token).answer().await.text;
    }
    assert_eq!(last, r#"{"reason":"TooManyProviderTokenUpdates"}"#);
}

#[tokio::test]
async fn apns_says_since_when_a_token_is_dead() {
    let dead = Fault { timestamp_ms: Some(1_700_000_000_000), ..Fault::code("Unregistered") };
    let rule = Rule { vendor: Vendor::Apns, when: When::default(), then: Behaviour::Fault(dead) };
    let lab = Lab::start(Script { rules: vec![rule], ..Script::default() }).await.unwrap();
    let answer = apns(&lab).answer().await;
    assert_eq!(answer.status, 410);
    assert_eq!(answer.json(), json!({ "reason": "Unregistered", "timestamp": 1_700_000_000_000_u64 }));
    assert!(lab.ledger().wrong().is_empty(), "the request was right");
}

#[tokio::test]
async fn google_gives_tokens_for_right_assertions_only() {
    let lab = Lab::start(Script::default()).await.unwrap();
    let with = |name: &'static str, value: Value| oauth(&lab, &assertion(&lab, |claims| claims[name] = value));
    let right = assertion(&lab, |_| {});
    // Another letter than the one that stands there: one signature in 64 has an `A` already.
    let (before, after) = (&right[..right.len() - 9], &right[right.len() - 8..]);
    let other = if right.as_bytes()[right.len() - 9] == b'A' { 'B' } else { 'A' };
    let spoilt = format!("{before}{other}{after}");
    let cases = vec![
        (
            "grant",
            oauth(&lab, "").form(&[("grant_type", "password"), ("assertion", &right)]),
            400,
            "unsupported_grant_type",
        ),
        ("signature", oauth(&lab, &spoilt), 400, "invalid_grant"),
        ("account", with("iss", json!("nobody@example.com")), 400, "invalid_grant"),
        ("audience", with("aud", json!("https://oauth2.googleapis.com/token")), 400, "invalid_grant"),
        ("long", with("exp", json!(now() + 7200)), 400, "invalid_grant"),
        ("past", with("exp", json!(now() - 1)), 400, "invalid_grant"),
        ("scope", with("scope", json!("https://www.googleapis.com/auth/drive")), 400, "invalid_scope"),
        ("method", oauth(&lab, &right).method(reqwest::Method::GET), 400, "invalid_request"),
    ];
    all_refused(&lab, Vendor::Oauth, cases).await;
    let granted = oauth(&lab, &right).answer().await.json();
    assert_eq!((&granted["token_type"], &granted["expires_in"]), (&json!("Bearer"), &json!(3599)));
}

#[tokio::test]
async fn fcm_takes_a_right_message_until_its_access_token_ends() {
    let lab = Lab::start(Script::default()).await.unwrap();
    let request = fcm(&lab).await;
    let answer = request.answer().await;
    assert_eq!(answer.status, 200);
    let name = answer.json()["name"].as_str().unwrap().to_owned();
    assert!(name.starts_with("projects/chasqui-lab/messages/"), "{name}");
    let accepted = lab.ledger().accepted(Vendor::Fcm);
    assert_eq!((accepted[0].recipient.as_str(), accepted[0].delivery_id.as_str()), ("device-1", DELIVERY));
    assert_eq!(accepted[0].message_id, name);
    lab.revoke_tokens();
    let answer = request.answer().await;
    assert_eq!((answer.status, &answer.json()["error"]["status"]), (401, &json!("UNAUTHENTICATED")));
    let dead = fcm(&lab).await.via(http1()).json(&fcm_message("dead-endpoint"));
    let answer = dead.answer().await;
    assert_eq!(answer.status, 404);
    assert_eq!(answer.json()["error"]["details"][0]["errorCode"], "UNREGISTERED");
}

#[tokio::test]
async fn fcm_refuses_each_wrong_message() {
    let lab = Lab::start(Script::default()).await.unwrap();
    let request = fcm(&lab).await;
    let with = |pointer: &str, value: Value| {
        let mut message = fcm_message("device-1");
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        message.pointer_mut(parent).unwrap()[key] = value;
        request.clone().json(&message)
    };
    let bad = "INVALID_ARGUMENT";
    let cases = vec![
        ("no token", request.clone().without("authorization"), 401, "UNAUTHENTICATED"),
        ("token", request.clone().set("authorization", "Bearer ya29.x"), 401, "UNAUTHENTICATED"),
        ("project", request.clone().at("chasqui-lab", "other"), 403, "PERMISSION_DENIED"),
        ("path", request.clone().at("messages:send", "messages"), 404, "NOT_FOUND"),
        ("no JSON", request.clone().body("{"), 400, bad),
        ("unknown field", with("/message/colour", json!("red")), 400, bad),
        ("unknown inner field", with("/message/android/collapse_key", json!("x")), 400, bad),
        ("type", with("/message/data/n", json!(1)), 400, bad),
        ("enum", with("/message/android/priority", json!("high")), 400, bad),
        ("duration", with("/message/android/ttl", json!(3600)), 400, bad),
        ("long ttl", with("/message/android/ttl", json!("2419201s")), 400, bad),
        ("reserved key", with("/message/data/google.x", json!("1")), 400, bad),
        ("two targets", with("/message/topic", json!("news")), 400, bad),
        ("no target", request.clone().json(&json!({ "message": { "data": {} } })), 400, bad),
        ("size", with("/message/data/x", json!("x".repeat(4096))), 400, bad),
    ];
    all_refused(&lab, Vendor::Fcm, cases).await;
    let answer = with("/message/android/ttl", json!("soon")).answer().await;
    assert_eq!(answer.json()["error"]["details"][0]["fieldViolations"][0]["field"], "message.android.ttl");
}

#[tokio::test]
async fn the_first_requests_are_kept_whole_where_the_script_says_so() {
    let lab = Lab::start(Script { keep: 2, ..Script::default() }).await.unwrap();
    for number in 0..3 {
        apns(&lab).body(format!(r#"{{"aps":{{"badge":{number}}}}}"#)).answer().await;
    }
    let kept = lab.ledger().requests(Vendor::Apns);
    assert_eq!(
        kept.iter().map(|kept| &kept.body[..]).collect::<Vec<_>>(),
        [br#"{"aps":{"badge":0}}"#, br#"{"aps":{"badge":1}}"#]
    );
    assert_eq!((kept[0].method.as_str(), kept[0].path.as_str()), ("POST", format!("/3/device/{DEVICE}").as_str()));
    assert_eq!(kept[0].headers["apns-collapse-id"], "order-7");
    assert!(lab.ledger().requests(Vendor::Fcm).is_empty());
}

#[tokio::test]
async fn a_browser_reads_what_was_encrypted_for_it() {
    let lab = Lab::start(Script::default()).await.unwrap();
    let subscription = lab.subscribe("").unwrap();
    let answer = webpush(&lab, &subscription).answer().await;
    assert_eq!((answer.status, answer.header("ttl")), (201, "3600"));
    let accepted = lab.ledger().accepted(Vendor::WebPush);
    assert_eq!(accepted[0].recipient, subscription["endpoint"].as_str().unwrap());
    assert_eq!(
        (accepted[0].delivery_id.as_str(), accepted[0].message_id.as_str()),
        (DELIVERY, answer.header("location"))
    );
    assert_eq!(
        webpush(&lab, &subscription).without("content-encoding").body("").answer().await.status,
        201,
        "a bare tickle"
    );
    lab.unsubscribe(subscription["endpoint"].as_str().unwrap());
    assert_eq!(webpush(&lab, &subscription).answer().await.status, 410);
    let dead = lab.subscribe("dead-endpoint").unwrap();
    assert_eq!(webpush(&lab, &dead).answer().await.status, 410);
}

#[tokio::test]
async fn a_push_service_refuses_each_wrong_message() {
    let lab = Lab::start(Script::default()).await.unwrap();
    let (subscription, other) = (lab.subscribe("").unwrap(), lab.subscribe("").unwrap());
    let right = webpush(&lab, &subscription);
    let claims = |name: &str, value: Value| {
        let mut claims = vapid_claims(&lab);
        claims[name] = value;
        right.clone().set("authorization", vapid(lab.accounts(), &claims))
    };
    let foreign = Lab::start(Script::default()).await.unwrap();
    let foreign = vapid(foreign.accounts(), &vapid_claims(&lab));
    let endpoint = subscription["endpoint"].as_str().unwrap().strip_prefix(&lab.url(Vendor::WebPush)).unwrap();
    let cases = vec![
        ("nobody", right.clone().at(endpoint, "/push/x"), 404, "404"),
        ("no vapid", right.clone().without("authorization"), 401, "401"),
        ("scheme", right.clone().set("authorization", "Bearer x"), 401, "401"),
        ("another's key", right.clone().set("authorization", foreign), 403, "403"),
        ("audience", claims("aud", json!("https://push.example.net")), 403, "403"),
        ("past", claims("exp", json!(now() - 1)), 403, "403"),
        ("far", claims("exp", json!(now() + 25 * 3600)), 403, "403"),
        ("contact", claims("sub", json!("nobody")), 403, "403"),
        ("no TTL", right.clone().without("ttl"), 400, "400"),
        ("TTL", right.clone().set("ttl", "-1"), 400, "400"),
        ("urgency", right.clone().set("urgency", "urgent"), 400, "400"),
        ("topic", right.clone().set("topic", "x".repeat(33)), 400, "400"),
        ("encoding", right.clone().set("content-encoding", "aesgcm"), 400, "400"),
        ("for another", right.clone().body(encrypt(&other, b"{}")), 400, "400"),
        ("clear", right.clone().body("hello"), 400, "400"),
        ("size", right.clone().body(encrypt(&subscription, &[b'x'; 4000])), 413, "413"),
    ];
    all_refused(&lab, Vendor::WebPush, cases).await;
}
