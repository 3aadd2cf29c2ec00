//! Apps: what each may, and the keys that prove who asks.
//!
//! An app stands in the settings (`[apps.<name>]`), in the bucket `apps`, or in both: then the settings say what it may,
//! and the keys of both are valid.
//!
//! Guarantee: no record holds a secret that could be sent as an API key, only its SHA-256. The secret of an HS256 key is
//! in it, because whoever checks such a signature could make it too; an Ed25519 key has its public half alone.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    Lane,
    bucket::KeyedBy,
    normal::category,
    record::{Category, Record, Violation},
};

crate::vocabulary! {
    /// What a key may be used for.
    #[derive(JsonSchema)]
    pub enum Scope "scope" {
        Send = "send": "Submit notifications, cancel and move them.",
        Read = "read": "Read notifications and what is scheduled.",
        Users = "users": "Read and write users, devices, preferences and suppressions.",
        Inbox = "inbox": "Read and mark the inboxes of users.",
        Campaigns = "campaigns": "Read and write audiences and campaigns.",
        Admin = "admin": "Read and write apps, templates and categories, and warn people past the pipeline.",
    }
}

/// What a key may be used for, all of it.
pub type Scopes = BTreeSet<Scope>;

/// An app, as the doors know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct App {
    /// Its name: the last token of its subjects.
    pub name: String,
    /// What it may.
    pub may: Permissions,
}

/// What one app may.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Permissions {
    /// The lanes it may publish on; all if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lanes: Option<Vec<Lane>>,
    /// The categories it may use, mandatory ones among them; if absent, all that are not mandatory, and wait on no lane more
    /// urgent than the app's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub categories: Option<Vec<String>>,
    /// Whether it may use mandatory categories where `categories` names none.
    pub mandatory: bool,
    /// Whether it may name addresses instead of users.
    pub inline: bool,
    /// The senders that overrides may name: `a@b.c`, `@b.c` for all of a domain, a phone number, a word.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub senders: Vec<String>,
    /// The overrides it may set: `vendor` or `vendor.field`; if absent, those that the vendors call harmless.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub overrides: Option<Vec<String>>,
    /// How much it may send over HTTP; no limit of its own if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate: Option<Rate>,
    /// The web pages that may use its keys, such as `https://shop.example`. Requests of other pages are refused;
    /// what comes from no page names none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub origins: Vec<String>,
}

impl Default for Permissions {
    fn default() -> Self {
        Permissions {
            lanes: None,
            categories: None,
            mandatory: false,
            inline: true,
            senders: Vec::new(),
            overrides: None,
            rate: None,
            origins: Vec::new(),
        }
    }
}

impl Permissions {
    /// Whether the app may publish on a lane.
    pub fn lane(&self, lane: Lane) -> bool {
        self.lanes.as_ref().is_none_or(|lanes| lanes.contains(&lane))
    }

    /// Why the app may not use the category `name`, given its record.
    pub fn category(&self, name: &str, record: Option<&Category>) -> Option<String> {
        if let Some(named) = &self.categories {
            let is_named = named.iter().any(|each| each == name);
            return (!is_named).then(|| format!("the app may not use the category `{name}`"));
        }
        let record = record?;
        let most_urgent = self.lanes.iter().flatten().min().copied();
        if record.mandatory && !self.mandatory {
            Some(format!("the category `{name}` is mandatory, and the app's `categories` do not name it"))
        } else if let Some(lane) = record.lane.filter(|&lane| most_urgent.is_some_and(|own| lane < own)) {
            let why = "the app may not use, and its `categories` do not name it";
            Some(format!("the category `{name}` goes out on the lane `{lane}`, which {why}"))
        } else {
            None
        }
    }

    /// Refuses what could never mean anything.
    ///
    /// # Errors
    /// The first field that cannot be used.
    pub fn check(&self) -> Result<(), Violation> {
        let wrong = |field: &str, problem: String| Err(Violation { field: field.to_owned(), problem });
        if self.rate.is_some_and(|rate| rate.per_second == 0 || rate.burst == 0) {
            return wrong("rate", "`per_second` and `burst` are 1 at least: leave `rate` out for no limit".to_owned());
        }
        match self.origins.iter().find(|origin| !is_origin(origin)) {
            Some(origin) => {
                wrong("origins", format!("`{origin}` is no origin: write `https://host` or `https://host:port`"))
            }
            None => Ok(()),
        }
    }
}

/// How many recipients an app may address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Rate {
    /// Recipients a second, in the long run.
    pub per_second: u32,
    /// Recipients at once.
    pub burst: u32,
}

/// An app as the bucket holds it (`apps`, by name).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "App")]
#[serde(deny_unknown_fields, default)]
pub struct AppRecord {
    /// What it may. If absent, what the settings say of it, or of apps that are not listed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub may: Option<Permissions>,
    /// Its keys, by their ids; all of them are valid.
    pub keys: BTreeMap<KeyId, Key>,
}

/// Maximum keys of an app. Each costs memory in every gateway; a few for each of its programs are plenty.
pub const MAX_KEYS: usize = 32;

impl Record for AppRecord {
    const BUCKET: &'static str = "apps";
    const MEANING: &'static str = "What each app may, and the keys that prove it: hashes and public halves.";
    const KEYED_BY: KeyedBy = KeyedBy::Name;

    fn normalise(&mut self, _wrong: &mut Vec<Violation>) {
        let named = self.may.as_mut().and_then(|may| may.categories.as_mut());
        named.into_iter().flatten().for_each(|name| *name = category(name));
    }

    fn check(&self) -> Result<(), Violation> {
        if self.keys.len() > MAX_KEYS {
            let problem =
                format!("{} keys; an app has at most {MAX_KEYS}: delete those that are out of use", self.keys.len());
            return Err(Violation { field: "keys".to_owned(), problem });
        }
        for (id, key) in &self.keys {
            let short = matches!(&key.proof, Proof::Hs256(secret) if secret.len() < MIN_SECRET_BYTES);
            if short {
                let problem = format!("a secret that signs has {MIN_SECRET_BYTES} bytes at least");
                return Err(Violation { field: format!("keys.{id}.proof.hs256"), problem });
            }
        }
        let inside = |violation: Violation| Violation { field: format!("may.{}", violation.field), ..violation };
        self.may.as_ref().map_or(Ok(()), |may| may.check().map_err(inside))
    }
}

/// The id of a key: 8 to 32 small letters and digits. It is no secret, and stands in traces.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
pub struct KeyId(#[schemars(regex(pattern = r"^[a-z0-9]{8,32}$"))] String);

impl KeyId {
    /// The id itself.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for KeyId {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let fits = (8..=32).contains(&text.len());
        if fits && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit()) {
            Ok(KeyId(text))
        } else {
            Err("the id of a key is 8 to 32 small letters and digits")
        }
    }
}

impl From<KeyId> for String {
    fn from(id: KeyId) -> Self {
        id.0
    }
}

impl std::borrow::Borrow<str> for KeyId {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A key of an app.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Key {
    /// What its holder proves, and how.
    pub proof: Proof,
    /// What it may be used for.
    pub scopes: Scopes,
    /// Whether what is submitted with it ends in the sandbox.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub test: bool,
    /// When it was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_at: Option<Timestamp>,
    /// When it ends; never if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
}

/// How the holder of a key proves that. A key proves in one way only: what was made to be checked in one way cannot be
/// misused in another.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Proof {
    /// An API key, which travels with each request: the SHA-256 of its secret.
    Sha256(Bytes32),
    /// Tokens signed with HMAC-SHA256: the secret, which never travels.
    Hs256(String),
    /// Tokens signed with Ed25519: the public key.
    Ed25519(Bytes32),
}

/// Minimum bytes of the secret of an HS256 key: as many as the hash has (RFC 7518, section 3.2).
pub const MIN_SECRET_BYTES: usize = 32;

impl fmt::Debug for Proof {
    /// Shows no secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.way())
    }
}

impl Proof {
    /// Which way it is, in a word.
    pub const fn way(&self) -> &'static str {
        match self {
            Proof::Sha256(_) => "api key",
            Proof::Hs256(_) => "hs256",
            Proof::Ed25519(_) => "ed25519",
        }
    }
}

/// A hash or a public key, written as 64 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
pub struct Bytes32(#[schemars(with = "String")] pub [u8; 32]);

impl TryFrom<String> for Bytes32 {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let bytes = crate::hex::decode(&text).and_then(|bytes| bytes.try_into().ok());
        bytes.map(Bytes32).ok_or("must be 64 hexadecimal digits")
    }
}

impl From<Bytes32> for String {
    fn from(bytes: Bytes32) -> Self {
        crate::hex::encode(bytes.0)
    }
}

/// Whether this is an origin as browsers write it (RFC 6454): scheme, host, and a port where it is not the scheme's own.
fn is_origin(text: &str) -> bool {
    let Some(rest) = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://")) else { return false };
    let (host, port) = rest.rsplit_once(':').map_or((rest, None), |(host, port)| (host, Some(port)));
    let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-.".contains(&byte);
    !host.is_empty() && host.bytes().all(is_plain) && port.is_none_or(|port| port.parse::<u16>().is_ok())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::record::{self, Bucket};

    fn refusal(record: serde_json::Value) -> String {
        Bucket::of::<AppRecord>()
            .check(record.to_string().as_bytes())
            .err()
            .map(|error| error.to_string())
            .unwrap_or_default()
    }

    #[test]
    fn a_record_says_what_an_app_may_and_how_it_proves_itself() {
        let hash = "a5".repeat(32);
        let json = json!({
            "may": { "lanes": ["normal"], "rate": { "per_second": 5, "burst": 10 }, "origins": ["https://a.example:8443"] },
            "keys": { "abcd1234": { "proof": { "sha256": hash }, "scopes": ["send", "read"], "test": true } },
        });
        let record: AppRecord = record::parse(json.to_string().as_bytes()).unwrap();
        assert!(record.may.as_ref().unwrap().inline, "what it leaves out is the default");
        assert_eq!(record.keys["abcd1234"].scopes, [Scope::Send, Scope::Read].into());
        assert_eq!(record::parse::<AppRecord>(&serde_json::to_vec(&record).unwrap()), Ok(record));
    }

    #[test]
    fn what_could_not_be_used_is_refused_and_the_field_named() {
        let key = |id: &str, key: serde_json::Value| refusal(json!({ "keys": { id: key } }));
        let hash = "a5".repeat(32);
        for (refused, words) in [
            (refusal(json!({ "may": { "lane": ["normal"] } })), "may.lane"),
            (refusal(json!({ "may": { "rate": { "per_second": 0, "burst": 1 } } })), "may.rate"),
            (refusal(json!({ "may": { "origins": ["https://a.example/"] } })), "may.origins"),
            (refusal(json!({ "may": { "origins": ["*"] } })), "may.origins"),
            (key("short", json!({ "proof": { "sha256": hash }, "scopes": [] })), "8 to 32 small letters"),
            (key("ABCD1234", json!({ "proof": { "sha256": hash }, "scopes": [] })), "8 to 32 small letters"),
            (key("abcd1234", json!({ "proof": { "sha256": &hash[1..] }, "scopes": [] })), "64 hexadecimal digits"),
            (key("abcd1234", json!({ "proof": { "sha256": hash }, "scopes": ["root"] })), "unknown variant `root`"),
            (key("abcd1234", json!({ "proof": {}, "scopes": [] })), "keys"),
            (key("abcd1234", json!({ "proof": { "hs256": "x".repeat(31) }, "scopes": [] })), "32 bytes"),
            (key("abcd1234", json!({ "scopes": [] })), "proof"),
        ] {
            assert!(refused.contains(words), "{words}: {refused}");
        }
        let many: serde_json::Map<_, _> = (0..=MAX_KEYS)
            .map(|n| (format!("abcd{n:04}"), json!({ "proof": { "sha256": hash }, "scopes": [] })))
            .collect();
        assert!(refusal(json!({ "keys": many })).starts_with("keys: 33 keys"));
    }

    #[test]
    fn a_secret_is_not_shown() {
        let key: Key = serde_json::from_value(json!({ "proof": { "hs256": "hunter2" }, "scopes": [] })).unwrap();
        assert!(!format!("{key:?}").contains("hunter2"));
    }
}
