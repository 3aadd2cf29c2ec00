//! Creates streams, consumers and buckets and brings them up to date, for `chasqui migrate`. After a crash in the
//! middle it is run again.
//!
//! | stream | retention | why |
//! |---|---|---|
//! | `STAGE_*`, `TRACES`, `RECEIPTS` | limits | [`chasqui_nats::release`] removes what is acknowledged, many messages at a time |
//! | `LEDGER`, `ATTEMPTS` | limits | a work queue forgets acknowledged message ids when the server restarts |
//! | `NEWEST` | limits | the newest version of each key; what is older than anything waits is forgotten |
//! | `DEFERRED` | work queue | schedules wait without a consumer; due messages leave when they are returned |
//! | `DEAD` | limits | kept until an operator has looked |
//! | `REJECTED` | limits | the latest of each app; the oldest go first |
//! | `INBOX` | limits | the newest messages of each user; the oldest go first |
//!
//! A stage has a stream for each lane. Every queue refuses what does not fit (`discard: new`), per subject, so that a
//! full channel refuses no message of another channel. `DEFERRED` has no such limit, since JetStream allows none on a
//! stream with schedules: its metadata say the limit, and the runtime keeps it (`plan`).
//!
//! The front remembers no message ids (`without_ids`). Producers may publish to it in atomic batches, of which JetStream
//! opens 50 at once for each stream. What Chasqui itself publishes to the front needs none: it goes message by message.

use std::{collections::HashMap, time::Duration};

use async_nats::{
    Client,
    jetstream::{
        self, ErrorCode,
        consumer::{AckPolicy, pull},
        context::CreateStreamErrorKind,
        stream::{
            Config as StreamConfig, ConsumerError, ConsumerErrorKind, DiscardPolicy, RetentionPolicy, Source,
            StorageType,
        },
    },
};
use chasqui_nats::bucket;
use chasqui_schemas::{
    Lane, Stage,
    bucket::{REVISIONS, SECRETS},
    consumer,
    record::{Bucket, Owners, Record},
    stream, subject,
};

use crate::settings::{RunnerSettings, StreamSettings};

/// Minimum version of nats-server: the first that has message schedules and atomic batches as we use them.
pub const MIN_SERVER: (u64, u64) = (2, 14);
/// Maximum bytes of a message in a stream: a submission may have a mebibyte, and its envelope and headers need more. A
/// server's `max_payload` may be less.
const MAX_MESSAGE_BYTES: i32 = 2 * 1024 * 1024;
/// Bytes of a dead letter that its message may not have: the headers, of which JetStream takes 64 KiB. So a dead letter
/// can hold all bytes of every message that any stream took.
const LETTER_HEADERS: i32 = 64 * 1024;
/// Maximum keys of which the newest notification is known: the server has some 220 bytes of each in memory. Where there are
/// more, those that were written longest ago are forgotten.
const MAX_COLLAPSE_KEYS: i64 = 1_000_000;
/// Days for which the newest notification of a key is known: longer than one waits for the end of quiet hours or for a
/// provider.
const NEWEST_DAYS: u32 = 3;
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Why the topology could not be created or changed.
#[derive(Debug, thiserror::Error)]
pub enum TopologyError {
    /// The server has no JetStream.
    #[error("the NATS server at {url} has JetStream disabled: start it with `-js` or a `jetstream {{}}` block")]
    NoJetStream {
        /// Which server.
        url: String,
    },
    /// The server is too old.
    #[error("the NATS server is version {found}; Chasqui needs {}.{} or later (message schedules, batches)", MIN_SERVER.0, MIN_SERVER.1)]
    TooOld {
        /// Its version.
        found: String,
    },
    /// A stream cannot be created or changed.
    #[error("stream {name} cannot be brought up to date")]
    Stream {
        /// Which stream.
        name: String,
        /// What the server said.
        #[source]
        source: async_nats::Error,
    },
    /// The server cannot do without message ids (`without_ids`).
    #[error(
        "stream {name} would drop an app's message because another app used its id: this nats-server remembers ids although \
         it is told not to; take version 2.15"
    )]
    RemembersIds {
        /// Which stream.
        name: String,
    },
    /// The streams need more disk than the server may use.
    #[error(
        "stream {name} does not fit on the server's disk. Together the streams set {needed} bytes aside, and {deferred} more \
         must be left for what is deferred: raise the server's `max_file_store` (of the server that Chasqui starts, \
         embedded.nats_disk_bytes), or lower streams.queue_bytes, streams.front_bytes, streams.trace_bytes, streams.inbox_bytes or \
         streams.rejected_bytes"
    )]
    Disk {
        /// The first stream that did not fit.
        name: String,
        /// Bytes that all streams set aside.
        needed: i64,
        /// Bytes of `streams.deferred_bytes`, which the server does not set aside.
        deferred: i64,
        /// What the server said.
        #[source]
        source: async_nats::Error,
    },
    /// A consumer cannot be created or changed.
    #[error("consumer {name} of stream {stream} cannot be brought up to date")]
    Consumer {
        /// Its stream.
        stream: String,
        /// Which consumer.
        name: String,
        /// What the server said.
        #[source]
        source: async_nats::Error,
    },
}

/// Refuses a server that cannot carry the topology.
///
/// # Errors
/// See [`TopologyError`].
pub fn check_server(client: &Client, url: &str) -> Result<(), TopologyError> {
    let info = client.server_info();
    if !info.jetstream {
        return Err(TopologyError::NoJetStream { url: url.to_owned() });
    }
    let mut numbers = info.version.split(['.', '-']).map_while(|part| part.parse::<u64>().ok());
    // A version that cannot be read counts as too old, and the error quotes it.
    let found = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if found < MIN_SERVER { Err(TopologyError::TooOld { found: info.version.clone() }) } else { Ok(()) }
}

/// Creates what is missing and changes what differs. Safe to run again, and from several processes at once.
///
/// # Errors
/// See [`TopologyError`]. A change that JetStream does not allow (of retention, say) is an error that names the stream.
pub async fn migrate(
    client: &Client,
    url: &str,
    streams: &StreamSettings,
    runner: &RunnerSettings,
) -> Result<(), TopologyError> {
    check_server(client, url)?;
    let context = jetstream::new(client.clone());
    let largest = i32::try_from(client.server_info().max_payload).unwrap_or(i32::MAX).min(MAX_MESSAGE_BYTES);
    for config in stream_configs(streams, largest) {
        let name = config.name.clone();
        let remembers_ids = !config.duplicate_window.is_zero();
        let done = context.create_or_update_stream(config).await;
        let made = done.map_err(|error| match error.kind() {
            CreateStreamErrorKind::JetStream(answer) if is_disk(answer.error_code()) => TopologyError::Disk {
                name: name.clone(),
                needed: streams.set_aside_bytes(),
                deferred: streams.deferred_bytes,
                source: error.into(),
            },
            _ => TopologyError::Stream { name: name.clone(), source: error.into() },
        })?;
        if !remembers_ids && !made.config.duplicate_window.is_zero() {
            return Err(TopologyError::RemembersIds { name });
        }
    }
    let records = Bucket::ALL.iter().map(|bucket| (bucket.as_str(), REVISIONS));
    for (name, revisions) in records.chain([(SECRETS, 1), (Owners::BUCKET, 1)]) {
        let config = bucket::stream_config(name, revisions, streams.replicas);
        let done = context.create_or_update_stream(config).await;
        done.map_err(|source| TopologyError::Stream { name: name.to_owned(), source: source.into() })?;
    }
    for (stream, config) in consumer_configs(runner) {
        let name = config.durable_name.clone().unwrap_or_default();
        let done = context.create_consumer_on_stream(config, stream).await;
        done.map_err(|source| TopologyError::Consumer { stream: stream.to_owned(), name, source: source.into() })?;
    }
    Ok(())
}

/// Creates the exporter's consumer, or removes it where nothing is exported, because traces would be kept for it.
///
/// # Errors
/// See [`TopologyError`].
pub async fn migrate_export(client: &Client, on: bool, runner: &RunnerSettings) -> Result<(), TopologyError> {
    let context = jetstream::new(client.clone());
    let (stream, name) = (stream::TRACES, consumer::EXPORT);
    let done: Result<(), async_nats::Error> = if on {
        let config = consumer_config(runner, name, String::new());
        context.create_consumer_on_stream(config, stream).await.map(drop).map_err(Into::into)
    } else {
        match context.delete_consumer_from_stream(name, stream).await {
            Err(error) if !is_missing(&error) => Err(error.into()),
            _ => Ok(()),
        }
    };
    done.map_err(|source| TopologyError::Consumer { stream: stream.to_owned(), name: name.to_owned(), source })
}

fn is_disk(code: ErrorCode) -> bool {
    [ErrorCode::STORAGE_RESOURCES_EXCEEDED, ErrorCode::INSUFFICIENT_RESOURCES].contains(&code)
}

fn is_missing(error: &ConsumerError) -> bool {
    matches!(error.kind(), ConsumerErrorKind::JetStream(answer) if answer.error_code() == ErrorCode::CONSUMER_NOT_FOUND)
}

fn stream_configs(settings: &StreamSettings, largest: i32) -> Vec<StreamConfig> {
    let base = |name: &str, subjects: &[&str]| StreamConfig {
        name: name.to_owned(),
        subjects: subjects.iter().map(|subject| (*subject).to_owned()).collect(),
        num_replicas: settings.replicas,
        storage: StorageType::File,
        discard: DiscardPolicy::New,
        max_messages: -1,
        max_bytes: -1,
        max_messages_per_subject: -1,
        max_message_size: (largest - LETTER_HEADERS).max(largest / 2),
        duplicate_window: Duration::from_secs(settings.hop_window_s),
        allow_atomic_publish: true,
        allow_direct: true,
        ..StreamConfig::default()
    };
    let claims = |name: &str, subjects: &[&str], window_s: u64| StreamConfig {
        retention: RetentionPolicy::Limits,
        duplicate_window: Duration::from_secs(window_s),
        max_age: Duration::from_secs(window_s),
        ..base(name, subjects)
    };

    // First, because the front names it.
    let mut configs = vec![StreamConfig {
        retention: RetentionPolicy::Limits,
        discard: DiscardPolicy::Old,
        max_age: DAY * settings.dead_days,
        max_messages_per_subject: settings.rejected_messages,
        max_bytes: settings.rejected_bytes,
        ..base(stream::REJECTED, &[subject::REJECTED])
    }];
    for stage in Stage::ALL {
        let is_front = stage == Stage::Validate;
        let (messages, bytes) = if is_front {
            (settings.app_messages, settings.front_bytes)
        } else {
            (settings.queue_messages, settings.queue_bytes)
        };
        for lane in Lane::ALL {
            let queue = StreamConfig {
                retention: RetentionPolicy::Limits,
                max_messages_per_subject: messages,
                discard_new_per_subject: true,
                max_bytes: bytes,
                ..base(stream::of_stage(stage, lane), &[&subject::pattern(stage, lane, None)])
            };
            configs.push(if is_front { without_ids(queue) } else { queue });
        }
    }
    configs.extend([
        claims(stream::LEDGER, &[subject::LEDGER, subject::GIVEN_BACK], settings.dedupe_window_s),
        StreamConfig {
            retention: RetentionPolicy::Limits,
            discard: DiscardPolicy::Old,
            max_messages_per_subject: 1,
            max_messages: MAX_COLLAPSE_KEYS,
            max_age: DAY * NEWEST_DAYS,
            ..base(stream::NEWEST, &[subject::NEWEST])
        },
        claims(stream::ATTEMPTS, &[subject::ATTEMPTS, subject::ENDED, subject::TAKEN_OVER], settings.attempts_window_s),
        StreamConfig {
            retention: RetentionPolicy::WorkQueue,
            discard: DiscardPolicy::Old,
            allow_message_schedules: true,
            metadata: HashMap::from([(stream::MAX_BYTES.to_owned(), settings.deferred_bytes.to_string())]),
            ..base(stream::DEFERRED, &[subject::DEFERRED, subject::DUE])
        },
        StreamConfig {
            retention: RetentionPolicy::Limits,
            max_age: DAY * settings.dead_days,
            max_bytes: settings.queue_bytes,
            max_message_size: largest,
            ..base(stream::DEAD, &[subject::DEAD])
        },
        StreamConfig {
            retention: RetentionPolicy::Limits,
            max_bytes: settings.trace_bytes,
            ..base(stream::TRACES, &[subject::TRACES])
        },
        StreamConfig {
            retention: RetentionPolicy::Limits,
            max_bytes: settings.queue_bytes,
            ..base(stream::RECEIPTS, &[subject::RECEIPTS])
        },
        StreamConfig {
            retention: RetentionPolicy::Limits,
            discard: DiscardPolicy::Old,
            max_messages_per_subject: settings.inbox_messages,
            max_bytes: settings.inbox_bytes,
            max_age: DAY * settings.inbox_days,
            ..base(stream::INBOX, &[subject::INBOX])
        },
    ]);
    configs
}

/// Has a stream remember no message ids. JetStream drops a message whose id it knows, whoever published it, so that two
/// apps with the same id would lose each other's messages. The ledger, which knows app and recipient, decides about repeats
/// instead.
///
/// JetStream does without ids only in a stream that copies from others and has no window of its own; the shortest window
/// else is 100 ms, enough for an app that repeats an id again and again. So the stream copies nothing from another one.
fn without_ids(config: StreamConfig) -> StreamConfig {
    let nothing = Source {
        name: stream::REJECTED.to_owned(),
        // No subject of that stream.
        filter_subject: Some(subject::NONE.to_owned()),
        ..Source::default()
    };
    StreamConfig { duplicate_window: Duration::ZERO, sources: Some(vec![nothing]), ..config }
}

fn consumer_config(runner: &RunnerSettings, name: &str, filter: String) -> pull::Config {
    pull::Config {
        durable_name: Some(name.to_owned()),
        filter_subject: filter,
        ack_policy: AckPolicy::Explicit,
        ack_wait: Duration::from_millis(runner.ack_wait_ms),
        max_ack_pending: runner.max_ack_pending,
        // The runner counts instead, and makes a dead letter of what was handed out too often; here such a message
        // would stay in the stream without a word.
        max_deliver: -1,
        ..pull::Config::default()
    }
}

pub fn consumer_configs(runner: &RunnerSettings) -> Vec<(&'static str, pull::Config)> {
    let config = |name: &str, filter: String| consumer_config(runner, name, filter);
    let mut configs = Vec::new();
    for stage in Stage::ALL {
        for lane in Lane::ALL {
            for channel in consumer::queues(stage) {
                // What reads the whole stream needs no filter.
                let filter = channel.map_or(String::new(), |_| subject::pattern(stage, lane, channel));
                configs.push((stream::of_stage(stage, lane), config(&consumer::of_queue(lane, channel), filter)));
            }
        }
    }
    for lane in Lane::ALL {
        configs.push((stream::DEFERRED, config(&consumer::of_queue(lane, None), subject::due(lane))));
    }
    configs.push((stream::TRACES, config(consumer::TRACES, String::new())));
    configs.push((stream::RECEIPTS, config(consumer::RECEIPTS, String::new())));
    configs.push((stream::CONTACTS, config(consumer::OWNERS, String::new())));
    configs
}
