//! What the cases run on: one installation with a gateway, whose mail goes to a relay, whose pushes go to vendors that
//! answer as each case needs it, and whose text messages go to the sandbox.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use base64::{Engine, prelude::BASE64_STANDARD};
use chasqui_testing::{
    TestInstall, Worker,
    install::PATIENCE,
    lab::{Lab, PUBLIC_URL, Script},
    settings::IMPATIENT,
};
use chasqui_warehouse::{
    TraceTree, load,
    read::{reconstruct::FANNED_OUT, waterfall::outcome},
};
use jiff::Timestamp;
use ring::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair},
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Duration, Instant, sleep},
};
use uuid::Uuid;

use super::{
    relay::Relay,
    vendor::{Asked, Vendor},
};

const LINKS_KEY: &str = "0123456789abcdef0123456789abcdef";
/// What precedes the point in the DER of a P-256 public key (RFC 5480).
const SPKI_P256: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce,
    0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];
/// The zones of a system without the old names, as Debian 13 has them without `tzdata-legacy`.
const ZONES: [&str; 4] = ["Asia/Kolkata", "Asia/Seoul", "America/Los_Angeles", "UTC"];

pub(super) struct World {
    pub(super) install: TestInstall,
    pub(super) relay: Relay,
    pub(super) fcm: Vendor,
    pub(super) apns: Vendor,
    /// A push service that takes everything.
    pub(super) browsers: Vendor,
    gateway: u16,
    /// Signs as SendGrid does.
    sendgrid: EcdsaKeyPair,
    _old_browsers: Vendor,
    _worker: Worker,
    _lab: Lab,
    _dir: tempfile::TempDir,
}

/// The inputs, beside this file.
fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/servers/cases").join(name)
}

pub(super) fn input(name: &str) -> Result<Value> {
    let text = std::fs::read_to_string(path(name)).with_context(|| name.to_owned())?;
    serde_json::from_str(&text).with_context(|| name.to_owned())
}

/// Messages at fault for three tokens; a token that fails until the other one of its device was called; all else is taken.
fn fcm(before: &[Asked], call: &Asked) -> (u16, &'static str) {
    let token = |asked: &Asked| asked.json()["message"]["token"].as_str().unwrap_or_default().to_owned();
    match token(call).as_str() {
        "bug-token-0001" | "bug-token-0002" | "bug-token-0003" => {
            (400, include_str!("replies/fcm-400-message-at-fault.json"))
        }
        "fails-1-times-bug-token-0008" if !before.iter().any(|asked| token(asked) == "bug-token-0008") => (503, "{}"),
        _ => (200, r#"{"name": "projects/chasqui-lab/messages/1"}"#),
    }
}

/// Whose token ends so is gone.
fn apns(_: &[Asked], call: &Asked) -> (u16, &'static str) {
    if call.path.ends_with("b0641") { (410, include_str!("replies/apns-410.json")) } else { (200, "") }
}

impl World {
    pub(super) async fn start() -> Result<Self> {
        let lab = Lab::start(Script::default()).await?;
        let dir = tempfile::tempdir()?;
        let (relay, fcm, apns) = (Relay::start().await?, Vendor::start(fcm).await?, Vendor::start(apns).await?);
        let browsers = Vendor::start(|_, _| (201, "")).await?;
        let old_browsers = Vendor::start(|_, _| (403, include_str!("replies/webpush-403-fcm-other-key.txt"))).await?;
        let random = SystemRandom::new();
        let key = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &random).ok().context("no key")?;
        let sendgrid = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, key.as_ref(), &random);
        let sendgrid = sendgrid.ok().context("no key")?;

        // The lab's accounts, but for where they lead.
        let mut settings = lab.settings().clone();
        let accounts = settings.tables["accounts"].as_object_mut().context("no accounts")?;
        accounts.retain(|name, _| ["fcm", "apns", "webpush", "sendgrid"].contains(&name.as_str()));
        accounts["fcm"]["base_url"] = json!(fcm.url);
        accounts["apns"]["base_url"] = json!(apns.url);
        let public = BASE64_STANDARD.encode([&SPKI_P256, sendgrid.public_key().as_ref()].concat());
        accounts["sendgrid"]["webhook_public_key"] = json!(public);
        accounts.insert(
            "smtp".into(),
            json!({ "vendor": "smtp", "host": "127.0.0.1", "port": relay.port, "tls": "none", "from": "shop@example.com" }),
        );
        settings.tables["send"] = json!({});
        settings.tables["routes"] = json!({
            "push": { "ios": ["apns"], "android": ["fcm"], "web": ["webpush"] }, "email": ["smtp"], "sms": ["sandbox"],
        });
        // A push that fails goes on until the case has done its next step.
        let impatient =
            IMPATIENT.replacen("schedule_ms = [200, 400]", "schedule_ms = [1000, 1000]\nmax_rounds = 200", 1);
        let toml = format!(
            "{impatient}\n{}\n[gateway]\npublic_url = '{PUBLIC_URL}'\n[links]\nkeys = [{{ id = 'k1', secret = {{ env = 'LINKS_KEY' }} }}]\n[engagement]\nspool_dir = '{}'\n",
            settings.toml(),
            dir.path().join("spool").display()
        );
        let install = TestInstall::start(&toml).await?;
        for zone in ZONES {
            let to = dir.path().join("zoneinfo").join(zone);
            std::fs::create_dir_all(to.parent().context("no parent")?)?;
            // A system without zones at all lacks the old names too.
            std::fs::copy(Path::new("/usr/share/zoneinfo").join(zone), to).ok();
        }
        let gateway = chasqui_embedded::free_port()?;
        let bind = format!("127.0.0.1:{gateway}");
        let zones = dir.path().join("zoneinfo").display().to_string();
        let variables = [("CHASQUI_GATEWAY__BIND", bind.as_str()), ("LINKS_KEY", LINKS_KEY), ("TZDIR", &zones)];
        let worker = install.worker_with("", &variables)?;
        let world = World {
            install,
            relay,
            fcm,
            apns,
            gateway,
            sendgrid,
            _old_browsers: old_browsers,
            browsers,
            _worker: worker,
            _lab: lab,
            _dir: dir,
        };
        world.import().await?;
        Ok(world)
    }

    async fn import(&self) -> Result<()> {
        for kind in ["categories", "contacts", "preferences", "templates", "suppressions"] {
            self.install.run(&[kind, "import", &path(&format!("records/{kind}.json")).to_string_lossy()]).await?;
        }
        let browsers = std::fs::read_to_string(path("records/contacts-webpush.json"))?;
        let browsers = browsers.replace("http://127.0.0.1:9098", &self._old_browsers.url);
        let file = tempfile::NamedTempFile::new()?;
        std::fs::write(&file, browsers.replace("http://127.0.0.1:9095", &self.browsers.url))?;
        self.install.run(&["contacts", "import", &file.path().to_string_lossy()]).await?;
        Ok(())
    }

    /// Writes a contact; an error where it is refused.
    pub(super) async fn register(&self, user: &str, record: &Value) -> Result<()> {
        self.install.run(&["contacts", "put", user, &record.to_string()]).await.map(|_| ())
    }

    pub(super) async fn contacts(&self, user: &str) -> Result<Value> {
        Ok(serde_json::from_str(&self.install.run(&["contacts", "get", user]).await?)?)
    }

    /// Publishes a submission as the app `bugs`; answers its id.
    pub(super) async fn publish(&self, mut submission: Value) -> Result<Uuid> {
        let id = Uuid::now_v7();
        submission["id"] = json!(id);
        self.install.publish("notify.submit.normal.bugs", &id.to_string(), &submission).await?;
        Ok(id)
    }

    /// Waits until the traces of a request are as wanted.
    pub(super) async fn traces(&self, id: Uuid, wanted: impl Fn(&[TraceTree]) -> bool) -> Result<Vec<TraceTree>> {
        let patience = Instant::now() + PATIENCE / 2;
        loop {
            let traces = load(&self.install.clickhouse, &id.to_string()).await.unwrap_or_default();
            if wanted(&traces) {
                return Ok(traces);
            }
            ensure!(Instant::now() < patience, "it stays {:?}", traces.iter().map(outcome).collect::<Vec<_>>());
            sleep(Duration::from_millis(200)).await;
        }
    }

    /// Publishes a submission and waits until all of it has ended.
    pub(super) async fn send(&self, submission: Value) -> Result<Vec<TraceTree>> {
        let id = self.publish(submission).await?;
        let traces = self.traces(id, |traces| TraceTree::all_ended(traces) && traces.iter().all(TraceTree::has_ended));
        // A request's own trace says nothing of how it ended, unless it was rejected.
        let mut traces = traces.await?;
        traces.retain(|tree| tree.state != FANNED_OUT);
        Ok(traces)
    }

    /// The same for a file.
    pub(super) async fn send_file(&self, name: &str) -> Result<Vec<TraceTree>> {
        self.send(input(&format!("submissions/{name}.json"))?).await
    }

    /// How one notification ended: `state (reason)`.
    pub(super) async fn outcome_of(&self, submission: Value) -> Result<String> {
        let traces = self.send(submission).await?;
        Ok(outcome(traces.first().context("no trace")?))
    }

    /// A mail to an address that nobody writes to otherwise.
    pub(super) fn mail(category: &str, address: &str) -> Value {
        let content = json!({ "title": "A try", "body": "Does it come?" });
        json!({ "category": category, "recipients": [{ "email": address }], "channels": ["email"], "content": content })
    }

    /// Posts a callback, as SendGrid would about the delivery in a trace; answers the status.
    pub(super) async fn call_back(&self, name: &str, about: Option<&TraceTree>) -> Result<u16> {
        let mut body = std::fs::read_to_string(path(&format!("callbacks/{name}.json")))?;
        if let Some(tree) = about {
            let delivery = tree.steps().iter().map(|step| step.delivery_id).find(|id| !id.is_nil());
            body = body.replace("NOTIFICATION", &tree.trace_id.to_string());
            body = body.replace("DELIVERY", &delivery.context("no delivery")?.to_string());
        }
        let at = Timestamp::now().as_second().to_string();
        let signature = self.sendgrid.sign(&SystemRandom::new(), [at.as_bytes(), body.as_bytes()].concat().as_slice());
        let signature = BASE64_STANDARD.encode(signature.ok().context("not signed")?);
        let headers = format!(
            "Content-Type: application/json\r\nX-Twilio-Email-Event-Webhook-Signature: {signature}\r\n\
             X-Twilio-Email-Event-Webhook-Timestamp: {at}\r\n"
        );
        self.post("/v1/callbacks/sendgrid", &headers, &body).await
    }

    /// One POST to the gateway; answers the status. The process may still be starting.
    pub(super) async fn post(&self, path: &str, headers: &str, body: &str) -> Result<u16> {
        let patience = Instant::now() + PATIENCE / 2;
        let mut stream = loop {
            match TcpStream::connect(("127.0.0.1", self.gateway)).await {
                Ok(stream) => break stream,
                Err(error) => ensure!(Instant::now() < patience, "no gateway: {error}"),
            }
            sleep(Duration::from_millis(50)).await;
        };
        let length = body.len();
        let head = "Host: notify.example.com\r\nConnection: close\r\nUser-Agent: Mozilla/5.0 (X11) Firefox/140.0";
        let request = format!("POST {path} HTTP/1.1\r\n{head}\r\n{headers}Content-Length: {length}\r\n\r\n{body}");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        let answer = String::from_utf8_lossy(&answer);
        answer.split(' ').nth(1).and_then(|status| status.parse().ok()).context("no status")
    }
}

/// The attribute of the first step that has it.
pub(super) fn attribute<'a>(tree: &'a TraceTree, name: &str) -> Option<&'a str> {
    tree.steps().into_iter().find_map(|step| step.attributes.get(name)).map(String::as_str)
}

/// How all of them ended, in order.
pub(super) fn outcomes(traces: &[TraceTree]) -> Vec<String> {
    traces.iter().map(outcome).collect()
}
