//! The templates that the demo ships with.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::{collections::BTreeMap, fs, path::Path, sync::Arc};

use chasqui_schemas::{record::Template, submission::Submission};
use common::{decide, deliveries, device, inbox, mailbox, of_template, phone, stage};
use serde_json::Value;

#[test]
fn every_text_of_every_template_renders_with_the_data_of_its_sample() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../schemas/fixtures");
    let read = |path: &Path| fs::read_to_string(path).unwrap();
    let templates: BTreeMap<String, Template> = serde_json::from_str(&read(&fixtures.join("templates.json"))).unwrap();
    let samples: BTreeMap<String, Value> = fs::read_dir(fixtures.join("submissions"))
        .unwrap()
        .filter_map(|entry| {
            let value: Value = serde_json::from_str(&read(&entry.unwrap().path())).unwrap();
            let key = value.get("template").or(value.get("templateType"))?.as_str()?.to_owned();
            Some((key, value.get("data")?.clone()))
        })
        .collect();
    assert!(serde_json::from_str::<Submission>(&read(&fixtures.join("submissions/otp.json"))).is_ok());

    for (key, template) in templates {
        let locales = template.channels.values().flat_map(|locales| locales.keys().cloned());
        let mut locales: Vec<String> = locales.collect();
        locales.push("en-GB".to_owned());
        let stage = stage(template.clone());
        for locale in locales {
            // Enough notifications to draw every variant.
            for n in 0..20 {
                let mut input = of_template(samples[&key].clone(), vec![device("a"), phone(), mailbox(), inbox()]);
                input.id = uuid::Uuid::from_u128(n);
                Arc::make_mut(&mut input.request).locale = Some(locale.clone());
                let made = deliveries(decide(&stage, input));
                assert_eq!(made.len(), template.channels.len(), "{key} in {locale}");
                assert!(made.iter().all(|delivery| delivery.sms_segments <= 2), "{key} in {locale}");
            }
        }
    }
}
