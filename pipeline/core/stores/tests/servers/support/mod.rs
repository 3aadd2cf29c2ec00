//! The streams and buckets that the runtime's topology makes in earnest.

// Each test binary compiles this module, and uses its own part of it.
#![allow(dead_code, unreachable_pub, clippy::panic, clippy::unwrap_used, reason = "a test's support")]

use async_nats::jetstream::{self, stream::Config};
use chasqui_contract::{Book, Claim, Ledger};
use chasqui_nats::{Publisher, bucket};
use chasqui_schemas::{
    id,
    record::{Bucket, Owners, Record},
    stream, subject,
};
use chasqui_testing::servers::stream_config;

/// The stream of attempts.
pub fn attempts_config() -> Config {
    let subjects = [subject::ATTEMPTS, subject::ENDED, subject::TAKEN_OVER].map(str::to_owned).to_vec();
    Config { subjects, ..stream_config(stream::ATTEMPTS, "") }
}

/// What the topology makes for directory, ledger and inbox.
pub async fn make_stores(context: &jetstream::Context) {
    context.create_stream(stream_config(stream::INBOX, subject::INBOX)).await.unwrap();
    let subjects = [subject::LEDGER, subject::GIVEN_BACK].map(str::to_owned).to_vec();
    context.create_stream(Config { subjects, ..stream_config(stream::LEDGER, "") }).await.unwrap();
    context.create_stream(attempts_config()).await.unwrap();
    for bucket in Bucket::ALL.iter().map(|bucket| bucket.as_str()).chain([Owners::BUCKET]) {
        context.create_stream(bucket::stream_config(bucket, 1, 1)).await.unwrap();
    }
}

/// Begins an attempt; answers where.
pub async fn begin(ledger: &dyn Ledger, id: &str) -> u64 {
    let claim = id::claim(&["begun", id]);
    assert_eq!(ledger.claim(Book::Attempts, &claim, "ours".into()).await.unwrap(), Claim::First);
    match ledger.claim(Book::Attempts, &claim, "theirs".into()).await.unwrap() {
        Claim::Taken { place, .. } => place,
        Claim::First => panic!("an attempt began twice"),
    }
}

pub fn publisher(context: &jetstream::Context) -> Publisher {
    Publisher::new(context.clone())
}
