//! What holds for every provider that is asked over HTTP, against a server on this machine.

use std::path::Path;

use chasqui_contract::{Answer, ManualClock, Outcome};
use chasqui_schemas::{Channel, Delivery, delivery::Address, record::Platform};
use futures::future::join_all;
use reqwest::Version;
use serde_json::{Value, json};
use tempfile::NamedTempFile;

use super::*;
use crate::{
    loopback::{self, Loopback, Turn},
    testing::{TestInbox, at, delivery_by, delivery_to, secret},
};

/// A provider, and what it needs to be called.
struct Case {
    name: &'static str,
    /// Its settings beside address and limits; `SECRET` is where its credential is, `URL` the server.
    settings: &'static str,
    credential: String,
    /// Whom it serves.
    channel: Channel,
    /// What it is answered before its request goes out.
    before: Vec<Turn>,
    /// How the vendor says yes.
    yes: Turn,
}

fn cases() -> Vec<Case> {
    let vectors: Value = serde_json::from_str(include_str!("../specs/webpush_vectors.json")).unwrap();
    let account = json!({
        "project_id": "shop-1", "private_key_id": "key-1", "private_key": fcm::test_key::pem(),
        "client_email": "push@shop-1.example", "token_uri": "https://oauth2.googleapis.com/token",
    });
    let case = |name, channel, settings, yes| Case {
        name,
        settings,
        credential: "very-secret".into(),
        channel,
        before: vec![],
        yes,
    };
    vec![
        Case {
            credential: rcgen::KeyPair::generate().unwrap().serialize_pem(),
            ..case(
                "apns",
                Channel::Push,
                "key = SECRET\nkey_id = \"K\"\nteam_id = \"T\"\ntopic = \"com.example.shop\"",
                Turn::say(200, ""),
            )
        },
        Case {
            credential: account.to_string(),
            before: vec![Turn::say(200, json!({ "access_token": "t1", "expires_in": 3_600 }).to_string())],
            ..case(
                "fcm",
                Channel::Push,
                "service_account = SECRET\ntoken_uri = \"URL/token\"",
                Turn::say(200, r#"{"name": "projects/shop-1/messages/1"}"#),
            )
        },
        Case {
            // Any key pair will do: RFC 8291 has one.
            credential: vectors["rfc8291"]["as_private"].as_str().unwrap().to_owned(),
            ..case(
                "webpush",
                Channel::Push,
                "private_key = SECRET\nsubject = \"mailto:ops@shop.example\"\nallow_insecure_endpoints = true\n\
                 public_key = \"BP4z9KsN6nGRTbVYI_c7VJSPQTBtkgcy27mlmlMoZIIgDll6e3vCYLocInmYWAmS6TlzAC8wEqKK6PBru3jl7A8\"",
                Turn::say(201, ""),
            )
        },
        case(
            "twilio",
            Channel::Sms,
            "auth_token = SECRET\naccount_sid = \"AC00112233445566778899aabbccddeeff\"\nfrom = \"+15005550006\"",
            Turn::say(201, r#"{"sid": "SM1"}"#),
        ),
        case(
            "vonage",
            Channel::Sms,
            "api_secret = SECRET\napi_key = \"abcd1234\"\nfrom = \"Shop\"",
            Turn::say(200, r#"{"messages": [{"status": "0", "message-id": "1"}]}"#),
        ),
        case("sendgrid", Channel::Email, "api_key = SECRET\nfrom = \"no-reply@shop.example\"", Turn::say(202, "")),
        case(
            "mailgun",
            Channel::Email,
            "api_key = SECRET\ndomain = \"mg.shop.example\"\nfrom = \"no-reply@shop.example\"",
            Turn::say(200, r#"{"id": "<1@mg.shop.example>", "message": "Queued. Thank you."}"#),
        ),
    ]
}

impl Case {
    /// The server's script: `turns`, after what comes before.
    fn script(&self, turns: impl IntoIterator<Item = Turn>) -> impl IntoIterator<Item = Turn> {
        self.before.clone().into_iter().chain(turns)
    }

    /// The provider, asking `url`; `over` is TOML.
    fn try_build(&self, url: &str, over: &str) -> Result<Arc<dyn Provider>, SettingsError> {
        let (_, file) = secret(&self.credential);
        self.build_with(file.path(), url, over)
    }

    fn build_with(&self, credential: &Path, url: &str, over: &str) -> Result<Arc<dyn Provider>, SettingsError> {
        let place = format!("{{ file = {credential:?} }}");
        let settings = self.settings.replace("SECRET", &place).replace("URL", url);
        let base_url = if self.has_base_url() { format!("base_url = {url:?}") } else { String::new() };
        let text = format!("[{0}]\nvendor = \"{0}\"\n{settings}\n{base_url}\n{over}", self.name);
        Ok(senders(&toml::from_str(&text).unwrap(), &ports())?.remove(0))
    }

    async fn send(&self, url: &str, over: &str) -> Answer {
        self.try_build(url, over).unwrap().send(&self.delivery(url)).await
    }

    fn delivery(&self, url: &str) -> Delivery {
        let device = |platform, token| delivery_to(Address::Device { platform, token, registered_at: None });
        match self.name {
            "apns" => device(Platform::Ios, "0a1b".into()),
            "webpush" => device(Platform::Web, subscription(url)),
            _ => delivery_by(self.channel),
        }
    }

    /// The address of Web Push is the browser's.
    fn has_base_url(&self) -> bool {
        self.name != "webpush"
    }
}

fn subscription(url: &str) -> String {
    let p256dh = "BCVxsr7N_eNgVRqvHtD0zTZsEc6-VV-JvLexhqUzORcxaOzi6-AYWXvTBHm4bjyPjs7Vd8pZGH6SRpkNtoIAiw4";
    json!({ "endpoint": url, "keys": { "p256dh": p256dh, "auth": "BTBZMqHH6r4Tts7J_aSIgg" } }).to_string()
}

#[tokio::test]
async fn what_went_out_without_an_answer_is_ambiguous_and_what_did_not_is_not() {
    async fn check(case: &Case) {
        for (turn, timeout_ms) in [(Turn::Cut, 20_000), (Turn::CutBody, 20_000), (Turn::Stall, 4_000)] {
            let server = Loopback::start(case.script([turn.clone()])).await;
            let answer = case.send(&server.url, &format!("timeout_ms = {timeout_ms}")).await;
            assert_eq!(answer.outcome, Outcome::NoAnswer, "{} {turn:?}: {answer:?}", case.name);
            assert_eq!(server.seen().len(), case.before.len() + 1, "{} {turn:?}: one call, one request", case.name);
        }
        let answer = case.send(&loopback::nobody(), "").await;
        assert_eq!(answer.outcome, Outcome::TryLater { after: None }, "{}: {answer:?}", case.name);
    }
    join_all(cases().iter().map(check)).await;
}

#[tokio::test]
async fn calls_share_one_connection_to_a_server_that_our_authority_vouches_for() {
    let ca_file = NamedTempFile::new().unwrap();
    let trust = format!("ca_file = {:?}", ca_file.path());
    for case in cases() {
        let server = Loopback::encrypted(case.script([case.yes.clone(), case.yes.clone()])).await;
        std::fs::write(ca_file.path(), &server.certificate).unwrap();
        let provider = case.try_build(&server.url, &trust).unwrap();
        for _ in 0..2 {
            let answer = provider.send(&case.delivery(&server.url)).await;
            assert_eq!(answer.outcome, Outcome::Accepted, "{}: {answer:?}", case.name);
        }
        assert!(server.seen().iter().all(|seen| seen.version == Version::HTTP_2), "{}", case.name);
        assert_eq!(server.connections(), 1, "{}", case.name);
        let answer = case.send(&server.url, "").await;
        assert_eq!(answer.outcome, Outcome::TryLater { after: None }, "{}: nobody else trusts it", case.name);
    }
}

#[tokio::test]
async fn a_limit_per_second_spends_no_request() {
    for case in cases().iter().filter(|case| defaults_of(case.name).contains_key("per_second")) {
        let server = Loopback::start(case.script((0..20).map(|_| case.yes.clone()))).await;
        let provider = case.try_build(&server.url, "per_second = 1\ntimeout_ms = 1_000").unwrap();
        let delivery = case.delivery(&server.url);
        let answers = join_all((0..20).map(|_| provider.send(&delivery))).await;
        let limited = answers.iter().filter(|answer| matches!(answer.outcome, Outcome::Throttled { .. })).count();
        assert!(limited > 0 && server.seen().len() <= 20 - limited + case.before.len(), "{}: {answers:?}", case.name);
    }
}

#[tokio::test]
async fn a_refusal_of_our_account_is_told_without_the_credential() {
    for case in cases() {
        let server = Loopback::start(case.script([Turn::say(403, "Forbidden")])).await;
        let answer = case.send(&server.url, "").await;
        // One subscription's refusal is no sign that the key is wrong.
        let expected = if case.name == "webpush" { Outcome::Refused } else { Outcome::Misconfigured };
        assert_eq!(answer.outcome, expected, "{}: {answer:?}", case.name);
        assert!(!format!("{answer:?}").contains(&case.credential), "{}", case.name);
    }
}

#[tokio::test]
async fn another_channels_delivery_is_a_configuration_error_and_sends_nothing() {
    let server = Loopback::start([]).await;
    for case in cases() {
        let answer = case.try_build(&server.url, "").unwrap().send(&delivery_by(Channel::InApp)).await;
        assert_eq!(answer.outcome, Outcome::Misconfigured, "{}: {answer:?}", case.name);
    }
    assert!(server.seen().is_empty());
}

#[test]
fn a_provider_serves_its_channel_and_for_push_its_platform() {
    let platforms = [Platform::Ios, Platform::Android, Platform::Web].map(|platform| (Channel::Push, Some(platform)));
    let others = [Channel::Sms, Channel::Email, Channel::InApp].map(|channel| (channel, None));
    for case in cases() {
        let delivery = case.delivery("http://127.0.0.1:9");
        let own = (delivery.channel(), delivery.endpoint.address.platform());
        let provider = case.try_build("http://127.0.0.1:9", "").unwrap();
        let served = platforms.iter().chain(&others).filter(|(channel, platform)| provider.serves(*channel, *platform));
        assert_eq!(served.collect::<Vec<_>>(), [&own], "{}", case.name);
    }
}

#[test]
fn settings_that_cannot_work_are_refused_by_name() {
    for case in cases() {
        let refused = |result: Result<Arc<dyn Provider>, SettingsError>, key: &str| {
            let (error, key) = (result.err().unwrap().to_string(), format!("accounts.{}{key}", case.name));
            assert!(error.starts_with(&key) && !error.contains(&case.credential), "{key}: {error}");
        };
        let url = "https://api.example.com";
        for over in ["timeout_ms = 0", "timeout_ms = 600_001", "concurrency = 0", "concurrency = 10_001"] {
            refused(case.try_build(url, over), ": `timeout_ms` must");
        }
        refused(case.try_build(url, "ca_file = \"/nowhere/at/all\""), ".ca_file: ");
        if case.has_base_url() {
            refused(case.try_build("api.example.com", ""), ".");
        }
        let (key, _) = case.settings.split_once(" = ").unwrap();
        refused(case.build_with(Path::new("/nowhere/at/all"), url, ""), &format!(".{key}.file: "));
    }
}

#[test]
fn a_call_ends_before_its_channel_gives_it_up() {
    let send: toml::Table = include_str!("../../../stages/send/send.toml").parse().unwrap();
    let ms = |table: &toml::Table| table["timeout_ms"].as_integer().unwrap();
    for case in cases() {
        let channel = send["send"][case.channel.as_str()].as_table().unwrap();
        assert!(ms(&defaults_of(case.name)) < ms(channel), "{}: or every slow call is ambiguous", case.name);
    }
}

/// The defaults of a vendor's manual.
fn defaults_of(vendor: &str) -> toml::Table {
    VENDORS.iter().find(|known| known.name == vendor).unwrap().manual.parse().unwrap()
}

pub(crate) fn ports() -> Ports {
    Ports { inbox: Arc::new(TestInbox::default()), clock: Arc::new(ManualClock::new(at(0))), public_url: String::new() }
}

fn opened(text: &str) -> Result<Vec<Arc<dyn Provider>>, SettingsError> {
    senders(&toml::from_str(text).unwrap(), &ports())
}

#[test]
fn the_accounts_that_are_built_in_are_opened() {
    #[derive(serde::Deserialize)]
    struct Whole {
        accounts: Accounts,
    }
    let Whole { accounts } = toml::from_str(DEFAULTS).unwrap();
    let names: Vec<_> = senders(&accounts, &ports()).unwrap().iter().map(|each| each.account().to_owned()).collect();
    assert_eq!(names, ["inbox", "sandbox"]);
    assert!(callbacks(&accounts, "").unwrap().is_empty());
}

#[test]
fn every_example_of_the_manual_can_be_read_once_it_is_uncommented() {
    #[derive(serde::Deserialize)]
    struct Whole {
        accounts: Accounts,
    }
    let uncommented = |line: &str| line.strip_prefix('#').unwrap_or(line).to_owned() + "\n";
    let text: String = manual().lines().map(uncommented).collect();
    let Whole { accounts } = toml::from_str(&text).unwrap_or_else(|error| panic!("{error}\n{text}"));
    assert_eq!(accounts.len(), VENDORS.len());
    for (name, account) in accounts {
        let one = Accounts::from([(name.clone(), account)]);
        // Its files and variables are not here; everything else must fit.
        let missing = |error: SettingsError| {
            let is_missing = [".env", ".file", ".ca_file"].iter().any(|end| error.key.ends_with(end));
            assert!(is_missing, "{name}: {error}");
        };
        senders(&one, &ports()).map_or_else(missing, |_| ());
        callbacks(&one, "https://notify.example.com").map_or_else(missing, |_| ());
    }
}

#[test]
fn one_vendor_may_have_several_accounts() {
    let both = opened("[quiet]\nvendor = 'sandbox'\n[slow-2]\nvendor = 'sandbox'\nlatency_ms = 5").unwrap();
    let names: Vec<_> = both.iter().map(|each| (each.account(), each.vendor())).collect();
    assert_eq!(names, [("quiet", "sandbox"), ("slow-2", "sandbox")]);
}

#[tokio::test]
async fn receipts_that_come_with_the_answer_name_account_and_vendor() {
    let provider = opened("[quiet]\nvendor = 'sandbox'").unwrap().remove(0);
    let answer = provider.send(&delivery_by(Channel::Sms)).await;
    let (_, receipt) = &answer.receipts[0];
    assert_eq!((receipt.provider.as_deref(), receipt.vendor.as_deref()), (Some("quiet"), Some("sandbox")));
}

#[test]
fn an_account_that_cannot_work_is_refused_by_name() {
    let twilio = "[twilio-shop]\nvendor = 'twilio'\nfrom = '+1'\naccount_sid = 'AC00112233445566778899aabbccddeeff'";
    for (text, expected) in [
        ("[x]\nvendor = 'twillio'", "accounts.x.vendor: there is no vendor `twillio`: name one of apns, fcm"),
        ("[sandbox]\nvendor = 'inbox'", "accounts.sandbox.vendor: tests go to this account"),
        ("[Shop]\nvendor = 'sandbox'", "accounts.Shop: the name must be"),
        ("[x]\nvendor = 'sandbox'\nlatency = 5", "accounts.x.latency: unknown field"),
        ("[x]\nvendor = 'sandbox'\nlatency_ms = 'x'", "accounts.x.latency_ms: invalid type"),
        ("[x]\nvendor = 'inbox'\nlatency_ms = 5", "accounts.x.latency_ms: unknown field"),
        (twilio, "accounts.twilio-shop.auth_token: name one of `env` and `file`"),
        (&format!("{twilio}\ntimeout = 5"), "accounts.twilio-shop: unknown field `timeout`"),
        (&format!("{twilio}\napi_key_sid = 5"), "accounts.twilio-shop.api_key_sid: invalid type"),
        ("[x]\nvendor = 'twilio'", "accounts.x.account_sid: must be given"),
    ] {
        let error = opened(text).err().unwrap().to_string();
        assert!(error.starts_with(expected), "{error}");
    }
}

#[test]
fn callbacks_are_opened_without_the_credentials_that_send() {
    let file = NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "secret").unwrap();
    let (place, away) = (format!("{{ file = {:?} }}", file.path()), "{ file = \"/nowhere/at/all\" }");
    let text = format!(
        "[a]\nvendor = 'twilio'\naccount_sid = 'x'\nauth_token = {place}\ncallback_url = 'x'\napi_key_secret = {away}\n\
         [b]\nvendor = 'twilio'\naccount_sid = 'x'\nauth_token = {away}\ncallback_url = ''\n\
         [c]\nvendor = 'mailgun'\ndomain = 'x'\nfrom = 'x'\nsigning_key = {place}\napi_key = {away}\n\
         [d]\nvendor = 'sandbox'"
    );
    let accounts = toml::from_str(&text).unwrap();
    let opened = callbacks(&accounts, "https://notify.example.com").unwrap();
    let found: Vec<_> = opened.iter().map(|each| (each.account.as_str(), each.vendor, each.channel)).collect();
    assert_eq!(found, [("a", "twilio", Channel::Sms), ("c", "mailgun", Channel::Email)], "b asks for no callbacks");
    let error = callbacks(&accounts, "").err().unwrap().to_string();
    assert!(error.starts_with("gateway.public_url: Twilio signs"), "{error}");
}
