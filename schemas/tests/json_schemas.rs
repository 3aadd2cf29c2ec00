//! The published JSON Schemas are those of the types, and the fixtures are what the types can read.
//!
//! After a change of a type: `UPDATE_SCHEMAS=1 cargo test -p chasqui-schemas`.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod published;

use std::{collections::BTreeMap, fs};

use chasqui_schemas::{
    Receipt,
    inbox::InboxMessage,
    receipt::Report,
    record::{Category, Contacts, Preferences, Suppression, Template},
    submission::Submission,
};
use schemars::{JsonSchema, schema_for};
use serde::de::DeserializeOwned;

fn check<T: JsonSchema>(name: &str) {
    let schema = schema_for!(T).to_value();
    assert!(schema["title"].is_string() && schema["description"].is_string(), "{name} has no title or description");
    let text = serde_json::to_string_pretty(&schema).unwrap() + "\n";
    published::check(&format!("json/{name}.json"), &text);
}

#[test]
fn the_published_schemas_are_those_of_the_types() {
    check::<Submission>("submission");
    check::<Receipt>("receipt");
    check::<Report>("report");
    check::<InboxMessage<'_>>("inbox_message");
    check::<Contacts>("contacts");
    check::<Preferences>("preferences");
    check::<Template>("template");
    check::<Category>("category");
    check::<Suppression>("suppression");
}

fn records<T: DeserializeOwned>(name: &str) -> BTreeMap<String, T> {
    serde_json::from_str(&fs::read_to_string(published::file(&format!("fixtures/{name}.json"))).unwrap()).unwrap()
}

#[test]
fn the_fixtures_are_records_and_fit_together() {
    let categories: BTreeMap<String, Category> = records("categories");
    let contacts: BTreeMap<String, Contacts> = records("contacts");
    let templates: BTreeMap<String, Template> = records("templates");
    let suppressions: BTreeMap<String, Suppression> = records("suppressions");
    assert!(categories.len() >= 6 && contacts.len() >= 12 && templates.len() >= 6 && !suppressions.is_empty());

    for contacts in contacts.values() {
        let zone = contacts.timezone.as_deref().unwrap();
        jiff::tz::TimeZone::get(zone).unwrap();
        assert!(contacts.emails.iter().all(|email| email.ends_with("@example.com") || email.ends_with("@example.org")));
    }
    for (user, preferences) in records::<Preferences>("preferences") {
        let devices = &contacts[&user].devices;
        assert!(preferences.devices.keys().all(|id| devices.iter().any(|device| device.id == *id)), "{user}");
        assert!(preferences.categories.keys().all(|name| categories.contains_key(name)), "{user}");
    }
}
