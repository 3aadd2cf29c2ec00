//! What the state buckets hold: JSON values that operators and other services write, and stages read.
//!
//! A new kind of record is a type here with its [`Record`], and one line in [`Bucket::ALL`]: topology, the JSON Schemas,
//! `chasqui forget` and the check of what is written follow from that list.
//!
//! Guarantee: unknown fields are refused, so that a misspelt opt-out is an error and not a notification. Whoever reads a record
//! ([`read`]) has every field in its normal form, whoever wrote it, and compares bytes. What a stage could not use is
//! refused when it is written through Chasqui ([`parse`]).

mod normalise;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use jiff::{Timestamp, civil::Time};
use schemars::{JsonSchema, Schema, schema_for};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

pub use crate::suppression::Suppression;
use crate::{
    Channel, Lane, Reason,
    app::AppRecord,
    bucket::{KeyedBy, address_key},
    id,
    submission::Content,
};

/// A type whose values are the records of one bucket.
pub trait Record: Serialize + DeserializeOwned + JsonSchema + Send + Sync + 'static {
    /// The bucket's name on the broker.
    const BUCKET: &'static str;
    /// What it holds, in one sentence.
    const MEANING: &'static str;
    /// What its records are named after.
    const KEYED_BY: KeyedBy;

    /// Brings every field to its one normal form. A field that has none stays, and is added to `wrong`.
    fn normalise(&mut self, wrong: &mut Vec<Violation>) {
        _ = wrong;
    }

    /// Refuses a record that parses and that a stage could still not use. Every write through Chasqui asks it.
    ///
    /// # Errors
    /// The first field that cannot be used.
    fn check(&self) -> Result<(), Violation> {
        Ok(())
    }

    /// What may be written and is surely a mistake.
    fn doubts(&self) -> Vec<Violation> {
        Vec::new()
    }
}

/// Why a value is no record of its bucket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// The path of the field, such as `devices[0].platform`; empty where no single field is wrong.
    pub field: String,
    /// What is wrong with it.
    pub problem: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.field.is_empty() {
            write!(f, "{}: ", self.field)?;
        }
        f.write_str(&self.problem)
    }
}

/// A record that may be written.
#[derive(Debug, Clone, PartialEq)]
pub struct Checked {
    /// The record in its normal form, as JSON.
    pub json: Vec<u8>,
    /// What is surely a mistake, and legal.
    pub doubts: Vec<Violation>,
}

/// Reads a record that anybody may have written, and brings it to its normal form as far as it has one.
///
/// # Errors
/// It is no record of this type.
pub fn read<T: Record>(json: &[u8]) -> serde_json::Result<T> {
    let mut record: T = serde_json::from_slice(json)?;
    record.normalise(&mut Vec::new());
    Ok(record)
}

/// Reads a record that is about to be written, brings it to its normal form, and checks it.
///
/// # Errors
/// The first [`Violation`].
pub fn parse<T: Record>(json: &[u8]) -> Result<T, Violation> {
    let mut reader = serde_json::Deserializer::from_slice(json);
    let mut record: T = serde_path_to_error::deserialize(&mut reader).map_err(|error| {
        // A key that is a word of a vocabulary appears as `?`: the field before it is named, and line and column.
        let path = error.path().to_string().replace(".?", "");
        // The path of the record itself is ".".
        let field = if path == "." { String::new() } else { path };
        Violation { field, problem: error.inner().to_string() }
    })?;
    reader.end().map_err(|error| Violation { field: String::new(), problem: error.to_string() })?;
    let mut wrong = Vec::new();
    record.normalise(&mut wrong);
    match wrong.into_iter().next() {
        Some(first) => Err(first),
        None => record.check().map(|()| record),
    }
}

fn checked<T: Record>(json: &[u8]) -> Result<Checked, Violation> {
    let record: T = parse(json)?;
    let json =
        serde_json::to_vec(&record).map_err(|error| Violation { field: String::new(), problem: error.to_string() })?;
    Ok(Checked { json, doubts: record.doubts() })
}

/// A NATS KV bucket of the public contract: what can be done with it without knowing the type of its records.
#[derive(Debug, Clone, Copy)]
pub struct Bucket {
    name: &'static str,
    meaning: &'static str,
    keyed_by: KeyedBy,
    check: fn(&[u8]) -> Result<Checked, Violation>,
    schema: fn() -> Schema,
}

impl Bucket {
    /// Every bucket.
    pub const ALL: &[Bucket] = &[
        Bucket::of::<Contacts>(),
        Bucket::of::<Preferences>(),
        Bucket::of::<Template>(),
        Bucket::of::<Category>(),
        Bucket::of::<Suppression>(),
        Bucket::of::<AppRecord>(),
    ];

    /// The bucket that holds records of type `T`.
    pub const fn of<T: Record>() -> Bucket {
        Bucket {
            name: T::BUCKET,
            meaning: T::MEANING,
            keyed_by: T::KEYED_BY,
            check: checked::<T>,
            schema: || schema_for!(T),
        }
    }

    /// Its name on the broker.
    pub const fn as_str(self) -> &'static str {
        self.name
    }

    /// What it holds, in one sentence.
    pub const fn meaning(self) -> &'static str {
        self.meaning
    }

    /// What its records are named after.
    pub const fn keyed_by(self) -> KeyedBy {
        self.keyed_by
    }

    /// `json` as a record of this bucket that may be written.
    ///
    /// # Errors
    /// The first [`Violation`].
    pub fn check(self, json: &[u8]) -> Result<Checked, Violation> {
        (self.check)(json)
    }

    /// The JSON Schema of its records.
    pub fn schema(self) -> Schema {
        (self.schema)()
    }
}

/// How to reach a user (`contacts`, by user id).
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Contacts {
    /// BCP 47 language tag; stored in its canonical form.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub locale: Option<String>,
    /// IANA time zone; quiet hours are in it. UTC if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timezone: Option<String>,
    /// Mailboxes; the first is used. Domains are stored as A-labels.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub emails: Vec<String>,
    /// Phone numbers with their country's code, stored as E.164; the first is used.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub phones: Vec<String>,
    /// Devices, 20 at most; all are used.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub devices: Vec<Device>,
}

impl Record for Contacts {
    const BUCKET: &'static str = "contacts";
    const MEANING: &'static str = "Where each user can be reached: addresses, devices, language, time zone.";
    const KEYED_BY: KeyedBy = KeyedBy::User;

    fn normalise(&mut self, wrong: &mut Vec<Violation>) {
        normalise::contacts(self, wrong);
    }

    fn doubts(&self) -> Vec<Violation> {
        normalise::doubts_of_contacts(self)
    }

    fn check(&self) -> Result<(), Violation> {
        let devices = self.devices.len();
        if devices > MAX_DEVICES {
            let problem = format!("{devices} devices; at most {MAX_DEVICES} are taken: leave out the oldest");
            return Err(Violation { field: "devices".to_owned(), problem });
        }
        Ok(())
    }
}

/// Maximum devices of a user. Each gets a delivery of its own, so whoever registers devices in somebody's app without end
/// would multiply each message by them.
pub const MAX_DEVICES: usize = 20;

impl Contacts {
    /// Leaves out the devices that were registered first, down to [`MAX_DEVICES`]: records may be written by others than
    /// Chasqui. Those without a date count as the oldest, and the later in the list as the newer. How many were left out.
    pub fn keep_newest_devices(&mut self) -> usize {
        let too_many = self.devices.len().saturating_sub(MAX_DEVICES);
        if too_many > 0 {
            let mut by_age: Vec<usize> = (0..self.devices.len()).collect();
            by_age.sort_by_key(|&at| self.devices[at].registered_at);
            let oldest: BTreeSet<usize> = by_age.into_iter().take(too_many).collect();
            let mut at = 0;
            self.devices.retain(|_| {
                at += 1;
                !oldest.contains(&(at - 1))
            });
        }
        too_many
    }

    /// Removes the device `id` where it still has the token that its push service calls dead. A token that was
    /// registered after `gone_since` has come to life again, and stays. Of a device that does not say when it was
    /// registered, it is known that it was there when the record was written, at `written_at`: that stands in, and is
    /// kept for the others, since the record is now written anew. True if it was removed.
    pub fn remove_device(
        &mut self,
        id: &str,
        token: &str,
        gone_since: Option<Timestamp>,
        written_at: Timestamp,
    ) -> bool {
        let before = self.devices.len();
        self.devices.retain(|device| {
            let registered_at = device.registered_at.unwrap_or(written_at);
            let came_back = gone_since.is_some_and(|gone_since| registered_at > gone_since);
            device.id != id || device.token != token || came_back
        });
        let removed = self.devices.len() < before;
        if removed {
            self.devices.iter_mut().for_each(|device| _ = device.registered_at.get_or_insert(written_at));
        }
        removed
    }

    /// When a device of this [`Device::key`] was registered the last time, if there is one. Without a date `written_at` stands
    /// in, when the record was written; nothing was registered later than that.
    pub fn registered(&self, key: &str, written_at: Timestamp) -> Option<Timestamp> {
        let devices = self.devices.iter().filter(|device| device.key() == key);
        devices.map(|device| device.registered_at.unwrap_or(written_at).min(written_at)).max()
    }

    /// Removes every device of this key; the others keep the date that stood in for theirs.
    pub fn remove_key(&mut self, key: &str, written_at: Timestamp) {
        self.devices.retain(|device| device.key() != key);
        self.devices.iter_mut().for_each(|device| _ = device.registered_at.get_or_insert(written_at));
    }

    /// Whether `address` is one of its mailboxes or phone numbers.
    pub fn has_address(&self, address: &str) -> bool {
        let key = address_key(address);
        self.emails.iter().chain(&self.phones).any(|own| address_key(own) == key)
    }

    /// Whether it has the device that an endpoint names, under whichever id.
    pub fn has_endpoint(&self, platform: Platform, token: &str) -> bool {
        let key = device_key(platform, token);
        self.devices.iter().any(|device| device.key() == key)
    }

    /// Whether there is a device `id` with this token.
    pub fn has_device(&self, id: &str, token: &str) -> bool {
        self.devices.iter().any(|device| device.id == id && device.token == token)
    }
}

/// A device that can show a push.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Device {
    /// The device's own id, unique for the user; preferences name it.
    pub id: String,
    /// Where its token comes from.
    pub platform: Platform,
    /// APNs device token, FCM registration token, or a Web Push subscription as JSON.
    pub token: String,
    /// When the token was registered: a provider's "gone since" older than this does not concern it. Without it, the time
    /// at which the record was written stands in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub registered_at: Option<Timestamp>,
}

impl Device {
    /// The same for all records of one device, however its token is spelled: two records of it are one address. Of a Web
    /// Push subscription the endpoint says which browser it is; the keys beside it may be written in several ways.
    pub fn key(&self) -> String {
        device_key(self.platform, &self.token)
    }
}

/// See [`Device::key`].
pub fn device_key(platform: Platform, token: &str) -> String {
    let token = token.trim();
    let subscription = || serde_json::from_str::<serde_json::Value>(token).ok();
    match platform {
        Platform::Web => match subscription().as_ref().and_then(|subscription| subscription["endpoint"].as_str()) {
            Some(endpoint) => id::claim(&["web", endpoint]),
            None => id::claim(&["web", token]),
        },
        // Hexadecimal.
        Platform::Ios => id::claim(&["ios", &token.to_ascii_lowercase()]),
        Platform::Android => id::claim(&["android", token]),
    }
}

/// The push service of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Platform {
    /// APNs.
    Ios,
    /// FCM.
    Android,
    /// Web Push (RFC 8030).
    Web,
}

/// What a user wants (`preferences`, by user id). Whatever is not mentioned is allowed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Preferences {
    /// False: nothing at all but mandatory categories.
    pub enabled: bool,
    /// By channel: false switches it off.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub channels: BTreeMap<Channel, bool>,
    /// By category, in lower case.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub categories: BTreeMap<String, CategoryPreference>,
    /// By device id: false switches it off.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub devices: BTreeMap<String, bool>,
    /// When not to disturb.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quiet_hours: Option<QuietHours>,
    /// False: no open pixel, no rewritten links.
    pub tracking: bool,
}

impl Record for Preferences {
    const BUCKET: &'static str = "preferences";
    const MEANING: &'static str = "What each user has switched off, and the quiet hours.";
    const KEYED_BY: KeyedBy = KeyedBy::User;

    fn normalise(&mut self, wrong: &mut Vec<Violation>) {
        normalise::preferences(self, wrong);
    }

    fn doubts(&self) -> Vec<Violation> {
        normalise::doubts_of_preferences(self)
    }
}

impl Default for Preferences {
    fn default() -> Self {
        Preferences {
            enabled: true,
            channels: BTreeMap::new(),
            categories: BTreeMap::new(),
            devices: BTreeMap::new(),
            quiet_hours: None,
            tracking: true,
        }
    }
}

impl Preferences {
    /// Why the user does not want `category` on `channel`, if so; the widest opt-out is named.
    pub fn opt_out(&self, category: &str, channel: Channel) -> Option<Reason> {
        let category_off = match self.categories.get(category) {
            Some(CategoryPreference::All(on)) => !on,
            Some(CategoryPreference::Channels(channels)) => channels.get(&channel) == Some(&false),
            None => false,
        };
        if !self.enabled {
            Some(Reason::OptedOut)
        } else if category_off {
            Some(Reason::OptedOutCategory)
        } else if self.channels.get(&channel) == Some(&false) {
            Some(Reason::OptedOutChannel)
        } else {
            None
        }
    }
}

/// A user's choice for one category: all of it, or by channel.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum CategoryPreference {
    /// False switches the category off.
    All(bool),
    /// By channel: false switches the category off there.
    Channels(BTreeMap<Channel, bool>),
}

/// A daily span in which a user is not disturbed; it may run over midnight.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct QuietHours {
    /// Wall-clock time at which it begins, such as `22:00`.
    #[schemars(with = "String")]
    pub start: Time,
    /// Wall-clock time at which it ends, such as `07:00`. Equal to `start`: no quiet hours.
    #[schemars(with = "String")]
    pub end: Time,
    /// IANA time zone; the contact's if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timezone: Option<String>,
}

/// A message's texts (`templates`, by key): by channel, by locale; each text a minijinja template.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Template {
    /// By channel, then by locale; the locale `default` is the last resort.
    pub channels: BTreeMap<Channel, BTreeMap<String, Content>>,
    /// Alternatives to `channels`, drawn by weight; the same notification always draws the same.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub variants: BTreeMap<String, Variant>,
}

impl Record for Template {
    const BUCKET: &'static str = "templates";
    const MEANING: &'static str = "The texts of each template, by variant, channel and locale.";
    const KEYED_BY: KeyedBy = KeyedBy::Name;

    fn normalise(&mut self, wrong: &mut Vec<Violation>) {
        normalise::template(self, wrong);
    }

    fn doubts(&self) -> Vec<Violation> {
        normalise::doubts_of_template(self)
    }
}

/// The locale of last resort in a [`Template`].
pub const DEFAULT_LOCALE: &str = "default";

/// One variant of a template: what it does not override is the template's own.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Variant {
    /// Its share, relative to the other variants' weights. Zero is never drawn.
    pub weight: u32,
    /// By channel, then by locale; a channel missing here is the template's.
    #[serde(default)]
    pub channels: BTreeMap<Channel, BTreeMap<String, Content>>,
}

/// Defaults and rules for a kind of message (`categories`, by name in lower case).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Category {
    /// What it is for, in words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// The lane on which its deliveries wait for their provider; the submission's if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lane: Option<Lane>,
    /// The channels of a submission that names none.
    pub channels: Vec<Channel>,
    /// True: passes opt-outs and quiet hours (security, legal), also on the suppression list. Never a complaint, nor an
    /// address that bounced again and again.
    pub mandatory: bool,
    /// Seconds from submission (or from a later `send_at`) after which it is too late to send, where the
    /// submission has no `expires_at`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ttl_s: Option<u32>,
    /// False: no open pixel, no rewritten links.
    pub tracking: bool,
}

impl Record for Category {
    const BUCKET: &'static str = "categories";
    const MEANING: &'static str = "The rules of each category of messages.";
    const KEYED_BY: KeyedBy = KeyedBy::Category;

    fn doubts(&self) -> Vec<Violation> {
        normalise::doubts_of_category(self)
    }
}

impl Default for Category {
    /// The rules of a category without a record. SMS costs money, so it is never a default.
    fn default() -> Self {
        Category {
            description: None,
            lane: None,
            channels: vec![Channel::Push, Channel::Email, Channel::InApp],
            mandatory: false,
            ttl_s: None,
            tracking: true,
        }
    }
}

/// Whose an address or a device is (`owners`, by [`crate::bucket::address_key`] or [`Device::key`]). Chasqui's own, and no part of the public contract: it
/// follows `contacts`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Owners {
    /// The users that have it in their contacts.
    pub users: Vec<String>,
}

impl Record for Owners {
    const BUCKET: &'static str = "owners";
    const MEANING: &'static str = "Which users have an address or a device in their contacts.";
    const KEYED_BY: KeyedBy = KeyedBy::Address;
}

impl Owners {
    /// Maximum users that share an address: a family, and some test accounts. A device becomes the last one's alone.
    pub const MAX_USERS: usize = 8;
    /// Maximum addresses of a user that lead to the user.
    pub const MAX_ADDRESSES: usize = 20;
}
