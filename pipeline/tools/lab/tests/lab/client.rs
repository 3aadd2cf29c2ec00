//! Right requests, to be sent or spoilt.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::{Engine as _, prelude::BASE64_STANDARD, prelude::BASE64_URL_SAFE_NO_PAD};
use chasqui_lab::{Accounts, Lab, Vendor};
use reqwest::{Client, Method, Response};
use ring::{
    aead::{AES_128_GCM, Aad, LessSafeKey, Nonce, UnboundKey},
    agreement::{ECDH_P256, EphemeralPrivateKey, UnparsedPublicKey, agree_ephemeral},
    hkdf,
    rand::{SecureRandom as _, SystemRandom},
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, RSA_PKCS1_SHA256, RsaKeyPair},
};
use serde_json::{Value, json};

/// Far above what is needed, because machines are shared.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
pub(crate) const DEVICE: &str = "00fc13adff785122b4ad28809a3420982341241421348097878e577c991de8f0";
pub(crate) const DELIVERY: &str = "0196a1b2-0000-7000-8000-000000000001";

/// A request as it goes out.
#[derive(Clone)]
pub(crate) struct Request {
    client: Client,
    method: Method,
    url: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

/// A whole answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: reqwest::header::HeaderMap,
    pub(crate) text: String,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|_| panic!("no JSON: {self:?}"))
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

impl Request {
    pub(crate) fn post(client: &Client, url: String) -> Self {
        Request { client: client.clone(), method: Method::POST, url, headers: Vec::new(), body: Vec::new() }
    }

    pub(crate) fn via(mut self, client: Client) -> Self {
        self.client = client;
        self
    }

    pub(crate) fn method(mut self, method: Method) -> Self {
        self.method = method;
        self
    }

    /// Another path, by replacing a part of it; the port may have the same digits.
    pub(crate) fn at(mut self, part: &str, other: &str) -> Self {
        let host = "http://".len();
        let path = self.url.split_off(host + self.url[host..].find('/').unwrap());
        assert!(path.contains(part), "{path}");
        self.url += &path.replace(part, other);
        self
    }

    pub(crate) fn without(mut self, header: &str) -> Self {
        self.headers.retain(|(name, _)| name != header);
        self
    }

    pub(crate) fn set(self, header: &str, value: impl Into<String>) -> Self {
        self.without(header).add(header, value)
    }

    pub(crate) fn add(mut self, header: &str, value: impl Into<String>) -> Self {
        self.headers.push((header.to_owned(), value.into()));
        self
    }

    pub(crate) fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    pub(crate) fn json(self, body: &Value) -> Self {
        self.set("content-type", "application/json").body(body.to_string())
    }

    pub(crate) fn form(self, fields: &[(&str, &str)]) -> Self {
        let body = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish();
        self.set("content-type", "application/x-www-form-urlencoded").body(body)
    }

    pub(crate) fn multipart(self, fields: &[(&str, &str)]) -> Self {
        let mut body = String::new();
        for (name, value) in fields {
            body += &format!("--XX\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n");
        }
        self.set("content-type", "multipart/form-data; boundary=XX").body(body + "--XX--\r\n")
    }

    pub(crate) fn basic(self, user: &str, password: &str) -> Self {
        self.set("authorization", format!("Basic {}", BASE64_STANDARD.encode(format!("{user}:{password}"))))
    }

    /// Sends it; the answer's head.
    pub(crate) async fn start(&self) -> reqwest::Result<Response> {
        let mut request = self.client.request(self.method.clone(), &self.url).body(self.body.clone());
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        request.send().await
    }

    /// Sends it; the whole answer.
    pub(crate) async fn send(&self) -> reqwest::Result<Answer> {
        let response = self.start().await?;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        Ok(Answer { status, headers, text: response.text().await? })
    }

    pub(crate) async fn answer(&self) -> Answer {
        self.send().await.unwrap()
    }
}

fn builder() -> reqwest::ClientBuilder {
    let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    let tls = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let tls = tls.with_root_certificates(rustls::RootCertStore::empty()).with_no_client_auth();
    Client::builder().tls_backend_preconfigured(tls).timeout(PATIENCE).no_proxy()
}

pub(crate) fn http1() -> Client {
    builder().build().unwrap()
}

pub(crate) fn http2() -> Client {
    builder().http2_prior_knowledge().build().unwrap()
}

/// One that does not wait long.
pub(crate) fn hasty() -> Client {
    builder().timeout(Duration::from_millis(500)).build().unwrap()
}

pub(crate) fn now() -> i64 {
    i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()).unwrap()
}

fn encode(value: &Value) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(value.to_string())
}

fn pem(text: &str) -> Vec<u8> {
    BASE64_STANDARD.decode(text.lines().filter(|line| !line.starts_with('-')).collect::<String>()).unwrap()
}

fn es256(pkcs8: &[u8], header: &Value, claims: &Value) -> String {
    let random = SystemRandom::new();
    let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8, &random).unwrap();
    let signed = format!("{}.{}", encode(header), encode(claims));
    let signature = key.sign(&random, signed.as_bytes()).unwrap();
    format!("{signed}.{}", BASE64_URL_SAFE_NO_PAD.encode(signature))
}

// ---- APNs

pub(crate) fn apns_token(accounts: &Accounts, key_id: &str, team_id: &str, issued: i64) -> String {
    let header = json!({ "alg": "ES256", "kid": key_id });
    let claims = json!({ "iss": team_id, "iat": issued });
    format!("bearer {}", es256(&pem(&accounts.apns_key_pem), &header, &claims))
}

pub(crate) fn apns(lab: &Lab) -> Request {
    let accounts = lab.accounts();
    let payload = json!({ "aps": { "alert": { "title": "Hello", "body": "World" } }, "delivery_id": DELIVERY });
    Request::post(&http2(), format!("{}/3/device/{DEVICE}", lab.url(Vendor::Apns)))
        .add("authorization", apns_token(accounts, &accounts.apns_key_id, &accounts.apns_team_id, now()))
        .add("apns-topic", &accounts.apns_topic)
        .add("apns-push-type", "alert")
        .add("apns-priority", "10")
        .add("apns-expiration", "0")
        .add("apns-collapse-id", "order-7")
        .add("apns-id", "123e4567-e89b-12d3-a456-4266554400a0")
        .body(payload.to_string())
}

// ---- FCM

pub(crate) fn assertion(lab: &Lab, change: impl FnOnce(&mut Value)) -> String {
    let mut claims = json!({
        "iss": lab.accounts().fcm_client_email, "scope": "https://www.googleapis.com/auth/firebase.messaging",
        "aud": format!("{}/token", lab.url(Vendor::Oauth)), "iat": now(), "exp": now() + 3600,
    });
    change(&mut claims);
    let key = RsaKeyPair::from_pkcs8(&pem(&lab.accounts().fcm_key_pem)).unwrap();
    let signed = format!("{}.{}", encode(&json!({ "alg": "RS256", "typ": "JWT" })), encode(&claims));
    let mut signature = vec![0; key.public().modulus_len()];
    key.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), signed.as_bytes(), &mut signature).unwrap();
    format!("{signed}.{}", BASE64_URL_SAFE_NO_PAD.encode(signature))
}

pub(crate) fn oauth(lab: &Lab, assertion: &str) -> Request {
    let fields = [("grant_type", "urn:ietf:params:oauth:grant-type:jwt-bearer"), ("assertion", assertion)];
    Request::post(&http1(), format!("{}/token", lab.url(Vendor::Oauth))).form(&fields)
}

pub(crate) fn fcm_message(token: &str) -> Value {
    json!({ "message": {
        "token": token,
        "notification": { "title": "Hello", "body": "World" },
        "data": { "delivery_id": DELIVERY },
        "android": { "priority": "HIGH", "ttl": "3600s", "collapseKey": "order-7" },
    } })
}

pub(crate) async fn fcm(lab: &Lab) -> Request {
    let granted = oauth(lab, &assertion(lab, |_| {})).answer().await.json();
    let project = &lab.accounts().fcm_project_id;
    Request::post(&http2(), format!("{}/v1/projects/{project}/messages:send", lab.url(Vendor::Fcm)))
        .add("authorization", format!("Bearer {}", granted["access_token"].as_str().unwrap()))
        .json(&fcm_message("device-1"))
}

// ---- Web Push

fn expand(salt: &[u8], secret: &[u8], info: &[&[u8]], length: usize) -> Vec<u8> {
    struct Length(usize);
    impl hkdf::KeyType for Length {
        fn len(&self) -> usize {
            self.0
        }
    }
    let mut out = vec![0; length];
    let key = hkdf::Salt::new(hkdf::HKDF_SHA256, salt).extract(secret);
    key.expand(info, Length(length)).unwrap().fill(&mut out).unwrap();
    out
}

/// RFC 8291, section 3.4 and 4.
pub(crate) fn encrypt(subscription: &Value, plain: &[u8]) -> Vec<u8> {
    let decode = |key: &str| BASE64_URL_SAFE_NO_PAD.decode(subscription["keys"][key].as_str().unwrap()).unwrap();
    let (browser, auth) = (decode("p256dh"), decode("auth"));
    let random = SystemRandom::new();
    let key = EphemeralPrivateKey::generate(&ECDH_P256, &random).unwrap();
    let own = key.compute_public_key().unwrap().as_ref().to_vec();
    let mut salt = [0; 16];
    random.fill(&mut salt).unwrap();
    let peer = UnparsedPublicKey::new(&ECDH_P256, &browser);
    let ikm = agree_ephemeral(key, &peer, |secret| expand(&auth, secret, &[b"WebPush: info\0", &browser, &own], 32));
    let ikm = ikm.unwrap();
    let content_key = expand(&salt, &ikm, &[b"Content-Encoding: aes128gcm\0"], 16);
    let nonce = expand(&salt, &ikm, &[b"Content-Encoding: nonce\0"], 12);
    let mut record = [plain, &[2]].concat();
    let sealer = LessSafeKey::new(UnboundKey::new(&AES_128_GCM, &content_key).unwrap());
    let nonce = Nonce::try_assume_unique_for_key(&nonce).unwrap();
    sealer.seal_in_place_append_tag(nonce, Aad::empty(), &mut record).unwrap();
    [&salt[..], &4096_u32.to_be_bytes(), &[65], &own, &record].concat()
}

pub(crate) fn vapid(accounts: &Accounts, claims: &Value) -> String {
    let decode = |text: &str| BASE64_URL_SAFE_NO_PAD.decode(text).unwrap();
    let random = SystemRandom::new();
    let (private, public) = (decode(&accounts.vapid_private_key), decode(&accounts.vapid_public_key));
    let algorithm = &ECDSA_P256_SHA256_FIXED_SIGNING;
    let key = EcdsaKeyPair::from_private_key_and_public_key(algorithm, &private, &public, &random).unwrap();
    let signed = format!("{}.{}", encode(&json!({ "typ": "JWT", "alg": "ES256" })), encode(claims));
    let signature = BASE64_URL_SAFE_NO_PAD.encode(key.sign(&random, signed.as_bytes()).unwrap());
    format!("vapid t={signed}.{signature}, k={}", accounts.vapid_public_key)
}

pub(crate) fn vapid_claims(lab: &Lab) -> Value {
    json!({ "aud": lab.url(Vendor::WebPush), "exp": now() + 3600, "sub": "mailto:push@example.com" })
}

pub(crate) fn webpush(lab: &Lab, subscription: &Value) -> Request {
    let payload = json!({ "title": "Hello", "delivery_id": DELIVERY }).to_string();
    Request::post(&http1(), subscription["endpoint"].as_str().unwrap().to_owned())
        .add("authorization", vapid(lab.accounts(), &vapid_claims(lab)))
        .add("ttl", "3600")
        .add("urgency", "high")
        .add("topic", "order-7")
        .add("content-encoding", "aes128gcm")
        .body(encrypt(subscription, payload.as_bytes()))
}

// ---- SMS

pub(crate) const TWILIO_CALLBACK: &str =
    "https://notify.example.com/hooks/twilio?delivery_id=0196a1b2-0000-7000-8000-000000000001";

pub(crate) fn twilio_fields<'a>(lab: &'a Lab, to: &'a str) -> Vec<(&'a str, &'a str)> {
    vec![
        ("To", to),
        ("From", &lab.accounts().twilio_from),
        ("Body", "Hello"),
        ("StatusCallback", TWILIO_CALLBACK),
        ("ValidityPeriod", "3600"),
    ]
}

pub(crate) fn twilio(lab: &Lab, to: &str) -> Request {
    let Accounts { twilio_account_sid: sid, twilio_auth_token: token, .. } = lab.accounts();
    Request::post(&http1(), format!("{}/2010-04-01/Accounts/{sid}/Messages.json", lab.url(Vendor::Twilio)))
        .basic(sid, token)
        .form(&twilio_fields(lab, to))
}

pub(crate) fn vonage_fields<'a>(lab: &'a Lab, to: &'a str) -> Vec<(&'a str, &'a str)> {
    let accounts = lab.accounts();
    vec![
        ("api_key", &accounts.vonage_api_key),
        ("api_secret", &accounts.vonage_api_secret),
        ("from", &accounts.vonage_from),
        ("to", to),
        ("text", "Hello"),
        ("client-ref", DELIVERY),
    ]
}

pub(crate) fn vonage(lab: &Lab, to: &str) -> Request {
    Request::post(&http1(), format!("{}/sms/json", lab.url(Vendor::Vonage))).form(&vonage_fields(lab, to))
}

// ---- Mail

pub(crate) fn sendgrid_mail(lab: &Lab, to: &str) -> Value {
    json!({
        "personalizations": [{ "to": [{ "email": to }], "custom_args": { "delivery_id": DELIVERY } }],
        "from": { "email": lab.accounts().mail_from, "name": "Chasqui" },
        "subject": "Hello",
        "content": [{ "type": "text/plain", "value": "Hello" }, { "type": "text/html", "value": "<p>Hello</p>" }],
        "headers": { "Message-ID": "<1@example.com>", "List-Unsubscribe": "<https://example.com/u/1>" },
    })
}

pub(crate) fn sendgrid(lab: &Lab, to: &str) -> Request {
    Request::post(&http1(), format!("{}/v3/mail/send", lab.url(Vendor::SendGrid)))
        .add("authorization", format!("Bearer {}", lab.accounts().sendgrid_api_key))
        .json(&sendgrid_mail(lab, to))
}

pub(crate) fn mailgun_fields<'a>(lab: &'a Lab, to: &'a str) -> Vec<(&'a str, &'a str)> {
    vec![
        ("from", &lab.accounts().mail_from),
        ("to", to),
        ("subject", "Hello"),
        ("text", "Hello"),
        ("html", "<p>Hello</p>"),
        ("h:Message-Id", "<1@example.com>"),
        ("v:delivery_id", DELIVERY),
        ("o:tracking", "no"),
    ]
}

pub(crate) fn mailgun(lab: &Lab, to: &str) -> Request {
    let accounts = lab.accounts();
    Request::post(&http1(), format!("{}/v3/{}/messages", lab.url(Vendor::Mailgun), accounts.mailgun_domain))
        .basic("api", &accounts.mailgun_api_key)
        .multipart(&mailgun_fields(lab, to))
}

// ---- Slack

pub(crate) fn slack(lab: &Lab) -> Request {
    let url = format!("{}{}", lab.url(Vendor::Slack), lab.accounts().slack_path);
    Request::post(&http1(), url).json(&json!({ "text": "Twilio is down" }))
}

/// Every case must be refused with its status and code, and nothing be accepted.
pub(crate) async fn all_refused(lab: &Lab, vendor: Vendor, cases: Vec<(&str, Request, u16, &str)>) {
    let before = lab.ledger().wrong().len();
    let count = cases.len();
    for (name, request, status, code) in cases {
        let answer = request.answer().await;
        let call = lab.ledger().calls().pop().unwrap();
        assert_eq!((answer.status, call.code.as_str()), (status, code), "{name}: {answer:?}");
        assert_eq!((call.status, call.accepted), (status, false), "{name}");
        assert!(!call.wrong.is_empty(), "{name}");
        // The code stands in the answer too, and not in the ledger only.
        let said = format!("{} {}", answer.status, answer.text);
        assert!(said.contains(code), "{name}: {said}");
    }
    assert_eq!(lab.ledger().wrong().len(), before + count);
    assert!(lab.ledger().accepted(vendor).is_empty());
}
