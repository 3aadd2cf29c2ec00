//! Whatever comes as a callback, of whichever vendor: signed bodies that were changed, and noise. `PROPTEST_CASES` says how
//! long it looks.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::LazyLock,
    time::Duration,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use chasqui_contract::{AccountCallbacks, Callback, Refusal, SignedRequest};
use chasqui_schemas::hex;
use jiff::Timestamp;
use proptest::{collection::vec, prelude::*, sample::Index};
use ring::{
    hmac,
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair},
};
use tempfile::NamedTempFile;

use crate::{
    Accounts, callbacks,
    testing::{at, processor},
};

const SECRET: &str = "hunter2";
/// Maximum time of the processor to read a body of a mebibyte, without optimisation: what is quadratic takes hours.
const BOUND: Duration = Duration::from_secs(20);
const MIB: usize = 1 << 20;
const IDS: &str = "0198c0c0-0000-7000-8000-000000000000";

/// Opened once, because that takes longer than reading.
static VENDORS: LazyLock<Vendors> = LazyLock::new(Vendors::open);

/// How a request comes: address, headers, body.
type Signed = (String, Vec<(&'static str, String)>, Vec<u8>);

/// The accounts of all vendors that call back, and the key of the one that signs with a private one.
struct Vendors {
    accounts: Vec<AccountCallbacks>,
    key: EcdsaKeyPair,
    random: SystemRandom,
}

impl Vendors {
    fn open() -> Self {
        let random = SystemRandom::new();
        let algorithm = &ECDSA_P256_SHA256_ASN1_SIGNING;
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(algorithm, &random).unwrap();
        let key = EcdsaKeyPair::from_pkcs8(algorithm, pkcs8.as_ref(), &random).unwrap();
        let prefix = hex::decode("3059301306072a8648ce3d020106082a8648ce3d030107034200").unwrap();
        let public = STANDARD.encode([&prefix[..], key.public_key().as_ref()].concat());
        let file = NamedTempFile::new().unwrap();
        std::fs::write(file.path(), SECRET).unwrap();
        let secret = format!("{{ file = '{}' }}", file.path().display());
        let accounts: Accounts = toml::from_str(&format!(
            "[twilio]\nvendor = 'twilio'\naccount_sid = 'AC00112233445566778899aabbccddeeff'\nfrom = '+15005550006'\n\
             auth_token = {secret}\ncallback_url = 'https://n.example.com/v1/callbacks/twilio'\n\
             [vonage]\nvendor = 'vonage'\napi_key = 'k'\napi_secret = {secret}\nfrom = 'Shop'\nsignature_secret = {secret}\n\
             [vonage-by-address]\nvendor = 'vonage'\napi_key = 'k'\napi_secret = {secret}\nfrom = 'Shop'\n\
             address_secret = {secret}\n\
             [sendgrid]\nvendor = 'sendgrid'\nfrom = 'a@b.example'\nwebhook_public_key = '{public}'\n\
             [mailgun]\nvendor = 'mailgun'\nfrom = 'a@b.example'\ndomain = 'b.example'\nsigning_key = {secret}\n"
        ))
        .unwrap();
        let accounts = callbacks(&accounts, "https://n.example.com").unwrap();
        assert_eq!(accounts.len(), 5);
        let vendors = super::VENDORS.iter().filter(|vendor| vendor.callbacks.is_some());
        assert!(vendors.clone().all(|vendor| accounts.iter().any(|account| account.vendor == vendor.name)));
        Vendors { accounts, key, random }
    }

    /// The request in which the account's vendor sends `body`: what it wraps around it, and its signature.
    fn sign(&self, account: &str, body: &[u8]) -> Signed {
        let url = format!("https://n.example.com/v1/callbacks/{account}?notification_id={IDS}&delivery_id={IDS}");
        let key = |algorithm| hmac::Key::new(algorithm, SECRET.as_bytes());
        match account {
            "twilio" => {
                let parameters: BTreeSet<_> = form_urlencoded::parse(body).collect();
                let parameters: String = parameters.iter().flat_map(|(name, value)| [&**name, &**value]).collect();
                let signature =
                    hmac::sign(&key(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY), format!("{url}{parameters}").as_bytes());
                (url, vec![("x-twilio-signature", STANDARD.encode(signature))], body.to_vec())
            }
            "vonage" => {
                let parameters: BTreeMap<_, _> =
                    form_urlencoded::parse(body).filter(|(name, _)| name != "sig").collect();
                let signed: String = parameters
                    .iter()
                    .map(|(name, value)| format!("&{name}={}", value.replace(['&', '='], "_")))
                    .collect();
                let signature = hex::encode(hmac::sign(&key(hmac::HMAC_SHA256), signed.as_bytes()));
                (url, vec![], [body, format!("&sig={signature}").as_bytes()].concat())
            }
            "vonage-by-address" => (format!("{url}&secret={SECRET}"), vec![], body.to_vec()),
            "sendgrid" => {
                let signed = [&b"1600112502"[..], body].concat();
                let signature = STANDARD.encode(self.key.sign(&self.random, &signed).unwrap());
                let headers = vec![
                    ("x-twilio-email-event-webhook-timestamp", "1600112502".to_owned()),
                    ("x-twilio-email-event-webhook-signature", signature),
                ];
                (url, headers, body.to_vec())
            }
            "mailgun" => {
                let seconds = now().as_second().to_string();
                let signature = hex::encode(hmac::sign(&key(hmac::HMAC_SHA256), format!("{seconds}token").as_bytes()));
                let head = format!(
                    r#"{{"signature":{{"timestamp":"{seconds}","token":"token","signature":"{signature}"}},"event-data":"#
                );
                (url, vec![], [head.as_bytes(), body, b"}"].concat())
            }
            other => panic!("nobody knows how {other} signs"),
        }
    }

    /// Reads a request. The same is read twice in the same way.
    fn read(&self, account: &str, (url, headers, body): &Signed) -> Result<Callback, Refusal> {
        let found = self.accounts.iter().find(|each| each.account == account).unwrap();
        let headers: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let request = SignedRequest { url, headers: &headers, body, now: now() };
        found.reader.read(&request)
    }
}

fn now() -> Timestamp {
    at(0)
}

/// What vendors send: an account, and the part of the body that is not a signature.
const GOOD: &[(&str, &str)] = &[
    ("twilio", "MessageSid=SM1&MessageStatus=undelivered&ErrorCode=30005&To=%2B15551234567&From=%2B15005550006"),
    ("twilio", "SmsStatus=delivered&To=%2B15551234567"),
    ("vonage", "status=failed&err-code=3&msisdn=15551234567&client-ref=a.b&message-timestamp=2026-01-01+12%3A00%3A00"),
    (
        "vonage-by-address",
        r#"{"status":"delivered","err-code":"0","msisdn":"15551234567","client-ref":"0198c0c0000070008000000000000000.0198c0c0000070008000000000000000","message-timestamp":"2026-01-01 12:00:00"}"#,
    ),
    ("vonage-by-address", "status=expired&err-code=9&msisdn=15551234567"),
    (
        "sendgrid",
        r#"[{"email":"ada@example.com","event":"bounce","type":"bounce","status":"5.1.1","reason":"550 5.1.1 unknown \ud83d\ude00","timestamp":1600112492,"notification_id":"0198c0c0-0000-7000-8000-000000000000","delivery_id":"0198c0c0-0000-7000-8000-000000000000"},{"event":"open","email":"a@b.c","sg_machine_open":true,"useragent":"Mozilla/5.0"}]"#,
    ),
    (
        "mailgun",
        r#"{"event":"failed","severity":"permanent","reason":"bounce","recipient":"ada@example.com","timestamp":1521243339.87,"delivery-status":{"code":550,"enhanced-code":"5.1.1","message":"unknown user","description":""},"user-variables":{"notification_id":"0198c0c0-0000-7000-8000-000000000000","delivery_id":"0198c0c0-0000-7000-8000-000000000000"}}"#,
    ),
    (
        "mailgun",
        r#"{"event":"opened","client-info":{"bot":"gmail","user-agent":"Mozilla/5.0"},"user-variables":[],"recipient":"a@b.c"}"#,
    ),
];

/// A change of a body.
#[derive(Debug, Clone)]
enum Change {
    Set(Index, u8),
    Insert(Index, Vec<u8>),
    Cut(Index, usize),
    Repeat(Index, usize),
}

fn changes() -> impl Strategy<Value = Vec<Change>> {
    // Those that mean something to a parser more often than others.
    let byte = prop_oneof![any::<u8>(), prop::sample::select(b"\"\\{}[]:,&=%+-.0e\r\n\0\xc3\xff".to_vec())];
    let pieces = [
        &b"\\ud83d"[..],
        b"\\u0000",
        b"null",
        b"{}",
        b"[]",
        b"1e999",
        b"-1",
        b"99999999999999999999",
        b"\"\"",
        b"true",
        b"&MessageStatus=",
        b"&&",
        b"%",
        b"%zz",
        b"\xf0\x9f",
        b"[[[[[[[[",
        b"{\"a\":",
        b",",
        b" 5.1.1 ",
    ];
    let piece = prop::sample::select(pieces.map(<[u8]>::to_vec).to_vec());
    let change = prop_oneof![
        (any::<Index>(), byte).prop_map(|(at, byte)| Change::Set(at, byte)),
        (any::<Index>(), prop_oneof![piece, vec(any::<u8>(), 0..8)]).prop_map(|(at, piece)| Change::Insert(at, piece)),
        (any::<Index>(), 1..40_usize).prop_map(|(at, length)| Change::Cut(at, length)),
        (any::<Index>(), 1..40_usize).prop_map(|(at, length)| Change::Repeat(at, length)),
    ];
    vec(change, 0..6)
}

fn changed(body: &str, changes: &[Change]) -> Vec<u8> {
    let mut body = body.as_bytes().to_vec();
    for change in changes {
        let place = |at: &Index| at.index(body.len() + 1);
        let piece = |from: usize, length: usize| from..body.len().min(from + length);
        match change {
            Change::Set(at, byte) => {
                let at = place(at);
                body.splice(piece(at, 1), [*byte]);
            }
            Change::Insert(at, piece) => {
                let at = place(at);
                body.splice(at..at, piece.iter().copied());
            }
            Change::Cut(at, length) => drop(body.drain(piece(place(at), *length))),
            Change::Repeat(at, length) => {
                let again = body[piece(place(at), *length)].to_vec();
                body.extend(again);
            }
        }
    }
    body
}

/// What may come of a callback: nothing in it is longer than itself, and a refusal has an answer.
fn is_sound(read: Result<Callback, Refusal>, bytes: usize) -> Result<(), TestCaseError> {
    match read {
        Ok(callback) => {
            prop_assert!(callback.events.len() + callback.unreadable <= bytes);
            for event in callback.events {
                prop_assert!(event.address.is_none_or(|fact| !fact.address.trim().is_empty()));
                // What cannot be read is replaced by a character of three bytes.
                prop_assert!(event.detail.is_none_or(|detail| detail.len() <= 3 * bytes));
            }
        }
        Err(refusal) => prop_assert!([400, 401, 406].contains(&refusal.status())),
    }
    Ok(())
}

#[test]
fn what_vendors_send_is_read() {
    let vendors = &*VENDORS;
    for (account, body) in GOOD {
        let read = vendors.read(account, &vendors.sign(account, body.as_bytes())).unwrap();
        assert!(!read.events.is_empty() && read.unreadable == 0, "{account}: {read:?}");
    }
}

proptest! {
    #[test]
    fn noise_of_a_vendor_is_read_or_refused(good in prop::sample::select(GOOD), changes in changes()) {
        let vendors = &*VENDORS;
        let (account, body) = good;
        let signed = vendors.sign(account, &changed(body, &changes));
        let read = vendors.read(account, &signed);
        prop_assert_eq!(&read, &vendors.read(account, &signed));
        is_sound(read, signed.2.len())?;
    }

    #[test]
    fn noise_of_a_stranger_is_refused(
        good in prop::sample::select(GOOD),
        noise in vec(any::<u8>(), 0..300),
        changes in changes(),
        header in "[ -~]{0,100}",
    ) {
        let vendors = &*VENDORS;
        let (account, body) = good;
        let (url, headers, _) = vendors.sign(account, body.as_bytes());
        let url = url.replace(&format!("&secret={SECRET}"), "&secret=hunter3");
        let strange: Vec<_> = headers.iter().map(|(name, _)| (*name, header.clone())).collect();
        for body in [noise.clone(), changed(body, &changes)] {
            prop_assert!(vendors.read(account, &(url.clone(), strange.clone(), body.clone())).is_err());
            prop_assert!(vendors.read(account, &(url.clone(), vec![], body)).is_err());
        }
        // Under a signature of something else.
        if account == "sendgrid" && noise != body.as_bytes() {
            prop_assert!(vendors.read(account, &(url, headers, noise)).is_err());
        }
    }
}

#[test]
fn a_body_of_a_mebibyte_takes_bounded_time() {
    let vendors = &*VENDORS;
    let bodies = [
        "[".repeat(MIB),
        "{\"a\":".repeat(MIB / 5),
        format!("[{}{{}}]", "{},".repeat(MIB / 3 - 2)),
        format!("[\"{}\"]", "\\ud83d".repeat(MIB / 6 - 1)),
        format!("[{{\"event\":\"bounce\",\"reason\":\"{}\"}}]", "5.1.".repeat(MIB / 4 - 10)),
        format!(
            "{{\"event\":\"failed\",\"severity\":\"permanent\",\"delivery-status\":{{\"message\":\"{}\"}}}}",
            "550 5.".repeat(MIB / 6)
        ),
        "9".repeat(MIB),
        "&".repeat(MIB),
        "a=&".repeat(MIB / 3),
        (0..MIB / 9).map(|n| format!("{n:x}=&")).collect(),
        format!("MessageStatus=failed&To={}", "%".repeat(MIB)),
        format!("status=failed&err-code=3&msisdn={}", "+".repeat(MIB)),
        "\\".repeat(MIB),
    ];
    for body in &bodies {
        for account in vendors.accounts.iter().map(|each| each.account.as_str()) {
            let signed = vendors.sign(account, body.as_bytes());
            let began = processor();
            let read = vendors.read(account, &signed);
            let took = processor() - began;
            assert!(took < BOUND, "{account} took {took:?} for {}…: {:?}", &body[..20], read.map(|_| ()));
        }
    }
}
