//! Brings the fields of records to their normal form ([`crate::normal`]), and doubts what is legal and surely a mistake.
//!
//! A field that has no normal form stays as it was written: whoever writes a record through Chasqui is told of it and
//! nothing is written; a stage that reads what others wrote does without that field.
//!
//! Pure.

use std::collections::{BTreeMap, btree_map::Entry};

use super::{Category, CategoryPreference, Contacts, DEFAULT_LOCALE, Preferences, Template, Violation};
use crate::{
    Channel,
    normal::{Normal, category, locale, mailbox, phone, token, zone},
    submission::Content,
};

/// Adds what is wrong with a field.
fn tell(wrong: &mut Vec<Violation>, field: impl Into<String>, problem: impl Into<String>) {
    wrong.push(Violation { field: field.into(), problem: problem.into() });
}

/// Puts a field's normal form in its place.
fn settle(text: &mut String, normal: Normal, field: &dyn Fn() -> String, wrong: &mut Vec<Violation>) {
    match normal(text) {
        Ok(normal) => *text = normal,
        Err(problem) => tell(wrong, field(), problem),
    }
}

pub(super) fn contacts(record: &mut Contacts, wrong: &mut Vec<Violation>) {
    if let Some(tag) = &mut record.locale {
        settle(tag, locale::normal, &|| "locale".to_owned(), wrong);
    }
    if let Some(name) = &mut record.timezone {
        settle(name, zone::normal, &|| "timezone".to_owned(), wrong);
    }
    for (at, address) in record.emails.iter_mut().enumerate() {
        settle(address, mailbox::normal, &|| format!("emails[{at}]"), wrong);
    }
    for (at, address) in record.phones.iter_mut().enumerate() {
        settle(address, phone::normal, &|| format!("phones[{at}]"), wrong);
    }
    for (at, device) in record.devices.iter_mut().enumerate() {
        match token::normal(device.platform, &device.token) {
            Ok(normal) => device.token = normal,
            Err(problem) => tell(wrong, format!("devices[{at}].token"), problem),
        }
    }
}

pub(super) fn doubts_of_contacts(record: &Contacts) -> Vec<Violation> {
    let mut doubts = Vec::new();
    for (at, device) in record.devices.iter().enumerate() {
        if record.devices[..at].iter().any(|earlier| earlier.id == device.id) {
            let problem = "is there twice: only the first device of an id gets messages";
            tell(&mut doubts, format!("devices[{at}].id"), problem);
        }
    }
    doubts
}

pub(super) fn preferences(record: &mut Preferences, wrong: &mut Vec<Violation>) {
    if record.categories.keys().any(|name| category(name) != *name) {
        let mut categories: BTreeMap<String, CategoryPreference> = BTreeMap::new();
        for (name, preference) in std::mem::take(&mut record.categories) {
            let name = category(&name);
            let preference = match categories.remove(&name) {
                Some(other) => narrower(other, preference),
                None => preference,
            };
            categories.insert(name, preference);
        }
        record.categories = categories;
    }
    if let Some(name) = record.quiet_hours.as_mut().and_then(|quiet| quiet.timezone.as_mut()) {
        settle(name, zone::normal, &|| "quiet_hours.timezone".to_owned(), wrong);
    }
}

/// What two preferences for one category allow together: each opt-out holds.
fn narrower(one: CategoryPreference, other: CategoryPreference) -> CategoryPreference {
    use CategoryPreference::{All, Channels};
    match (one, other) {
        (All(false), _) | (_, All(false)) => All(false),
        (All(true), rest) | (rest, All(true)) => rest,
        (Channels(mut channels), Channels(others)) => {
            for (channel, on) in others {
                channels.entry(channel).and_modify(|known| *known &= on).or_insert(on);
            }
            Channels(channels)
        }
    }
}

pub(super) fn doubts_of_preferences(record: &Preferences) -> Vec<Violation> {
    let mut doubts = Vec::new();
    if record.quiet_hours.as_ref().is_some_and(|quiet| quiet.start == quiet.end) {
        tell(&mut doubts, "quiet_hours", "begin and end at the same time: there are none");
    }
    doubts
}

pub(super) fn template(record: &mut Template, wrong: &mut Vec<Violation>) {
    texts("channels", &mut record.channels, wrong);
    for (name, variant) in &mut record.variants {
        texts(&format!("variants.{name}.channels"), &mut variant.channels, wrong);
    }
}

fn texts(path: &str, channels: &mut BTreeMap<Channel, BTreeMap<String, Content>>, wrong: &mut Vec<Violation>) {
    for (channel, locales) in channels {
        for (tag, content) in std::mem::take(locales) {
            let normal = if tag == DEFAULT_LOCALE { Ok(tag.clone()) } else { locale::normal(&tag) };
            let normal = normal.unwrap_or_else(|problem| {
                tell(wrong, format!("{path}.{channel}.{tag}"), format!("{problem}, or `{DEFAULT_LOCALE}`"));
                tag.clone()
            });
            match locales.entry(normal) {
                Entry::Vacant(place) => _ = place.insert(content),
                Entry::Occupied(first) => {
                    let problem = format!("is there twice: it is the same as `{}`", first.key());
                    tell(wrong, format!("{path}.{channel}.{tag}"), problem);
                }
            }
        }
    }
}

pub(super) fn doubts_of_template(record: &Template) -> Vec<Violation> {
    let mut doubts = Vec::new();
    if record.channels.is_empty() && record.variants.is_empty() {
        tell(&mut doubts, "channels", "there are no texts");
    }
    for (channel, locales) in record.channels.iter().filter(|(_, locales)| !locales.contains_key(DEFAULT_LOCALE)) {
        let have = locales.keys().cloned().collect::<Vec<_>>().join(", ");
        let problem = format!("has no `{DEFAULT_LOCALE}`: who reads none of {have} gets nothing");
        tell(&mut doubts, format!("channels.{channel}"), problem);
    }
    let own = [("channels".to_owned(), &record.channels)];
    let variants =
        record.variants.iter().map(|(name, variant)| (format!("variants.{name}.channels"), &variant.channels));
    for (path, channels) in own.into_iter().chain(variants) {
        for (channel, locales) in channels {
            for (tag, Content { title, body, html, .. }) in locales {
                // As render sees it: HTML is for mails.
                let shown = [title, body, if *channel == Channel::Email { html } else { &None }];
                if shown.into_iter().flatten().all(|text| text.trim().is_empty()) {
                    tell(
                        &mut doubts,
                        format!("{path}.{channel}.{tag}"),
                        format!("says nothing that {channel} can show"),
                    );
                }
            }
        }
    }
    let weights: Vec<u32> = record.variants.values().map(|variant| variant.weight).collect();
    if !weights.is_empty() && weights.iter().all(|weight| *weight == 0) {
        tell(&mut doubts, "variants", "every weight is zero: none is ever drawn");
    }
    doubts
}

pub(super) fn doubts_of_category(record: &Category) -> Vec<Violation> {
    let mut doubts = Vec::new();
    if record.channels.is_empty() {
        tell(&mut doubts, "channels", "is empty: a submission that names no channels goes nowhere");
    }
    if record.ttl_s == Some(0) {
        tell(&mut doubts, "ttl_s", "is zero: every notification expires at once; leave it out for none");
    }
    doubts
}
