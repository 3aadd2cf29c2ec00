//! Providers' callbacks through real HTTP: signed here with keys of our own, by the vendors' rules.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use super::support::{Gateway, PUBLIC_URL, config, message, receipts, wait_for};
use base64::{Engine, engine::general_purpose::STANDARD};
use chasqui_schemas::{OptOut, bucket::address_key, receipt::Actor};
use chasqui_testing::servers::Nats;
use jiff::Timestamp;
use reqwest::Response;
use ring::{
    hmac,
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair},
};
use serde_json::{Value, json};

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn opt_out(reason: &str, address: &str) -> Option<OptOut> {
    Some(OptOut::Address { key: address_key(address), reason: reason.to_owned() })
}

/// An account at Twilio, less its auth token.
fn twilio(account: &str) -> String {
    format!(
        "[accounts.{account}]\nvendor = 'twilio'\naccount_sid = 'AC00112233445566778899aabbccddeeff'\nfrom = '+15005550006'\n\
         callback_url = '{PUBLIC_URL}/v1/callbacks/{account}'\n"
    )
}

/// An account at Mailgun, less its credentials.
const MAILGUN: &str = "[accounts.mailgun]\nvendor = 'mailgun'\ndomain = 'mg.example.com'\nfrom = 'a@mg.example.com'\n";

/// A secret in a file of its own, as a setting.
fn secret(dir: &std::path::Path, setting: &str, secret: &str) -> String {
    let file = dir.join(secret);
    std::fs::write(&file, secret).unwrap();
    format!("{setting} = {{ file = '{}' }}\n", file.display())
}

/// Posts a form to a path, signed as Twilio signs by `token`.
async fn post_signed(gateway: &Gateway, token: &str, path: &str, body: &'static str) -> u16 {
    let request =
        gateway.client.post(gateway.here(path)).header("X-Twilio-Signature", sign(token, path, body)).body(body);
    request.send().await.unwrap().status().as_u16()
}

fn sign(token: &str, path: &str, body: &str) -> String {
    let mut parameters: Vec<(String, String)> = form_urlencoded::parse(body.as_bytes()).into_owned().collect();
    parameters.sort();
    let signed = parameters.iter().fold(format!("{PUBLIC_URL}{path}"), |text, (name, value)| text + name + value);
    let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, token.as_bytes());
    STANDARD.encode(hmac::sign(&key, signed.as_bytes()))
}

#[tokio::test]
async fn two_accounts_of_one_vendor_are_believed_by_their_own_tokens() {
    let nats = Nats::with_streams().await;
    let dir = tempfile::tempdir().unwrap();
    let account = |name: &str| twilio(name) + &secret(dir.path(), "auth_token", &format!("token-of-{name}"));
    let gateway = Gateway::start(&nats, &config(dir.path(), &(account("twilio-shop") + &account("twilio-crm")))).await;
    let path = |account: &str| {
        let ids = message(1);
        format!("/v1/callbacks/{account}?notification_id={}&delivery_id={}", ids.notification_id, ids.delivery_id)
    };
    let delivered = "MessageSid=SM1&MessageStatus=delivered&To=%2B15551234567";
    let (shop, crm) = (path("twilio-shop"), path("twilio-crm"));
    assert_eq!(post_signed(&gateway, "token-of-twilio-crm", &shop, delivered).await, 401);
    assert_eq!(post_signed(&gateway, "token-of-twilio-shop", &crm, delivered).await, 401);
    assert_eq!(post_signed(&gateway, "token-of-twilio-shop", &path("twilio"), delivered).await, 404);
    assert_eq!(receipts(&nats).await, []);
    assert_eq!(post_signed(&gateway, "token-of-twilio-shop", &shop, delivered).await, 200);
    assert_eq!(post_signed(&gateway, "token-of-twilio-crm", &crm, delivered).await, 200);
    let receipts = receipts(&nats).await;
    let reporters: Vec<_> =
        receipts.iter().map(|(_, receipt, _)| (receipt.provider.as_deref(), receipt.vendor.as_deref())).collect();
    assert_eq!(reporters, [(Some("twilio-shop"), Some("twilio")), (Some("twilio-crm"), Some("twilio"))]);
    gateway.stop().await;
}

#[tokio::test]
async fn twilio_signs_the_public_address_and_the_form() {
    let nats = Nats::with_streams().await;
    let dir = tempfile::tempdir().unwrap();
    let account = twilio("twilio") + &secret(dir.path(), "auth_token", "auth-token");
    let gateway = Gateway::start(&nats, &config(dir.path(), &account)).await;
    let ids = message(1);
    let path = format!("/v1/callbacks/twilio?notification_id={}&delivery_id={}", ids.notification_id, ids.delivery_id);
    let sign = |path: &str, body: &str| sign("auth-token", path, body);
    let post = async |path: &str, body: &'static str, signature: String| -> Response {
        let request = gateway.client.post(gateway.here(path)).header("X-Twilio-Signature", signature).body(body);
        request.send().await.unwrap()
    };
    let delivered = "MessageSid=SM1&MessageStatus=delivered&To=%2B15551234567";
    let failed = "MessageSid=SM1&MessageStatus=failed&ErrorCode=21610&To=%2B15551234567";
    assert_eq!(post(&path, delivered, sign(&path, failed)).await.status(), 401);
    let elsewhere = "/v1/callbacks/twilio?notification_id=x&delivery_id=y";
    assert_eq!(post(elsewhere, delivered, sign(&path, delivered)).await.status(), 401, "the ids are signed too");
    assert_eq!(gateway.post(&path, delivered).await.status(), 401);
    assert_eq!(post(elsewhere, delivered, sign(elsewhere, delivered)).await.status(), 200, "not ours: politely");
    assert_eq!(receipts(&nats).await, []);

    // In the wrong order and twice.
    for body in [failed, delivered, failed] {
        assert_eq!(post(&path, body, sign(&path, body)).await.status(), 200);
    }
    let receipts = receipts(&nats).await;
    let subjects: Vec<_> = receipts.iter().map(|(subject, ..)| subject.as_str()).collect();
    assert_eq!(subjects, ["notify.receipt.failed.sms", "notify.receipt.delivered.sms"]);
    let (_, receipt, wish) = &receipts[0];
    assert_eq!((receipt.provider.as_deref(), receipt.detail.as_deref()), (Some("twilio"), Some("21610")));
    assert_eq!((receipt.delivery_id, receipt.notification_id), (ids.delivery_id, ids.notification_id));
    let wish: Option<OptOut> = wish.as_deref().map(|text| serde_json::from_str(text).unwrap());
    assert_eq!(wish, opt_out("unsubscribe", "+15551234567"));
    gateway.stop().await;
}

fn sendgrid(public: &str) -> String {
    format!("[accounts.sendgrid]\nvendor = 'sendgrid'\nfrom = 'a@example.com'\nwebhook_public_key = '{public}'")
}

#[tokio::test]
async fn sendgrid_signs_the_bytes_as_they_come() {
    let nats = Nats::with_streams().await;
    let dir = tempfile::tempdir().unwrap();
    let random = SystemRandom::new();
    let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &random).unwrap();
    let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, document.as_ref(), &random).unwrap();
    let prefix = "3059301306072a8648ce3d020106082a8648ce3d030107034200";
    let prefix = (0..prefix.len()).step_by(2).map(|at| u8::from_str_radix(&prefix[at..at + 2], 16).unwrap());
    let public = STANDARD.encode(prefix.chain(key.public_key().as_ref().iter().copied()).collect::<Vec<u8>>());
    let gateway = Gateway::start(&nats, &config(dir.path(), &sendgrid(&public))).await;
    let post = async |signed: &str, sent: &str| -> Response {
        let signature = key.sign(&random, format!("1600112502{signed}").as_bytes()).unwrap();
        let request = gateway.client.post(gateway.here("/v1/callbacks/sendgrid")).body(sent.to_owned());
        let request = request.header("X-Twilio-Email-Event-Webhook-Signature", STANDARD.encode(signature));
        request.header("X-Twilio-Email-Event-Webhook-Timestamp", "1600112502").send().await.unwrap()
    };
    let ids = |n: u128| json!({"notification_id": message(n).notification_id, "delivery_id": message(n).delivery_id});
    let event = |n: u128, fields: Value| {
        let mut event = fields;
        event.as_object_mut().unwrap().extend(ids(n).as_object().unwrap().clone());
        event["email"] = json!("ada@example.com");
        event["timestamp"] = json!(Timestamp::now().as_second());
        event
    };
    let events = json!([
        event(1, json!({"event": "processed"})),
        event(1, json!({"event": "delivered"})),
        event(1, json!({"event": "open", "sg_machine_open": true})),
        {"event": "delivered", "email": "stranger@example.com"},
        {"event": "bounce", "type": "bounce", "status": "5.1.10", "email": "gone@example.com"},
        event(2, json!({"event": "spamreport"})),
        event(1, json!({"event": "delivered"})),
    ]);
    let body = events.to_string() + "\r\n";
    assert_eq!(post(&body, body.trim_end()).await.status(), 401, "the line break is signed");
    assert_eq!(post("x", &body).await.status(), 401);
    assert_eq!(receipts(&nats).await, []);
    assert_eq!(post(&body, &body).await.status(), 200);
    assert_eq!(post("[]\r\n", "[]\r\n").await.status(), 200);
    assert_eq!(post("nonsense", "nonsense").await.status(), 400, "it is not called forged");
    let encoded = gateway.client.post(gateway.here("/v1/callbacks/sendgrid")).header("Content-Encoding", "gzip");
    assert_eq!(encoded.body("x").send().await.unwrap().status(), 415);
    assert_eq!(gateway.post("/v1/callbacks/sendgrid", "x".repeat(1_100_000)).await.status(), 413);
    let receipts = receipts(&nats).await;
    let reported: Vec<_> = receipts.iter().map(|(subject, receipt, _)| (subject.as_str(), receipt.by)).collect();
    assert_eq!(
        reported,
        [
            ("notify.receipt.delivered.email", Actor::Unknown),
            ("notify.receipt.opened.email", Actor::Machine),
            ("notify.receipt.bounced.email", Actor::Unknown),
            ("notify.receipt.complained.email", Actor::Unknown),
        ]
    );
    for (at, reason, address) in [(2, "bounce", "gone@example.com"), (3, "complaint", "ada@example.com")] {
        let wish: Option<OptOut> = receipts[at].2.as_deref().map(|text| serde_json::from_str(text).unwrap());
        assert_eq!(wish, opt_out(reason, address));
    }
    assert!(receipts[2].1.notification_id.is_nil(), "of an address alone");
    gateway.stop().await;
}

/// An event as Mailgun posts it, signed under `token` `age_s` seconds ago.
fn mailgun(age_s: i64, token: &str, event: Value) -> String {
    let at = (Timestamp::now().as_second() - age_s).to_string();
    let key = hmac::Key::new(hmac::HMAC_SHA256, b"signing-key");
    let signature = hex(hmac::sign(&key, format!("{at}{token}").as_bytes()).as_ref());
    json!({"signature": {"timestamp": at, "token": token, "signature": signature}, "event-data": event}).to_string()
}

/// A complaint about the `n`th message, of `recipient`.
fn complained(n: u128, recipient: &str) -> Value {
    let ids = json!({"notification_id": message(n).notification_id, "delivery_id": message(n).delivery_id});
    json!({"event": "complained", "recipient": recipient, "user-variables": ids})
}

async fn post_mailgun(gateway: &Gateway, body: String) -> u16 {
    gateway.post("/v1/callbacks/mailgun", body).await.status().as_u16()
}

#[tokio::test]
async fn a_mailgun_signature_counts_once_whoever_plays_it_and_wherever() {
    let nats = Nats::with_streams().await;
    let dir = tempfile::tempdir().unwrap();
    let account = MAILGUN.to_owned() + &secret(dir.path(), "signing_key", "signing-key");
    let other_dir = tempfile::tempdir().unwrap();
    let gateway = Gateway::start(&nats, &config(dir.path(), &account)).await;
    let other = Gateway::start(&nats, &config(other_dir.path(), &account)).await;
    let signed = mailgun(0, "a", complained(1, "ada@example.com"));
    assert_eq!(post_mailgun(&gateway, signed.replace("\"token\":\"a\"", "\"token\":\"b\"")).await, 401);
    assert_eq!(post_mailgun(&gateway, "{}".into()).await, 400, "not forged: it is not signed");
    assert_eq!(post_mailgun(&gateway, mailgun(0, "e", json!({}))).await, 400, "signed, and no event");
    assert_eq!(post_mailgun(&gateway, mailgun(13 * 3_600, "c", complained(1, "ada@example.com"))).await, 406);

    // One signature, forty events at the same moment, at two processes.
    let bodies: Vec<_> = (1..=40).map(|n| mailgun(0, "d", complained(n, "ada@example.com"))).collect();
    let posts = bodies.iter().enumerate().map(|(n, body)| {
        let gateway = if n % 2 == 0 { &gateway } else { &other };
        post_mailgun(gateway, body.clone())
    });
    let answers = futures::future::join_all(posts).await;
    let taken: Vec<_> = (0..answers.len()).filter(|n| answers[*n] == 200).collect();
    assert_eq!(taken.len(), 1, "{answers:?}");
    assert_eq!(receipts(&nats).await.len(), 1);
    // The same event again, because the answer was lost, is no other event.
    assert_eq!(post_mailgun(&other, bodies[taken[0]].clone()).await, 200);
    other.stop().await;
    gateway.stop().await;
    // Nor does a new process forget.
    let gateway = Gateway::start(&nats, &config(dir.path(), &account)).await;
    assert_eq!(post_mailgun(&gateway, mailgun(0, "d", complained(50, "ada@example.com"))).await, 406);
    gateway.stop().await;
}

#[tokio::test]
async fn a_mailgun_event_counts_only_for_a_delivery_that_proves_itself_and_its_address() {
    let mut nats = Nats::with_streams().await;
    let dir = tempfile::tempdir().unwrap();
    let account = MAILGUN.to_owned() + &secret(dir.path(), "signing_key", "signing-key");
    let gateway = Gateway::start(&nats, &config(dir.path(), &account)).await;
    let mut made_up = complained(1, "victim@example.com");
    made_up["user-variables"]["delivery_id"] = json!(uuid::Uuid::new_v4());
    assert_eq!(post_mailgun(&gateway, mailgun(0, "a", made_up)).await, 200, "not ours: politely");
    let nobodys = json!({"event": "complained", "recipient": "victim@example.com"});
    assert_eq!(post_mailgun(&gateway, mailgun(0, "b", nobodys)).await, 200);
    assert_eq!(receipts(&nats).await, []);
    assert_eq!(post_mailgun(&gateway, mailgun(0, "c", complained(1, "victim@example.com"))).await, 200);
    assert_eq!(post_mailgun(&gateway, mailgun(0, "d", complained(2, "Ada@example.com"))).await, 200);
    let stored = receipts(&nats).await;
    let offs: Vec<_> =
        stored.iter().map(|(.., off)| off.as_deref().map(|text| serde_json::from_str(text).unwrap())).collect();
    assert_eq!(offs, [None, opt_out("complaint", "ada@example.com")], "of the delivery's own address");
    gateway.stop().await;

    // Before the broker has told the secret, or while it is away, it comes again.
    let gateway = Gateway::start_knowing(&nats, &config(dir.path(), &account), None).await;
    assert_eq!(post_mailgun(&gateway, mailgun(0, "e", complained(3, "ada@example.com"))).await, 503);
    gateway.stop().await;
    let gateway = Gateway::start(&nats, &config(dir.path(), &account)).await;
    nats.stop().await;
    let body = mailgun(0, "f", complained(4, "ada@example.com"));
    assert_eq!(post_mailgun(&gateway, body.clone()).await, 503);
    nats.start_again().await;
    let patience = std::time::Instant::now();
    while post_mailgun(&gateway, body.clone()).await != 200 {
        assert!(patience.elapsed().as_secs() < 60, "it is never taken");
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    wait_for(&nats, 3).await;
    gateway.stop().await;
}

#[tokio::test]
async fn vonage_signs_or_knows_a_secret() {
    let nats = Nats::with_streams().await;
    let dir = tempfile::tempdir().unwrap();
    let with = |setting: &str| {
        let account = "[accounts.vonage]\nvendor = 'vonage'\napi_key = 'abcd1234'\nfrom = 'Shop'\n".to_owned();
        config(dir.path(), &(account + &secret(dir.path(), setting, "s3cret")))
    };
    let reference = format!("{}.{}", message(1).notification_id.simple(), message(1).delivery_id.simple());
    let receipt = json!({"status": "delivered", "client-ref": reference, "err-code": "0", "msisdn": "15551234567"});

    let gateway = Gateway::start(&nats, &with("signature_secret")).await;
    let key = hmac::Key::new(hmac::HMAC_SHA256, b"s3cret");
    let parameters = format!("&client-ref={reference}&err-code=0&msisdn=15551234567&status=delivered");
    let mut signed = receipt.clone();
    signed["sig"] = json!(hex(hmac::sign(&key, parameters.as_bytes()).as_ref()));
    assert_eq!(gateway.post("/v1/callbacks/vonage", receipt.to_string()).await.status(), 401);
    assert_eq!(gateway.post("/v1/callbacks/vonage?secret=s3cret", receipt.to_string()).await.status(), 401);
    assert_eq!(gateway.post("/v1/callbacks/vonage", signed.to_string()).await.status(), 200);
    assert_eq!(receipts(&nats).await.len(), 1);
    gateway.stop().await;

    let gateway = Gateway::start(&nats, &with("address_secret")).await;
    let got = format!("/v1/callbacks/vonage?secret=s3cret&status=accepted&client-ref={reference}");
    assert_eq!(gateway.get(&got).await.status(), 200, "by GET, as the account may be set");
    let mut failed = receipt.clone();
    failed["status"] = json!("failed");
    failed["err-code"] = json!("3");
    assert_eq!(gateway.post("/v1/callbacks/vonage?secret=wrong", failed.to_string()).await.status(), 401);
    assert_eq!(gateway.post("/v1/callbacks/vonage?secret=s3cret", failed.to_string()).await.status(), 200);
    let stored = receipts(&nats).await;
    assert_eq!((stored.len(), stored[1].0.as_str()), (2, "notify.receipt.bounced.sms"));
    gateway.stop().await;
}
