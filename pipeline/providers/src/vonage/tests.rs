//! Requests against Vonage's own specification, and the client against a server on this machine.

use chasqui_contract::{ManualClock, Outcome};
use chasqui_schemas::{Channel, delivery::Address};
use chasqui_settings::{Secret, SecretSource};
use serde_json::{Value, json};

use super::{signature::Method, *};
use crate::{
    loopback::{Loopback, Seen, Turn},
    payload::{Form, parameter as value},
    testing::{Ask, account, at, delivery_by, delivery_to, overridden, secret, settings},
    vendor_spec::{Spec, decode},
};

const SPEC: &str = include_str!("../../specs/vonage_sms.json");
const SECRET: &str = "abcdef0123456789";

fn spec() -> Spec {
    Spec::new(serde_json::from_str(SPEC).unwrap(), "/components/schemas/NewMessage")
}

fn taken() -> String {
    let part = json!({"to": "491711234567", "message-id": "0A0000000123ABCD1", "status": "0"});
    json!({"message-count": "1", "messages": [part]}).to_string()
}

fn set_up() -> Settings {
    settings(&VENDOR, "api_key = 'abcd1234'\nfrom = 'AcmeInc'\ntimeout_ms = 30_000")
}

fn sms() -> Delivery {
    delivery_by(Channel::Sms)
}

fn saying(text: &str) -> Delivery {
    let mut delivery = sms();
    delivery.content.body = Some(text.into());
    delivery
}

fn vonage(settings: Settings) -> Vonage {
    let (api_secret, _file) = secret(SECRET);
    Vonage::new(&account(&VENDOR), Settings { api_secret, ..settings }, Arc::new(ManualClock::new(at(0)))).unwrap()
}

async fn exchange(settings: Settings, delivery: &Delivery, turn: Turn) -> (Answer, Seen) {
    let server = Loopback::start([turn]).await;
    let answer = vonage(Settings { base_url: server.url.clone(), ..settings }).send(delivery).await;
    (answer, server.only())
}

fn form(delivery: &Delivery) -> Result<Form, Box<Answer>> {
    request::form(delivery, &set_up(), &Credential::Secret(Secret::from(SECRET)), at(0))
}

/// As the gateway reads them.
fn ids(delivery: &Delivery) -> String {
    format!("{}.{}", delivery.notification_id.simple(), delivery.id.simple())
}

#[tokio::test]
async fn a_message_is_one_form_as_the_specification_has_it() {
    let callback = "https://notify.example.com/v1/callbacks/vonage";
    let settings = Settings { callback_url: Some(callback.into()), ..set_up() };
    let delivery = Delivery { expires_at: Some(at(90)), ..sms() };
    let (answer, request) = exchange(settings, &delivery, Turn::say(200, taken())).await;
    assert_eq!((answer.outcome, answer.message_id.as_str()), (Outcome::Accepted, "0A0000000123ABCD1"));

    assert_eq!(request.line, "POST /sms/json");
    assert_eq!(request.header("content-type"), "application/x-www-form-urlencoded");
    spec().check_form(&decode(request.text())).unwrap();
    let expected = [
        ("from", "AcmeInc"),
        ("to", "491711234567"),
        ("client-ref", &ids(&delivery)),
        ("text", "It is on its way."),
        ("callback", callback),
        ("ttl", "90000"),
        ("api_key", "abcd1234"),
        ("api_secret", SECRET),
    ];
    assert_eq!(decode(request.text()), expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
}

#[test]
fn the_checker_refuses_what_vonage_would() {
    let spec = spec();
    spec.check_form(&decode("api_key=abcd1234&from=Acme&to=491711234567&ttl=20000")).unwrap();
    for (broken, what) in [
        ("api_key=abcd1234&from=Acme", "no recipient"),
        ("api_key=abcd1234&to=491711234567", "no sender"),
        ("api_key=abcd&from=Acme&to=491711234567", "a key that is too short"),
        ("api_key=abcd1234&from=Acme&to=4917112345678901", "a number that is too long"),
        ("api_key=abcd1234&from=Acme&to=491711234567&ttl=1000", "a time that is too short"),
        ("api_key=abcd1234&from=Acme&to=491711234567&type=utf8", "a type that does not exist"),
        ("api_key=abcd1234&from=Acme&to=491711234567&client_ref=1", "a parameter that does not exist"),
    ] {
        assert!(spec.check_form(&decode(broken)).is_err(), "{what}");
    }
}

#[tokio::test]
async fn a_signed_request_has_no_secret_in_it() {
    let server = Loopback::start([Turn::say(200, taken())]).await;
    // The specification's longest `sig` is older than the longer hashes.
    let settings = Settings { signature_method: Method::Sha1, base_url: server.url.clone(), ..set_up() };
    let (signature_secret, _file) = secret(SECRET);
    let settings = Settings { signature_secret, ..settings };
    let vonage = Vonage::new(&account(&VENDOR), settings, Arc::new(ManualClock::new(at(0)))).unwrap();
    assert_eq!(vonage.send(&saying("a=b & c")).await.outcome, Outcome::Accepted);

    let seen = server.only();
    let body = seen.text();
    assert!(!body.contains(SECRET));
    let (signature, mut form): (Vec<_>, Vec<_>) = decode(body).into_iter().partition(|(name, _)| name == "sig");
    let sig = Signing::new(Method::Sha1, &Secret::from(SECRET)).sign(&form);
    assert_eq!(signature, [("sig".to_owned(), sig.clone())]);
    assert_eq!(value(&form, "timestamp"), Some(at(0).as_second().to_string().as_str()));
    // The page on signatures has `timestamp`, the specification has not.
    form.retain(|(name, _)| name != "timestamp");
    form.push(("sig".to_owned(), sig));
    spec().check_form(&form).unwrap();
}

#[test]
fn a_text_beyond_the_gsm_alphabet_is_unicode() {
    for text in ["Hi 123", "Größe: 5 € [~]\n", "ΔΦΓ"] {
        assert_eq!(value(&form(&saying(text)).unwrap(), "type"), None, "{text}");
    }
    for text in ["Привет", "…", "👍", "`"] {
        assert_eq!(value(&form(&saying(text)).unwrap(), "type"), Some("unicode"), "{text}");
    }
}

#[test]
fn the_time_to_live_is_what_is_left_within_vonages_limits() {
    for (left, expected) in [(-5, "20000"), (1, "20000"), (90, "90000"), (9_999_999, "604800000")] {
        let form = form(&Delivery { expires_at: Some(at(left)), ..sms() }).unwrap();
        assert_eq!(value(&form, "ttl"), Some(expected), "{left}");
    }
}

#[test]
fn what_vonage_would_refuse_is_refused_before() {
    assert!(form(&saying(&"ü".repeat(1_600))).is_ok());
    assert_eq!(form(&saying(&"ü".repeat(1_601))).unwrap_err().code, "too_large");
    assert_eq!(form(&saying("")).unwrap_err().code, "empty");
    for number in ["+12345", "+1234567890123456", "+49171x234567"] {
        assert_eq!(form(&delivery_to(Address::Phone(number.into()))).unwrap_err().code, "number", "{number}");
    }
}

#[test]
fn overrides_reach_the_form_but_not_recipient_ids_or_credentials() {
    let over: Value = json!({
        "to": "15005550001", "client-ref": "x", "callback": "https://evil.example/", "api_key": "zzzzzzzz",
        "api_secret": "x", "sig": "x", "timestamp": 1, "from": "Other", "message-class": 0, "type": "unicode",
    });
    let delivery = overridden(sms(), NAME, over);
    let form = form(&delivery).unwrap();
    let ids = ids(&delivery);
    for (name, expected) in [
        ("to", Some("491711234567")),
        ("client-ref", Some(ids.as_str())),
        ("callback", None),
        ("api_key", Some("abcd1234")),
        ("api_secret", Some(SECRET)),
        ("sig", None),
        ("timestamp", None),
        ("from", Some("Other")),
        ("message-class", Some("0")),
        ("type", Some("unicode")),
    ] {
        assert_eq!(value(&form, name), expected, "{name}");
    }
}

#[test]
fn settings_that_cannot_work_are_refused_by_name() {
    let source = || SecretSource { env: Some("CHASQUI_TEST_NO_SUCH_VARIABLE".into()), file: None };
    let valid = || Settings { api_secret: source(), ..set_up() };
    for (settings, key) in [
        (Settings { api_key: "short".into(), ..valid() }, "accounts.vonage.api_key"),
        (set_up(), "accounts.vonage.api_secret: name one"),
        (Settings { from: String::new(), ..valid() }, "accounts.vonage.from"),
        (Settings { callback_url: Some("hooks".into()), ..valid() }, "accounts.vonage.callback_url"),
        (
            Settings { callback_url: Some(format!("https://notify.example.com/{}", "x".repeat(74))), ..valid() },
            "accounts.vonage.callback_url",
        ),
    ] {
        let error =
            Vonage::new(&account(&VENDOR), settings, Arc::new(ManualClock::new(at(0)))).err().unwrap().to_string();
        assert!(error.starts_with(key), "{error}");
    }
    let longest = Settings { callback_url: Some(format!("https://notify.example.com/{}", "x".repeat(73))), ..valid() };
    longest.check(&account(&VENDOR)).unwrap();
}
