//! Requests against Twilio's own specification, and the client against a server on this machine.

use chasqui_contract::{ManualClock, Outcome};
use chasqui_schemas::Channel;
use serde_json::{Value, json};

use super::*;
use crate::{
    loopback::{Loopback, Seen, Turn},
    payload::{Form, parameter as value},
    testing::{Ask, account, at, delivery_by, overridden, secret, settings},
    vendor_spec::{Spec, decode},
};

const SPEC: &str = include_str!("../../specs/twilio_messages.json");
const POST: &str = "/paths/~12010-04-01~1Accounts~1{AccountSid}~1Messages.json/post";
const ACCOUNT: &str = "AC00112233445566778899aabbccddeeff";
const SERVICE: &str = "MG00112233445566778899aabbccddeeff";
const KEY: &str = "SK00112233445566778899aabbccddeeff";
const TOKEN: &str = "not-a-real-token";
const FROM: &str = "+15005550006";

fn spec() -> Spec {
    Spec::new(
        serde_json::from_str(SPEC).unwrap(),
        &format!("{POST}/requestBody/content/application~1x-www-form-urlencoded/schema"),
    )
}

/// The example of an answer in the specification.
fn made() -> String {
    let document: Value = serde_json::from_str(SPEC).unwrap();
    document
        .pointer(&format!("{POST}/responses/201/content/application~1json/examples/create/value"))
        .unwrap()
        .to_string()
}

fn set_up() -> Settings {
    let text = format!("account_sid = '{ACCOUNT}'\nfrom = '{FROM}'\ntimeout_ms = 30_000");
    settings(&VENDOR, &text)
}

fn everything() -> Settings {
    Settings {
        messaging_service_sid: Some(SERVICE.into()),
        callback_url: Some("https://notify.example.com/hooks/twilio?v=1".into()),
        ..set_up()
    }
}

fn sms() -> Delivery {
    delivery_by(Channel::Sms)
}

fn twilio(settings: Settings) -> Twilio {
    let (source, _file) = secret(TOKEN);
    // The credential that the settings ask for, and no other.
    let settings = match settings.api_key_sid {
        Some(_) => Settings { api_key_secret: source, ..settings },
        None => Settings { auth_token: source, ..settings },
    };
    Twilio::new(&account(&VENDOR), settings, Arc::new(ManualClock::new(at(0)))).unwrap()
}

/// What comes of sending `delivery` to a server that takes `turn`, and what the server was asked.
async fn exchange(settings: Settings, delivery: &Delivery, turn: Turn) -> (Answer, Seen) {
    let server = Loopback::start([turn]).await;
    let answer = twilio(Settings { base_url: server.url.clone(), ..settings }).send(delivery).await;
    (answer, server.only())
}

fn form(settings: &Settings, delivery: &Delivery) -> Result<Form, Box<Answer>> {
    request::form(delivery, settings, at(0))
}

#[tokio::test]
async fn a_message_is_one_form_as_the_specification_has_it() {
    let delivery = Delivery { expires_at: Some(at(90)), ..sms() };
    let (answer, request) = exchange(everything(), &delivery, Turn::say(201, made())).await;
    assert_eq!((answer.outcome, answer.code.as_str()), (Outcome::Accepted, "201"));
    assert_eq!(answer.message_id, "SMaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa");

    assert_eq!(request.line, format!("POST /2010-04-01/Accounts/{ACCOUNT}/Messages.json"));
    assert_eq!(request.header("content-type"), "application/x-www-form-urlencoded");
    spec().check_form(&decode(request.text())).unwrap();
    let callback = format!(
        "https://notify.example.com/hooks/twilio?v=1&notification_id={}&delivery_id={}",
        delivery.notification_id, delivery.id
    );
    let expected = [
        ("To", "+491711234567"),
        ("From", FROM),
        ("MessagingServiceSid", SERVICE),
        ("Body", "It is on its way."),
        ("StatusCallback", &callback),
        ("ValidityPeriod", "90"),
    ];
    assert_eq!(decode(request.text()), expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
}

#[test]
fn the_checker_refuses_what_twilio_would() {
    let spec = spec();
    spec.check_form(&decode("To=%2B491711234567&Body=Hi")).unwrap();
    for (broken, what) in [
        ("Body=Hi", "no recipient"),
        ("To=491711234567", "a number without its plus"),
        ("To=%2B491711234567&Text=Hi", "a parameter that does not exist"),
        ("To=%2B491711234567&ValidityPeriod=soon", "a number that is none"),
        ("To=%2B491711234567&MessagingServiceSid=MG1", "an id that is too short"),
        ("To=%2B491711234567&StatusCallback=nowhere", "an address that is none"),
        ("To=%2B491711234567&To=%2B491711234568", "two recipients"),
    ] {
        assert!(spec.check_form(&decode(broken)).is_err(), "{what}");
    }
}

#[tokio::test]
async fn an_account_logs_in_by_its_token_or_by_a_key() {
    // printf "$ACCOUNT:$TOKEN" | base64
    let by_token = "Basic QUMwMDExMjIzMzQ0NTU2Njc3ODg5OWFhYmJjY2RkZWVmZjpub3QtYS1yZWFsLXRva2Vu";
    let by_key = "Basic U0swMDExMjIzMzQ0NTU2Njc3ODg5OWFhYmJjY2RkZWVmZjpub3QtYS1yZWFsLXRva2Vu";
    for (api_key_sid, expected) in [(None, by_token), (Some(KEY.to_owned()), by_key)] {
        let settings = Settings { api_key_sid, ..set_up() };
        let (_, request) = exchange(settings, &sms(), Turn::say(201, made())).await;
        assert_eq!(request.header("authorization"), expected);
        assert!(request.line.contains(ACCOUNT), "the path names the account, whoever logs in");
    }
}

#[test]
fn what_is_not_set_is_not_said() {
    let names: Vec<String> = form(&set_up(), &sms()).unwrap().into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["To", "From", "Body"]);
}

#[test]
fn the_validity_is_what_is_left_within_twilios_limits() {
    for (left, expected) in [(-5, "1"), (0, "1"), (1, "1"), (36_000, "36000"), (99_999, "36000")] {
        let form = form(&set_up(), &Delivery { expires_at: Some(at(left)), ..sms() }).unwrap();
        assert_eq!(value(&form, "ValidityPeriod"), Some(expected), "{left}");
    }
}

#[test]
fn a_text_is_as_long_as_twilio_takes_it() {
    let with = |body: String| {
        let mut delivery = sms();
        delivery.content.body = Some(body);
        form(&set_up(), &delivery)
    };
    assert!(with("ü".repeat(1_600)).is_ok());
    let answer = with("ü".repeat(1_601)).unwrap_err();
    assert_eq!((answer.outcome, answer.code.as_str()), (Outcome::Refused, "too_large"));
    assert_eq!(with(String::new()).unwrap_err().code, "empty");
}

#[test]
fn overrides_reach_the_form_but_not_its_recipient_or_our_ids() {
    let over = json!({
        "To": "+15005550001", "StatusCallback": "https://evil.example/", "MediaUrl": ["https://a.example/1", "https://a.example/2"],
        "SmartEncoded": true, "ContentVariables": {"1": "x"}, "From": null,
    });
    let delivery = overridden(sms(), NAME, over);
    let form = form(&everything(), &delivery).unwrap();
    assert_eq!(value(&form, "To"), Some("+491711234567"));
    assert!(value(&form, "StatusCallback").unwrap().contains(&delivery.id.to_string()));
    assert_eq!(value(&form, "From"), None);
    assert_eq!(value(&form, "ContentVariables"), Some(r#"{"1":"x"}"#));
    assert_eq!(form.iter().filter(|(name, _)| name == "MediaUrl").count(), 2);

    spec().check_form(&form).unwrap();
}

#[test]
fn reports_go_to_the_gateway_unless_the_account_says_otherwise() {
    let (token, _file) = secret(TOKEN);
    let verified = || Settings { auth_token: token.clone(), ..set_up() };
    let own = |url: &str| Settings { callback_url: Some(url.into()), ..verified() };
    let gateway = "https://n.example.com/";
    for (settings, public_url, expected) in [
        (verified(), gateway, Some("https://n.example.com/v1/callbacks/twilio")),
        (own("https://proxy.example.com/t"), gateway, Some("https://proxy.example.com/t")),
        (own(""), gateway, None),
        (verified(), "", None),
        // A report that would be refused for want of a key is not asked for, nor one that anybody could read.
        (set_up(), gateway, None),
        (verified(), "http://n.example.com", None),
    ] {
        let settings = settings.reporting_to(&account(&VENDOR), public_url);
        assert_eq!(settings.callback_url.as_deref(), expected, "{public_url}");
    }
}

#[test]
fn settings_that_cannot_work_are_refused_by_name() {
    for (settings, key) in [
        (Settings { account_sid: "AC1".into(), ..set_up() }, "accounts.twilio.account_sid"),
        (Settings { api_key_sid: Some(ACCOUNT.into()), ..set_up() }, "accounts.twilio.api_key_sid"),
        (Settings { messaging_service_sid: Some("x".into()), ..set_up() }, "accounts.twilio.messaging_service_sid"),
        (Settings { from: None, ..set_up() }, "accounts.twilio: needs a sender"),
        (Settings { callback_url: Some("/hooks".into()), ..set_up() }, "accounts.twilio.callback_url"),
        (Settings { callback_url: Some("https://a_b.example/".into()), ..set_up() }, "accounts.twilio.callback_url"),
    ] {
        let error =
            Twilio::new(&account(&VENDOR), settings, Arc::new(ManualClock::new(at(0)))).err().unwrap().to_string();
        assert!(error.starts_with(key), "{error}");
    }
}
