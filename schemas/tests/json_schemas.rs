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
    record::{Bucket, Category, Contacts, Preferences, Record, Suppression, Template},
    submission::Submission,
};
use schemars::{Schema, schema_for};

/// Holds the file to the schema of the type.
fn check(name: &str, schema: Schema) {
    let schema = schema.to_value();
    assert!(schema["title"].is_string() && schema["description"].is_string(), "{name} has no title or description");
    let text = serde_json::to_string_pretty(&schema).unwrap() + "\n";
    published::check(&format!("json/{name}.json"), &text);
}

#[test]
fn the_published_schemas_are_those_of_the_types() {
    check("submission", schema_for!(Submission));
    check("receipt", schema_for!(Receipt));
    check("report", schema_for!(Report));
    check("inbox_message", schema_for!(InboxMessage<'_>));
    for schema in Bucket::ALL.iter().map(|bucket| bucket.schema()) {
        // A record's file is called as its type is.
        let name = schema.as_value()["title"].as_str().unwrap().to_lowercase();
        check(&name, schema);
    }
}

fn records<T: Record>() -> BTreeMap<String, T> {
    let path = published::file(&format!("fixtures/{}.json", T::BUCKET));
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

#[test]
fn the_fixtures_are_records_and_fit_together() {
    let categories: BTreeMap<String, Category> = records();
    let contacts: BTreeMap<String, Contacts> = records();
    let templates: BTreeMap<String, Template> = records();
    let suppressions: BTreeMap<String, Suppression> = records();
    assert!(categories.len() >= 6 && contacts.len() >= 12 && templates.len() >= 6 && !suppressions.is_empty());

    for contacts in contacts.values() {
        let zone = contacts.timezone.as_deref().unwrap();
        jiff::tz::TimeZone::get(zone).unwrap();
        assert!(contacts.emails.iter().all(|email| email.ends_with("@example.com") || email.ends_with("@example.org")));
    }
    for (user, preferences) in records::<Preferences>() {
        let devices = &contacts[&user].devices;
        assert!(preferences.devices.keys().all(|id| devices.iter().any(|device| device.id == *id)), "{user}");
        assert!(preferences.categories.keys().all(|name| categories.contains_key(name)), "{user}");
    }
}
