//! The published JSON Schemas are those of the types, and the fixtures are what the types can read.
//!
//! After a change of a type: `UPDATE_SCHEMAS=1 cargo test -p chasqui-schemas --test json_schemas`.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    collections::BTreeMap,
    env, fs,
    path::{Path, PathBuf},
};

use chasqui_schemas::{
    Receipt,
    record::{Bucket, Category, Contacts, Preferences, Record, Suppression, Template},
    submission::Submission,
};
use schemars::{Schema, schema_for};

fn file(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// The file is called as the type is.
fn check(schema: Schema) {
    let schema = schema.to_value();
    let name = schema["title"].as_str().unwrap().to_lowercase();
    assert!(schema["description"].is_string(), "{name} has no description");
    let text = serde_json::to_string_pretty(&schema).unwrap() + "\n";
    let path = file(&format!("json/{name}.json"));
    if env::var_os("UPDATE_SCHEMAS").is_some() {
        fs::write(&path, &text).unwrap();
    }
    let published = fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(published, text, "{} is not the schema of the type; run with UPDATE_SCHEMAS=1", path.display());
}

#[test]
fn the_published_schemas_are_those_of_the_types() {
    check(schema_for!(Submission));
    check(schema_for!(Receipt));
    Bucket::ALL.iter().for_each(|bucket| check(bucket.schema()));
}

fn records<T: Record>() -> BTreeMap<String, T> {
    serde_json::from_str(&fs::read_to_string(file(&format!("fixtures/{}.json", T::BUCKET))).unwrap()).unwrap()
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
