//! The links in what we send. Render makes and signs them, and the gateway reads them and checks the signature.
//!
//! Guarantee: a token that [`Links::read`] accepts was made by a holder of one of the keys, for exactly what it
//! answers. So a click leads only where the mail that carried it did, and guessing cannot find out whether an id
//! exists. A token shows the ids of notification and delivery, which are hashes and times, and the address of the page
//! that a click goes to. It never shows a recipient's address or id: the user of an unsubscription is encrypted.
//!
//! It is a crate of its own, because a stage and the gateway need it, and the contract should not depend on
//! cryptography. Pure: the same link is the same text whenever it is made, so a notification that is rendered again
//! after a crash has the same links. Nothing is stored, so nothing can be lost. When a key is removed, its links stop
//! working.
//!
//! ```text
//! token        = key id "." base64url( head ‖ rest )
//! head         = kind, channel, notification id, delivery id          1 + 1 + 16 + 16 bytes
//! open         = head ‖ mac(head)                                      HMAC-SHA256, cut to 16 bytes
//! click        = head ‖ link ‖ mac(head ‖ link ‖ target) ‖ target      link: two bytes, big-endian
//! unsubscribe  = head ‖ nonce ‖ sealed(opt-out; head)                  ChaCha20-Poly1305, RFC 8439
//! ```
//!
//! The keys for signing, sealing and making nonces are derived from each secret with HKDF-SHA256 (RFC 5869). The nonce
//! is a keyed hash of what is sealed: it repeats only for the same token, which is the one repetition that reveals
//! nothing.

pub mod settings;

use std::fmt;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use chasqui_schemas::{Channel, OptOut};
use hmac::{Hmac, Mac};
use ring::{
    aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    hkdf::{HKDF_SHA256, Salt},
};
use sha2::Sha256;
use uuid::Uuid;

pub use self::settings::Settings;

/// Longest address that a click may lead to, in bytes. A longer one is sent as it is.
pub const MAX_TARGET_BYTES: usize = 2_048;
/// Longest token, in bytes: a click to the longest target.
pub const MAX_TOKEN_BYTES: usize = 3_072;
/// Fewest bytes of a secret.
pub const MIN_SECRET_BYTES: usize = 32;
const MAX_KEY_ID_BYTES: usize = 16;
const HEAD_BYTES: usize = 34;
const MAC_BYTES: usize = 16;
const OPEN: u8 = b'o';
const CLICK: u8 = b'c';
const UNSUBSCRIBE: u8 = b'u';

/// Links cannot be made with these settings.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LinksError {
    /// Not an address that links could begin with.
    #[error(
        "it must be `https://host[:port][/path]`, without `?` and `#`; `http://` only where the host is this machine"
    )]
    PublicUrl,
    /// No key to sign with.
    #[error("there must be a key to sign with")]
    NoKey,
    /// A key's id is not usable, or there twice.
    #[error("a key's id must be 1 to 16 letters, digits, `-` or `_`, and no two the same: `{0}`")]
    KeyId(String),
    /// A secret is too short to be one.
    #[error("the secret of the key `{0}` must have {MIN_SECRET_BYTES} bytes at least")]
    ShortSecret(String),
}

/// Makes and reads links.
pub struct Links {
    base: String,
    keys: Vec<Key>,
    /// Hosts that clicks may lead to, in lower case; all where there is none.
    hosts: Vec<String>,
    click_days: u16,
}

/// The message that a link is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Origin {
    /// The delivery.
    pub delivery_id: Uuid,
    /// Its notification.
    pub notification_id: Uuid,
    /// The channel it went out on.
    pub channel: Channel,
}

/// What a token says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Link {
    /// The message was shown.
    Open,
    /// A link in it was followed.
    Click {
        /// Which, counted in the order of the message.
        link: u16,
        /// Where it leads.
        target: String,
    },
    /// The recipient wants no more.
    Unsubscribe(OptOut),
}

struct Key {
    id: String,
    /// As HMAC takes it: filled up to SHA-256's block with zeros (RFC 2104).
    mac: [u8; 64],
    nonce: [u8; 64],
    seal: LessSafeKey,
}

impl fmt::Debug for Links {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ids: Vec<&str> = self.keys.iter().map(|key| key.id.as_str()).collect();
        f.debug_struct("Links").field("base", &self.base).field("keys", &ids).finish()
    }
}

impl Links {
    /// Links under `public_url`, signed with the first of `keys` (id and secret), read with all of them.
    ///
    /// # Errors
    /// See [`LinksError`].
    pub fn new<'a>(public_url: &str, keys: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> Result<Self, LinksError> {
        let base = public_url.trim_end_matches('/');
        let is_private = base.starts_with("https://") || host(base).is_some_and(is_this_machine);
        if !is_web(base) || base.contains(['?', '#']) || !is_private {
            return Err(LinksError::PublicUrl);
        }
        let mut links = Links { base: base.to_owned(), keys: Vec::new(), hosts: Vec::new(), click_days: u16::MAX };
        for (id, secret) in keys {
            let is_id = (1..=MAX_KEY_ID_BYTES).contains(&id.len())
                && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_');
            if !is_id || links.keys.iter().any(|key| key.id == id) {
                return Err(LinksError::KeyId(id.chars().take(64).collect()));
            }
            if secret.len() < MIN_SECRET_BYTES {
                return Err(LinksError::ShortSecret(id.to_owned()));
            }
            links.keys.push(Key::derive(id, secret).ok_or_else(|| LinksError::KeyId(id.to_owned()))?);
        }
        if links.keys.is_empty() { Err(LinksError::NoKey) } else { Ok(links) }
    }

    /// Clicks lead to these hosts only: `shop.example.com`, `*.example.com`. All, where there is none.
    #[must_use]
    pub fn only_to(self, hosts: &[String]) -> Self {
        Links { hosts: hosts.iter().map(|host| host.to_ascii_lowercase()).collect(), ..self }
    }

    /// Clicks lead somewhere for so many days after the submission.
    #[must_use]
    pub fn for_days(self, click_days: u16) -> Self {
        Links { click_days, ..self }
    }

    /// Days after the submission for which a click leads somewhere.
    pub fn click_days(&self) -> u16 {
        self.click_days
    }

    fn leads_to(&self, target: &str) -> bool {
        let is_listed = |host: &str| {
            let host = host.to_ascii_lowercase();
            self.hosts.iter().any(|listed| match listed.strip_prefix('*') {
                Some(end) => host.ends_with(end) && host.len() > end.len() && !host.starts_with('.'),
                None => *listed == host,
            })
        };
        self.hosts.is_empty() || host(target).is_some_and(is_listed)
    }

    /// The pixel of a message.
    pub fn open(&self, origin: &Origin) -> String {
        let head = head(OPEN, origin);
        format!("{}/t/o/{}.gif", self.base, self.token(|key| [&head[..], &key.sign(&[&head])].concat()))
    }

    /// A link that leads to `target` by way of the gateway; `None` if the target is no http address in plain ASCII, is
    /// longer than [`MAX_TARGET_BYTES`], is one of our own links, or leads to a host that is not listed.
    pub fn click(&self, origin: &Origin, link: u16, target: &str) -> Option<String> {
        let own = target.strip_prefix(&self.base).is_some_and(|path| path.starts_with("/t/"));
        if !is_web(target) || target.len() > MAX_TARGET_BYTES || own || !self.leads_to(target) {
            return None;
        }
        let head = head(CLICK, origin);
        let link = link.to_be_bytes();
        let token = self.token(|key| {
            let mac = key.sign(&[&head, &link, target.as_bytes()]);
            [&head[..], &link, &mac, target.as_bytes()].concat()
        });
        Some(format!("{}/t/c/{token}", self.base))
    }

    /// Where one POST unsubscribes.
    pub fn unsubscribe(&self, origin: &Origin, opt_out: &OptOut) -> Option<String> {
        let head = head(UNSUBSCRIBE, origin);
        let plain = rmp_serde::to_vec(opt_out).ok()?;
        let key = self.keys.first()?;
        let nonce: [u8; NONCE_LEN] = first(&keyed_hash(&key.nonce, &[&head, &plain]).finalize().into_bytes());
        let mut sealed = plain;
        let sealing = Nonce::assume_unique_for_key(nonce);
        key.seal.seal_in_place_append_tag(sealing, Aad::from(head), &mut sealed).ok()?;
        Some(format!("{}/t/u/{}", self.base, self.token(|_| [&head[..], &nonce, &sealed].concat())))
    }

    /// What a token says, and of which message; `None` where it was not made with one of our keys.
    pub fn read(&self, token: &str) -> Option<(Origin, Link)> {
        if token.len() > MAX_TOKEN_BYTES {
            return None;
        }
        let (id, text) = token.split_once('.')?;
        let key = self.keys.iter().find(|key| key.id == id)?;
        let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
        let (head, rest) = bytes.split_first_chunk::<HEAD_BYTES>()?;
        let link = match head[0] {
            OPEN => key.signed(&[head], rest).then_some(Link::Open)?,
            CLICK => {
                let (number, rest) = rest.split_first_chunk::<2>()?;
                let (mac, target) = rest.split_first_chunk::<MAC_BYTES>()?;
                if !key.signed(&[head, number, target], mac) {
                    return None;
                }
                Link::Click { link: u16::from_be_bytes(*number), target: String::from_utf8(target.to_vec()).ok()? }
            }
            UNSUBSCRIBE => {
                let (nonce, sealed) = rest.split_first_chunk::<NONCE_LEN>()?;
                let mut sealed = sealed.to_vec();
                let nonce = Nonce::assume_unique_for_key(*nonce);
                let plain = key.seal.open_in_place(nonce, Aad::from(head), &mut sealed).ok()?;
                Link::Unsubscribe(rmp_serde::from_slice(plain).ok()?)
            }
            _ => return None,
        };
        Some((origin(head)?, link))
    }

    fn token(&self, bytes: impl FnOnce(&Key) -> Vec<u8>) -> String {
        // There is a first: `new` refuses none.
        let Some(key) = self.keys.first() else { return String::new() };
        format!("{}.{}", key.id, URL_SAFE_NO_PAD.encode(bytes(key)))
    }
}

impl Key {
    fn derive(id: &str, secret: &[u8]) -> Option<Key> {
        let root = Salt::new(HKDF_SHA256, b"chasqui links 1").extract(secret);
        let derived = |what: &[u8]| {
            let mut key = [0; 64];
            root.expand(&[what], HKDF_SHA256).ok()?.fill(&mut key[..32]).ok()?;
            Some(key)
        };
        let seal = LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, &derived(b"seal")?[..32]).ok()?);
        Some(Key { id: id.to_owned(), mac: derived(b"mac")?, nonce: derived(b"nonce")?, seal })
    }

    fn sign(&self, parts: &[&[u8]]) -> [u8; MAC_BYTES] {
        first(&keyed_hash(&self.mac, parts).finalize().into_bytes())
    }

    /// Compares in constant time.
    fn signed(&self, parts: &[&[u8]], mac: &[u8]) -> bool {
        mac.len() == MAC_BYTES && keyed_hash(&self.mac, parts).verify_truncated_left(mac).is_ok()
    }
}

fn first<const N: usize>(bytes: &[u8]) -> [u8; N] {
    std::array::from_fn(|i| bytes[i])
}

/// Parts are of fixed length, or the last.
fn keyed_hash(key: &[u8; 64], parts: &[&[u8]]) -> Hmac<Sha256> {
    let mut mac = <Hmac<Sha256> as Mac>::new(key.into());
    parts.iter().for_each(|part| mac.update(part));
    mac
}

fn head(kind: u8, origin: &Origin) -> [u8; HEAD_BYTES] {
    let channel = match origin.channel {
        Channel::Push => 1,
        Channel::Sms => 2,
        Channel::Email => 3,
        Channel::InApp => 4,
    };
    let mut head = [kind; HEAD_BYTES];
    head[1] = channel;
    head[2..18].copy_from_slice(origin.notification_id.as_bytes());
    head[18..].copy_from_slice(origin.delivery_id.as_bytes());
    head
}

fn origin(head: &[u8; HEAD_BYTES]) -> Option<Origin> {
    let channel = match head[1] {
        1 => Channel::Push,
        2 => Channel::Sms,
        3 => Channel::Email,
        4 => Channel::InApp,
        _ => return None,
    };
    let id = |at: usize| Uuid::from_slice(&head[at..at + 16]).ok();
    Some(Origin { channel, notification_id: id(2)?, delivery_id: id(18)? })
}

/// An http address that can stand in a header as it is.
fn is_web(url: &str) -> bool {
    let scheme = |name: &str| url.get(..name.len()).is_some_and(|start| start.eq_ignore_ascii_case(name));
    let host = |name: &str| url.len() > name.len() && !url[name.len()..].starts_with(['/', '?', '#']);
    url.bytes().all(|byte| byte.is_ascii_graphic())
        && ["http://", "https://"].into_iter().any(|name| scheme(name) && host(name))
}

/// The host of an http address as a browser reads it; `None` where a name or a password stands before it, with which
/// addresses look like others.
fn host(url: &str) -> Option<&str> {
    let (_, rest) = url.split_once("://")?;
    let authority = &rest[..rest.find(['/', '?', '#', '\\']).unwrap_or(rest.len())];
    if authority.contains('@') {
        return None;
    }
    match authority.strip_prefix('[') {
        Some(rest) => rest.split_once(']').map(|(host, _)| host),
        None => Some(authority.split_once(':').map_or(authority, |(host, _)| host)),
    }
}

fn is_this_machine(host: &str) -> bool {
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests;
