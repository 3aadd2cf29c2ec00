//! Vendors: one folder each, and one line in `VENDORS`.
//!
//! | channel | vendors |
//! |---|---|
//! | push | [`apns`] (iOS), [`fcm`] (Android), [`webpush`] (browsers) |
//! | SMS | [`twilio`], [`vonage`] |
//! | mail | [`smtp`], [`sendgrid`], [`mailgun`] |
//! | in-app | [`inbox`] |
//! | any | [`sandbox`], which delivers nowhere |
//! | none: alerts only | [`slack`] |
//!
//! An operator names accounts at vendors ([`Accounts`]). An account is opened twice, by those who need it: as a
//! [`Provider`] by processes that send ([`senders`]), and as [`Callbacks`] by the gateway ([`callbacks`]), so that a
//! gateway needs no credential that sends.
//!
//! A provider makes one attempt and classifies what comes back; it never retries, and knows nothing of ledgers,
//! schedules or queues. Its future may be dropped at any moment, when its time is up. Callbacks are read by pure
//! functions of the request.
//!
//! # What a vendor's folder holds
//! | file | holds |
//! |---|---|
//! | `<vendor>.toml` | the manual of an account, and its defaults |
//! | `mod.rs` | what an answer means, as a table; [`Vendor`]; the call |
//! | `settings.rs` | the account's settings, checked |
//! | `request.rs` | from a delivery to a request |
//! | `classify.rs` | from a reply to an answer |
//! | `callback.rs` | from a signed request to reports |
//! | `codes.rs` | what sending and callbacks share |
//!
//! Vendors share [`http`], `rate`, `jwt`, `mail`, `phone`, `push`, `payload` and `reported`.

mod account;
pub mod apns;
pub mod fcm;
#[cfg(test)]
mod hostile;
pub mod http;
pub mod inbox;
mod jwt;
#[cfg(test)]
mod loopback;
mod mail;
pub mod mailgun;
#[cfg(test)]
mod noise;
mod payload;
mod phone;
mod push;
mod rate;
mod reported;
pub mod sandbox;
pub mod sendgrid;
pub mod slack;
pub mod smtp;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod tls;
pub mod twilio;
#[cfg(test)]
mod vendor_spec;
pub mod vonage;
pub mod webpush;

use std::{fmt, sync::Arc};

use chasqui_contract::{AccountCallbacks, Callbacks, Clock, Inbox, Provider};
use chasqui_rules::Overridable;
use chasqui_schemas::{Channel, delivery::SANDBOX, record::Platform};
use chasqui_settings::SettingsError;

pub use self::account::{Account, AccountSettings, Accounts};

/// The manual of accounts, with those that are built in.
pub const DEFAULTS: &str = include_str!("../accounts.toml");

/// Every vendor.
static VENDORS: &[&Vendor] = &[
    &apns::VENDOR,
    &fcm::VENDOR,
    &webpush::VENDOR,
    &twilio::VENDOR,
    &vonage::VENDOR,
    &smtp::VENDOR,
    &sendgrid::VENDOR,
    &mailgun::VENDOR,
    &slack::VENDOR,
    &inbox::VENDOR,
    &sandbox::VENDOR,
];

/// Maximum characters of an account's name: it is a label of metrics and a part of callbacks' addresses.
const MAX_NAME: usize = 64;

/// Opens an account to send.
pub type OpenSender = fn(&Account<'_>, &Ports) -> Result<Arc<dyn Provider>, SettingsError>;
/// Opens an account to read its callbacks, given the public address of the gateway.
pub type OpenCallbacks = fn(&Account<'_>, &str) -> Result<Option<Box<dyn Callbacks>>, SettingsError>;

/// What is known of a vendor without an account.
pub struct Vendor {
    /// Its name: in `vendor = "…"`, in statistics and in `overrides`.
    pub name: &'static str,
    /// What it can carry; for push also to which platform.
    pub serves: &'static [(Channel, Option<Platform>)],
    /// What of its payload `overrides` may set: the door refuses the rest.
    pub overrides: &'static Overridable,
    /// The manual of an account, and the defaults of its settings, as commented TOML.
    pub manual: &'static str,
    /// Opens an account to send.
    pub sender: OpenSender,
    /// Opens an account to read its callbacks; it answers `None` where the account's settings do not say how they are
    /// believed.
    pub callbacks: Option<OpenCallbacks>,
}

impl fmt::Debug for Vendor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

/// What providers need of the world.
#[derive(Clone)]
pub struct Ports {
    /// In-app inboxes.
    pub inbox: Arc<dyn Inbox>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Where vendors reach the gateway; empty where they do not.
    pub public_url: String,
}

/// What `overrides` may set, by vendor.
pub fn overridable() -> chasqui_rules::Vendors {
    VENDORS.iter().map(|vendor| (vendor.name, vendor.overrides)).collect()
}

/// Every account, opened to send.
///
/// # Errors
/// Names the setting that cannot be used.
pub fn senders(accounts: &Accounts, ports: &Ports) -> Result<Vec<Arc<dyn Provider>>, SettingsError> {
    each(accounts).map(|account| account.and_then(|account| (account.vendor.sender)(&account, ports))).collect()
}

/// The callbacks of every account that has some. `public_url` is where vendors reach the gateway; empty where they do not.
///
/// # Errors
/// Names the setting that cannot be used.
pub fn callbacks(accounts: &Accounts, public_url: &str) -> Result<Vec<AccountCallbacks>, SettingsError> {
    let opened = each(accounts).map(|account| {
        let account = account?;
        // A vendor that reports carries messages, all on one channel.
        let (Some(open), Some((channel, _))) = (account.vendor.callbacks, account.vendor.serves.first()) else {
            return Ok(None);
        };
        let with_account = |reader| AccountCallbacks {
            account: account.name.to_owned(),
            vendor: account.vendor.name,
            channel: *channel,
            reader,
        };
        Ok(open(&account, public_url)?.map(with_account))
    });
    opened.filter_map(Result::transpose).collect()
}

/// An example account of each vendor, commented out: `##` begins an explanation, `#` a setting.
pub fn manual() -> String {
    let mut text = String::new();
    for vendor in VENDORS {
        text += &format!("\n#[accounts.{0}]\n#vendor = \"{0}\"\n", vendor.name);
        for line in vendor.manual.lines() {
            text += &match line.strip_prefix("# ") {
                Some(setting) if is_setting(setting) => format!("#{setting}\n"),
                Some(words) => format!("## {words}\n"),
                None if line.is_empty() => "#\n".to_owned(),
                None => format!("#{line}\n"),
            };
        }
    }
    text
}

/// Whether a comment of a manual is an example of a setting: `name = …`.
fn is_setting(comment: &str) -> bool {
    let name = comment.split_once(" = ").map_or("", |(name, _)| name);
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')
}

/// Every account with its vendor.
fn each(accounts: &Accounts) -> impl Iterator<Item = Result<Account<'_>, SettingsError>> {
    accounts.iter().map(|(name, AccountSettings { vendor, own })| {
        let is_fit = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_".contains(&byte);
        if name.is_empty() || name.len() > MAX_NAME || !name.bytes().all(is_fit) {
            let problem = format!("the name must be 1 to {MAX_NAME} of: lower-case letters, digits, `-`, `_`");
            return Err(SettingsError::invalid(format!("accounts.{name}"), problem));
        }
        let Some(vendor) = VENDORS.iter().find(|known| known.name == vendor) else {
            let known = VENDORS.iter().map(|vendor| vendor.name).collect::<Vec<_>>().join(", ");
            let problem = format!("there is no vendor `{vendor}`: name one of {known}");
            return Err(SettingsError::invalid(format!("accounts.{name}.vendor"), problem));
        };
        if name == SANDBOX && vendor.name != sandbox::VENDOR.name {
            let problem = "tests go to this account, and must reach nobody: give yours another name";
            return Err(SettingsError::invalid(format!("accounts.{name}.vendor"), problem));
        }
        Ok(Account { name, vendor, own })
    })
}
