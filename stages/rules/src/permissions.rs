//! What an app may do: which app's word counts, and what of a vendor's payload it may set.
//!
//! Validate asks at the door. Enrich asks again about the category, where it reads the record by which everything else
//! is decided: what waited ninety days for its `send_at` meets the category as it is then.
//!
//! | thing | an app without a word about it |
//! |---|---|
//! | `lanes` | all |
//! | `categories` | those that are not mandatory, and wait on no lane more urgent than the app's own |
//! | `inline` | may name addresses |
//! | `senders` | none: what goes out is from the account's own sender |
//! | `overrides` | what each vendor's own list calls harmless |
//!
//! Guarantee: pure. What every vendor keeps for Chasqui (recipients, credentials, schedules, the way past a vendor's
//! suppressions) no list of an app opens.

use std::{collections::BTreeMap, sync::Arc};

use chasqui_contract::{Directory, StoreError};
use chasqui_schemas::{
    Reason,
    app::{AppRecord, Permissions},
};
use serde_json::{Map, Value};

use crate::schemes::Schemes;

/// The name in the settings of what apps may that are not listed. No app can have it.
pub const UNLISTED: &str = "*";

/// What each app may.
#[derive(Debug, Clone, Default)]
pub struct Apps {
    /// Apps that are listed.
    pub listed: BTreeMap<String, Permissions>,
    /// All others.
    pub unlisted: Permissions,
}

/// What of a vendor's payload overrides may set, by paths: `from`, `mail_settings.footer`, `headers.X-*`. A path covers all
/// below it, in any case of its letters. What stands in no list needs the operator's word.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Overridable {
    /// Nobody may: it would change recipients, credentials or our ids, or pass by suppressions, expiry or opt-outs.
    pub never: &'static [&'static str],
    /// Who the message seems to be from, or whom answers reach: only the app's own senders.
    pub senders: &'static [&'static str],
    /// Where a tap leads: under the rules of `content.url`.
    pub links: &'static [&'static str],
    /// Everybody may, where the operator says nothing else.
    pub harmless: &'static [&'static str],
}

/// The vendors, by the name that overrides call them.
pub type Vendors = BTreeMap<&'static str, &'static Overridable>;

/// Something that an app may not do: the reason, the field, and what is wrong with it.
pub type Refusal = (Reason, String, String);

impl Apps {
    /// The record of `app` in the bucket, where it may say something: of an app that is listed, only the settings do.
    ///
    /// # Errors
    /// As the directory's.
    pub async fn record(&self, app: &str, directory: &dyn Directory) -> Result<Option<Arc<AppRecord>>, StoreError> {
        if self.listed.contains_key(app) { Ok(None) } else { directory.app(app).await }
    }

    /// What `app` may, given its record in the bucket: what the settings say of it goes before what the record says, so
    /// that an app has one home.
    pub fn of<'a>(&'a self, app: &str, record: Option<&'a AppRecord>) -> &'a Permissions {
        let recorded = || record.and_then(|record| record.may.as_ref());
        self.listed.get(app).or_else(recorded).unwrap_or(&self.unlisted)
    }
}

/// What of a submission's `overrides` the app may not set.
pub fn refused_overrides(
    may: &Permissions,
    overrides: &Map<String, Value>,
    vendors: &Vendors,
    schemes: &Schemes,
) -> Vec<Refusal> {
    let mut refused = Vec::new();
    for (vendor, value) in overrides.iter().filter(|(_, value)| !value.is_null()) {
        let Some(own) = vendors.get(vendor.as_str()) else {
            let what = "no vendor has this name".to_owned();
            refused.push((Reason::OverrideNotAllowed, format!("overrides.{vendor}"), what));
            continue;
        };
        Walk { may, vendor, own, schemes, refused: &mut refused }.visit("", value);
    }
    refused
}

/// A way through one vendor's overrides. Submissions are not nested deeply: validate has seen to that.
struct Walk<'a> {
    may: &'a Permissions,
    vendor: &'a str,
    own: &'a Overridable,
    schemes: &'a Schemes,
    refused: &'a mut Vec<Refusal>,
}

impl Walk<'_> {
    fn names_override(&self, path: &str) -> bool {
        let Some(named) = &self.may.overrides else { return covers_any(self.own.harmless, path) };
        named.iter().any(|each| match each.strip_prefix(self.vendor) {
            Some("") => true,
            Some(rest) => rest.strip_prefix('.').is_some_and(|rule| covers(rule, path)),
            None => false,
        })
    }

    /// Whether an override may name this sender: `a@b.c`, `Name <a@b.c>`, a number or a word.
    fn sender(&self, text: &str) -> bool {
        let address = match text.split_once('<') {
            // A name that looks like an address of its own is the oldest trick.
            Some((name, rest)) if !name.contains(['@', ',', ';', ':', '>']) => rest.strip_suffix('>').unwrap_or(text),
            _ => text,
        };
        let is_plain = |c: char| c.is_ascii_alphanumeric() || "._+-".contains(c);
        self.may.senders.iter().any(|sender| match sender.strip_prefix('@') {
            Some(domain) => address.split_once('@').is_some_and(|(local, of)| {
                of.eq_ignore_ascii_case(domain) && !local.is_empty() && local.chars().all(is_plain)
            }),
            None => address.eq_ignore_ascii_case(sender),
        })
    }

    fn visit(&mut self, path: &str, value: &Value) {
        if !path.is_empty() && covers_any(self.own.never, path) {
            self.refuse(Reason::OverrideNotAllowed, path, "no app may set it".to_owned());
        } else if is_any(self.own.senders, path) {
            if !senders_of(value).is_some_and(|all| !all.is_empty() && all.iter().all(|one| self.sender(one))) {
                let what = "not one of the app's own `senders`".to_owned();
                self.refuse(Reason::SenderNotAllowed, path, what);
            }
        } else if is_any(self.own.links, path) && !value.is_null() {
            let what = match value.as_str() {
                Some(url) => self.schemes.refusal(url),
                None => Some("must be a text".to_owned()),
            };
            what.into_iter().for_each(|what| self.refuse(Reason::Invalid, path, what));
        } else if let Value::Object(fields) = value
            && !fields.is_empty()
        {
            for (name, value) in fields {
                let name = plain(name);
                let inside = if path.is_empty() { name } else { format!("{path}.{name}") };
                self.visit(&inside, value);
            }
        } else if !self.names_override(path) {
            let field = format!("{}.{path}", self.vendor);
            let what = format!("the app's `overrides` do not name `{}`", field.trim_end_matches('.'));
            self.refuse(Reason::OverrideNotAllowed, path, what);
        }
    }

    fn refuse(&mut self, reason: Reason, path: &str, what: String) {
        let field = format!("overrides.{}.{path}", self.vendor);
        self.refused.push((reason, field.trim_end_matches('.').to_owned(), what));
    }
}

/// The senders that a value names: a text, an object with `email`, a list of them; `None` where it is anything else.
fn senders_of(value: &Value) -> Option<Vec<&str>> {
    match value {
        Value::String(text) => Some(vec![text]),
        Value::Object(fields) if fields.keys().all(|name| name == "email" || name == "name") => {
            // What stands in `email` is an address and nothing else.
            Some(vec![fields.get("email")?.as_str().filter(|email| !email.contains('<'))?])
        }
        Value::Array(items) => {
            items.iter().map(senders_of).collect::<Option<Vec<_>>>().map(|each| each.into_iter().flatten().collect())
        }
        _ => None,
    }
}

/// Whether one of `rules` covers `path`.
pub fn covers_any(rules: &[&str], path: &str) -> bool {
    rules.iter().any(|rule| covers(rule, path))
}

/// A field's name as the most tolerant reader takes it: some fold these two letters into ASCII, as Go's `encoding/json`
/// does.
pub fn plain(name: &str) -> String {
    name.replace('\u{17f}', "s").replace('\u{212a}', "k")
}

/// Whether `path` is one of `rules` itself.
fn is_any(rules: &[&str], path: &str) -> bool {
    rules.iter().any(|rule| rule.eq_ignore_ascii_case(path))
}

/// Whether `rule` is `path`, or stands above it; `*` at its end stands for any text.
fn covers(rule: &str, path: &str) -> bool {
    let begins = |start: &str| path.get(..start.len()).is_some_and(|part| part.eq_ignore_ascii_case(start));
    match rule.strip_suffix('*') {
        Some(start) => begins(start),
        None => begins(rule) && matches!(path.as_bytes().get(rule.len()), None | Some(b'.')),
    }
}

#[cfg(test)]
mod tests;
