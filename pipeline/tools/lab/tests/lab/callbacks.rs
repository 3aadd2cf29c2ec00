//! What vendors report later: signed as their documentation says, late, twice and in any order.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use chasqui_lab::{Behaviour, Callback, Lab, Posted, Reporting, Rule, Script, Vendor, When};
use ring::{hmac, signature};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

use crate::client::*;

fn header<'a>(callback: &'a Callback, name: &str) -> &'a str {
    &callback.headers.iter().find(|(header, _)| *header == name).unwrap().1
}

fn form(callback: &Callback) -> BTreeMap<String, String> {
    url::form_urlencoded::parse(&callback.body).into_owned().collect()
}

fn json(callback: &Callback) -> Value {
    serde_json::from_slice(&callback.body).unwrap()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[tokio::test]
async fn twilios_callbacks_are_signed_over_address_and_fields() {
    let lab = Lab::start(Script::default()).await.unwrap();
    twilio(&lab, "+4917100000001").answer().await;
    twilio(&lab, "+15550000006").answer().await;
    let callbacks = lab.callbacks(Vendor::Twilio);
    let statuses: Vec<String> = callbacks.iter().map(|callback| form(callback)["MessageStatus"].clone()).collect();
    assert_eq!(statuses, ["sent", "delivered", "sent", "undelivered"]);
    assert_eq!(form(&callbacks[3])["ErrorCode"], "30003");
    assert_eq!(form(&callbacks[0])["MessageSid"], lab.ledger().accepted(Vendor::Twilio)[0].message_id);
    for callback in &callbacks {
        assert_eq!(callback.path.as_deref(), Some("/hooks/twilio?delivery_id=0196a1b2-0000-7000-8000-000000000001"));
        let signed: String = form(callback).into_iter().fold(TWILIO_CALLBACK.into(), |all, (k, v)| all + &k + &v);
        let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, lab.accounts().twilio_auth_token.as_bytes());
        let signature = BASE64_STANDARD.decode(header(callback, "x-twilio-signature")).unwrap();
        hmac::verify(&key, signed.as_bytes(), &signature).unwrap();
    }
}

#[tokio::test]
async fn vonages_receipts_carry_a_signature_of_their_fields() {
    let lab = Lab::start(Script::default()).await.unwrap();
    vonage(&lab, "4917100000001").answer().await;
    let callbacks = lab.callbacks(Vendor::Vonage);
    let statuses: Vec<Value> = callbacks.iter().map(|callback| json(callback)["status"].clone()).collect();
    assert_eq!(statuses, ["buffered", "delivered"]);
    for callback in &callbacks {
        let mut fields: BTreeMap<String, String> = serde_json::from_slice(&callback.body).unwrap();
        assert_eq!(fields["client-ref"], DELIVERY);
        let signature = fields.remove("sig").unwrap();
        let signed: String = fields.iter().map(|(key, value)| format!("&{key}={value}")).collect();
        let key = hmac::Key::new(hmac::HMAC_SHA256, lab.accounts().vonage_signature_secret.as_bytes());
        assert_eq!(signature.to_lowercase(), hex(hmac::sign(&key, signed.as_bytes()).as_ref()));
    }
}

#[tokio::test]
async fn sendgrids_events_come_in_arrays_signed_with_its_key() {
    let lab = Lab::start(Script::default()).await.unwrap();
    for to in ["ada@example.com", "bounces@example.com", "opens@example.com"] {
        sendgrid(&lab, to).answer().await;
    }
    let callbacks = lab.callbacks(Vendor::SendGrid);
    assert_eq!(callbacks.len(), 1, "many events are one request");
    let events = json(&callbacks[0]);
    let names: Vec<&str> = events.as_array().unwrap().iter().map(|event| event["event"].as_str().unwrap()).collect();
    assert_eq!(names, ["processed", "delivered", "processed", "bounce", "processed", "delivered", "open", "click"]);
    assert_eq!((&events[3]["type"], &events[3]["email"]), (&"bounce".into(), &"bounces@example.com".into()));
    assert!(
        events
            .as_array()
            .unwrap()
            .iter()
            .all(|event| event["delivery_id"] == DELIVERY && event["smtp-id"] == "<1@example.com>")
    );
    let ids: std::collections::BTreeSet<&str> =
        events.as_array().unwrap().iter().map(|event| event["sg_event_id"].as_str().unwrap()).collect();
    assert_eq!(ids.len(), 8);

    let der = BASE64_STANDARD.decode(&lab.accounts().sendgrid_webhook_public_key).unwrap();
    let key = signature::UnparsedPublicKey::new(&signature::ECDSA_P256_SHA256_ASN1, &der[der.len() - 65..]);
    let timestamp = header(&callbacks[0], "x-twilio-email-event-webhook-timestamp");
    let signature = BASE64_STANDARD.decode(header(&callbacks[0], "x-twilio-email-event-webhook-signature")).unwrap();
    let signed = [timestamp.as_bytes(), &callbacks[0].body].concat();
    key.verify(&signed, &signature).unwrap();
    assert!(callbacks[0].body.ends_with(b"\r\n"), "the last line break is signed");
    key.verify(signed.strip_suffix(b"\r\n").unwrap(), &signature).unwrap_err();
}

#[tokio::test]
async fn mailguns_events_have_their_signature_in_the_body() {
    let code = Behaviour::Undelivered(Some("552".into()));
    let when = When { recipient: Some("bob@example.com".into()), ..When::default() };
    let script = Script { rules: vec![Rule { vendor: Vendor::Mailgun, when, then: code }], ..Script::default() };
    let lab = Lab::start(script).await.unwrap();
    for to in ["ada@example.com", "bob@example.com"] {
        mailgun(&lab, to).answer().await;
    }
    let callbacks = lab.callbacks(Vendor::Mailgun);
    let events: Vec<Value> = callbacks.iter().map(|callback| json(callback)["event-data"].clone()).collect();
    let names: Vec<&str> = events.iter().map(|event| event["event"].as_str().unwrap()).collect();
    assert_eq!(names, ["accepted", "delivered", "accepted", "failed"]);
    assert_eq!((&events[3]["severity"], &events[3]["delivery-status"]["code"]), (&"permanent".into(), &552.into()));
    assert_eq!(events[1]["user-variables"]["delivery_id"], DELIVERY);
    assert_eq!(events[1]["message"]["headers"]["message-id"], "1@example.com");
    let mut tokens = Vec::new();
    for callback in &callbacks {
        let signature = &json(callback)["signature"];
        let part = |name: &str| signature[name].as_str().unwrap().to_owned();
        let key = hmac::Key::new(hmac::HMAC_SHA256, lab.accounts().mailgun_signing_key.as_bytes());
        let tag = hmac::sign(&key, format!("{}{}", part("timestamp"), part("token")).as_bytes());
        assert_eq!(part("signature"), hex(tag.as_ref()));
        assert_eq!(part("token").len(), 50);
        tokens.push(part("token"));
    }
    tokens.sort();
    tokens.dedup();
    assert_eq!(tokens.len(), 4, "the mails have the same Message-Id, and their events other tokens");
}

#[tokio::test]
async fn reports_are_reordered_and_repeated_by_the_seed() {
    let callbacks = Reporting { delay: Duration::ZERO..Duration::from_secs(60), repeated: 0.5 };
    let statuses = |seed: u64, callbacks: Reporting| async move {
        let lab = Lab::start(Script { seed, callbacks, ..Script::default() }).await.unwrap();
        for n in 0..20 {
            twilio(&lab, &format!("+491710000{n:03}")).answer().await;
        }
        let callbacks = lab.callbacks(Vendor::Twilio);
        callbacks.iter().map(|c| (form(c)["To"].clone(), form(c)["MessageStatus"].clone())).collect::<Vec<_>>()
    };
    let first = statuses(3, callbacks.clone()).await;
    assert!((50..75).contains(&first.len()), "{} of 40, half of them twice", first.len());
    let place = |to: &str, status: &str| first.iter().position(|(t, s)| t == to && s == status).unwrap();
    let early = (0..20).map(|n| format!("+491710000{n:03}")).filter(|to| place(to, "delivered") < place(to, "sent"));
    assert!((3..17).contains(&early.count()), "about half are delivered before they are sent");
}

/// A server that says 503 to the first request and 204 to the others, and keeps them all.
async fn receiver() -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let requests: Arc<Mutex<Vec<String>>> = Arc::default();
    let kept = Arc::clone(&requests);
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let kept = Arc::clone(&kept);
            tokio::spawn(async move {
                let mut text = Vec::new();
                loop {
                    let mut buffer = [0; 16 * 1024];
                    let read = stream.read(&mut buffer).await.unwrap();
                    text.extend_from_slice(&buffer[..read]);
                    let request = String::from_utf8(text.clone()).unwrap();
                    let Some((head, body)) = request.split_once("\r\n\r\n") else { continue };
                    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
                    if body.len() == length.parse::<usize>().unwrap() {
                        break;
                    }
                }
                let first = {
                    let mut kept = kept.lock().unwrap();
                    kept.push(String::from_utf8(text).unwrap());
                    kept.len() == 1
                };
                let status = if first { "503 Service Unavailable" } else { "204 No Content" };
                let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
                stream.write_all(answer.as_bytes()).await.unwrap();
            });
        }
    });
    (url, requests)
}

#[tokio::test]
async fn callbacks_are_posted_to_the_place_given_and_tried_again() {
    let mut lab = Lab::start(Script::default()).await.unwrap();
    twilio(&lab, "+4917100000001").answer().await;
    let (url, requests) = receiver().await;
    lab.callbacks_to(format!("{url}/callbacks/{{vendor}}"));
    mailgun(&lab, "ada@example.com").answer().await;
    let deadline = Instant::now() + PATIENCE;
    let wanted = Posted { taken: 4, ..Posted::default() };
    while lab.posted() != wanted {
        assert!(Instant::now() < deadline, "{:?}", lab.posted());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let requests = requests.lock().unwrap();
    assert_eq!(requests.len(), 5, "one was refused at first");
    let to = |line: &str| requests.iter().filter(|request| request.starts_with(line)).count();
    assert!(to("POST /hooks/twilio?delivery_id=0196a1b2-0000-7000-8000-000000000001 HTTP/1.1") >= 2);
    assert!(to("POST /callbacks/mailgun HTTP/1.1") >= 2);
}
