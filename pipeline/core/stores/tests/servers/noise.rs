//! Records that somebody wrote past Chasqui: whatever their bytes are, they are a record that can be used or an error, never "no
//! record".

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use chasqui_contract::{Directory, StoreError};
use chasqui_schemas::record::{Bucket, Category, Contacts, Preferences, Record, Suppression, Template};
use chasqui_stores::NatsDirectory;
use chasqui_testing::{RawProducer, raw::BLOCKS, servers::Nats};
use proptest::{
    collection::vec,
    prelude::*,
    test_runner::{Config, TestRunner},
};

use super::support::make_stores;

/// Bytes, and documents that are nearly records: field names of all of them with any values.
fn payload() -> impl Strategy<Value = Vec<u8>> {
    let name = prop::sample::select(vec![
        "locale",
        "timezone",
        "emails",
        "phones",
        "devices",
        "enabled",
        "channels",
        "categories",
        "quiet_hours",
        "lane",
        "ttl_s",
        "mandatory",
        "reason",
        "at",
        "variants",
        "default",
        "email",
        "x",
    ]);
    let value = prop::sample::select(vec![
        "null",
        "true",
        "0",
        "-1",
        "1e999",
        "\"\"",
        "\"x\"",
        "[]",
        "[null]",
        "{}",
        "{\"a\":{}}",
        "[\"\\ud800\"]",
        "\"\\u0000\"",
    ]);
    let fields = vec((name, value), 0..6).prop_map(|fields| {
        let fields: Vec<String> = fields.iter().map(|(name, value)| format!("\"{name}\":{value}")).collect();
        format!("{{{}}}", fields.join(",")).into_bytes()
    });
    prop_oneof![vec(any::<u8>(), 0..200), fields]
}

fn block() -> impl Strategy<Value = Vec<u8>> {
    let known = prop::sample::select(BLOCKS).prop_map(|(_, block)| block.to_vec());
    prop_oneof![Just(b"NATS/1.0\r\n\r\n".to_vec()), known, vec(any::<u8>(), 1..60)]
}

/// What is read: whether there is a record, or an error that names it.
fn seen<T>(read: Result<Option<T>, StoreError>) -> bool {
    match read {
        Ok(record) => record.is_some(),
        Err(StoreError::BadRecord { .. }) => true,
        Err(other) => panic!("{other:?}"),
    }
}

#[test]
fn whatever_is_stored_as_a_record_is_a_record_or_an_error() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (_server, producer, directory) = runtime.block_on(async {
        let server = Nats::start().await;
        let context = server.context().await;
        make_stores(&context).await;
        let directory = NatsDirectory::open(&context).await.unwrap();
        let producer = RawProducer::connect(server.url()).await;
        (server, tokio::sync::Mutex::new(producer), directory)
    });
    let number = std::cell::Cell::new(0_u64);
    let config = Config { cases: Config::default().cases / 4, failure_persistence: None, ..Config::default() };
    let written = TestRunner::new(config).run(&(payload(), block()), |(payload, block)| {
        runtime.block_on(async {
            let mut producer = producer.lock().await;
            number.set(number.get() + 1);
            let name = format!("n{}", number.get());
            for bucket in Bucket::ALL {
                let subject = format!("$KV.{}.{}", bucket.as_str(), bucket.keyed_by().key(&name));
                producer.publish(subject, &block, &payload).await;
            }
            // A mirror has its watch to catch up.
            let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(30);
            loop {
                let all = [
                    seen(directory.contacts(&name).await),
                    seen(directory.preferences(&name).await),
                    seen(directory.template(&name).await),
                    seen(directory.category(&name).await),
                    seen(directory.suppression(&name).await),
                ];
                if all == [true; 5] {
                    return Ok(());
                }
                prop_assert!(tokio::time::Instant::now() < deadline, "not there: {all:?}");
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
        })
    });
    written.unwrap();
}

fn parses<T: Record>(payload: &[u8]) {
    _ = serde_json::from_slice::<T>(payload);
}

proptest! {
    #[test]
    fn no_bytes_make_a_parser_panic(payload in payload()) {
        parses::<Contacts>(&payload);
        parses::<Preferences>(&payload);
        parses::<Template>(&payload);
        parses::<Category>(&payload);
        parses::<Suppression>(&payload);
    }
}
