//! What two looks at a queue say about it. Pure.
//!
//! JetStream has no counter of what came and what was acknowledged; both follow from what a consumer was handed and has
//! open. Exact while nothing is redelivered; where messages are, at most as much too high as there were redeliveries,
//! and never anything where nothing but redeliveries happened: a queue that is stuck looks stuck.

use std::time::Duration;

use chasqui_schemas::{Channel, Lane, Stage, consumer, stream, subject};
use chasqui_warehouse::write::queue_metrics::QueueMetric;
use jiff::Timestamp;

/// A consumer of the topology.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Queue {
    /// What it serves.
    pub(super) stage: &'static str,
    pub(super) lane: &'static str,
    pub(super) channel: &'static str,
    pub(super) stream: &'static str,
    pub(super) consumer: String,
    /// The subjects that it reads.
    pub(super) filter: String,
}

/// What the broker says of a consumer.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Counts {
    /// Messages handed out since the consumer was made, every time anew.
    pub(super) delivered: u64,
    /// The last sequence handed out for the first time.
    pub(super) passed: u64,
    pub(super) pending: u64,
    pub(super) in_flight: u64,
    pub(super) redelivered: u64,
    pub(super) waiting: u64,
}

/// What the broker says of a stream.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Stored {
    pub(super) messages: u64,
    pub(super) bytes: u64,
    /// Zero where it has no limit.
    pub(super) max_bytes: u64,
    pub(super) last_sequence: u64,
}

/// Every consumer.
pub(super) fn consumers() -> Vec<Queue> {
    let mut all = Vec::new();
    for stage in Stage::ALL {
        for lane in Lane::ALL {
            for channel in consumer::queues(stage) {
                all.push(Queue {
                    stage: stage.as_str(),
                    lane: lane.as_str(),
                    channel: channel.map_or("", Channel::as_str),
                    stream: stream::of_stage(stage, lane),
                    consumer: consumer::of_queue(lane, channel),
                    filter: subject::pattern(stage, lane, channel),
                });
            }
        }
    }
    let service = |stream, lane, consumer: &str, filter: &str| Queue {
        stage: serves(stream),
        lane,
        channel: "",
        stream,
        consumer: consumer.to_owned(),
        filter: filter.to_owned(),
    };
    for lane in Lane::ALL {
        all.push(service(stream::DEFERRED, lane.as_str(), &consumer::of_queue(lane, None), &subject::due(lane)));
    }
    all.push(service(stream::TRACES, "", consumer::TRACES, subject::TRACES));
    all.push(service(stream::RECEIPTS, "", consumer::RECEIPTS, subject::RECEIPTS));
    all.push(service(stream::CONTACTS, "", consumer::OWNERS, subject::CONTACTS));
    all
}

/// Every stream.
pub(super) fn streams() -> Vec<&'static str> {
    let services = stream::SERVICES.into_iter().map(|(stream, _)| stream);
    stream::of_stages().chain(services).collect()
}

/// The streams with something that no consumer reads: kept, or waiting for its time.
pub(super) const UNREAD: [&str; 7] =
    [stream::DEFERRED, stream::DEAD, stream::REJECTED, stream::LEDGER, stream::NEWEST, stream::ATTEMPTS, stream::INBOX];

fn serves(stream: &str) -> &'static str {
    stream::SERVICES.into_iter().find(|(name, _)| *name == stream).map_or("", |(_, serves)| serves)
}

/// A consumer's row. `before` is the look before this one and how long ago it was.
pub(super) fn of_consumer(
    at: Timestamp,
    queue: &Queue,
    before: Option<(Counts, Duration)>,
    now: Counts,
    oldest_at: Option<Timestamp>,
    stored: Stored,
) -> QueueMetric {
    let (in_per_s, out_per_s) = before.map_or((0.0, 0.0), |(before, elapsed)| {
        // A redelivery counts as handed out, but goes no further in the stream; a skip goes further, but hands out none.
        let handed_out = now.delivered.saturating_sub(before.delivered).min(now.passed.saturating_sub(before.passed));
        let came = (handed_out + now.pending).saturating_sub(before.pending);
        let went = (handed_out + before.in_flight).saturating_sub(now.in_flight);
        (per_s(came, elapsed), per_s(went, elapsed))
    });
    QueueMetric {
        sampled_at: at,
        stage: queue.stage,
        lane: queue.lane,
        channel: queue.channel,
        stream: queue.stream,
        consumer: queue.consumer.clone(),
        pending: now.pending,
        in_flight: now.in_flight,
        redelivered: now.redelivered,
        waiting: now.waiting,
        oldest_ms: oldest_at
            .map_or(0, |oldest| at.as_millisecond().saturating_sub(oldest.as_millisecond()).max(0) as u64),
        bytes: stored.bytes,
        max_bytes: stored.max_bytes,
        in_per_s,
        out_per_s,
    }
}

/// The row of a stream's messages that no consumer reads. `read` are the rows of its consumers.
pub(super) fn of_unread(
    at: Timestamp,
    stream: &'static str,
    before: Option<(Stored, Duration)>,
    now: Stored,
    read: &[&QueueMetric],
) -> QueueMetric {
    // Of the rejections, the ledger, the attempts and the inboxes nothing waits for anybody.
    let pending = if [stream::DEFERRED, stream::DEAD].contains(&stream) {
        now.messages.saturating_sub(read.iter().map(|row| row.pending + row.in_flight).sum())
    } else {
        0
    };
    let came = before.map_or(0.0, |(before, elapsed)| {
        let all = per_s(now.last_sequence.saturating_sub(before.last_sequence), elapsed);
        (all - read.iter().map(|row| row.in_per_s).sum::<f64>()).max(0.0)
    });
    QueueMetric {
        sampled_at: at,
        stage: serves(stream),
        lane: "",
        channel: "",
        stream,
        consumer: String::new(),
        pending,
        in_flight: 0,
        redelivered: 0,
        waiting: 0,
        oldest_ms: 0,
        bytes: now.bytes,
        max_bytes: now.max_bytes,
        in_per_s: came,
        out_per_s: 0.0,
    }
}

fn per_s(count: u64, elapsed: Duration) -> f64 {
    count as f64 / elapsed.as_secs_f64().max(0.001)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use chasqui_runtime::{settings::Settings, topology::consumer_configs};

    const SECOND: Duration = Duration::from_secs(1);

    fn row(before: Counts, now: Counts) -> QueueMetric {
        of_consumer(Timestamp::UNIX_EPOCH, &consumers()[0], Some((before, SECOND)), now, None, Stored::default())
    }

    #[test]
    fn every_consumer_of_the_topology_is_a_queue() {
        let config = Settings::with("").unwrap();
        let made: BTreeSet<_> = consumer_configs(&config.runner)
            .into_iter()
            .map(|(stream, config)| (stream, config.durable_name.unwrap()))
            .collect();
        let seen: BTreeSet<_> = consumers().into_iter().map(|queue| (queue.stream, queue.consumer)).collect();
        assert_eq!(made, seen);
    }

    #[test]
    fn no_two_rows_of_a_sample_have_the_same_key() {
        let consumers = consumers();
        let mut keys: Vec<_> = consumers.iter().map(|queue| (queue.stage, queue.lane, queue.channel)).collect();
        keys.extend(UNREAD.map(|stream| (serves(stream), "", "")));
        let different: BTreeSet<_> = keys.iter().collect();
        assert_eq!(different.len(), keys.len());
        assert!(keys.iter().all(|(stage, ..)| !stage.is_empty()));
    }

    #[test]
    fn nothing_but_redeliveries_is_no_throughput() {
        let stuck = Counts { delivered: 10, passed: 40, pending: 7, in_flight: 3, ..Counts::default() };
        let row = row(stuck, Counts { delivered: 500, ..stuck });
        assert_eq!((row.in_per_s, row.out_per_s), (0.0, 0.0));
    }

    #[test]
    fn a_consumer_that_was_made_anew_has_no_negative_rates() {
        let old = Counts { delivered: 1_000, passed: 4_000, pending: 50, in_flight: 10, ..Counts::default() };
        let row = row(old, Counts { pending: 20, ..Counts::default() });
        assert_eq!((row.in_per_s, row.out_per_s), (0.0, 10.0));
    }

    #[test]
    fn the_oldest_message_has_an_age_whatever_the_clocks_say() {
        let at = Timestamp::from_second(100).unwrap();
        let age =
            |oldest| of_consumer(at, &consumers()[0], None, Counts::default(), oldest, Stored::default()).oldest_ms;
        assert_eq!(age(Timestamp::from_second(97).ok()), 3_000);
        assert_eq!((age(Timestamp::from_second(101).ok()), age(None)), (0, 0));
    }

    #[test]
    fn what_waits_for_its_time_is_what_is_not_due() {
        let due = QueueMetric { pending: 2, in_flight: 1, in_per_s: 3.0, ..row(Counts::default(), Counts::default()) };
        let before = Stored { messages: 8, bytes: 1, last_sequence: 20, max_bytes: 9 };
        let now = Stored { messages: 10, bytes: 2, last_sequence: 25, max_bytes: 9 };
        let row = of_unread(Timestamp::UNIX_EPOCH, stream::DEFERRED, Some((before, SECOND)), now, &[&due]);
        assert_eq!((row.stage, row.pending, row.in_per_s, row.bytes, row.max_bytes), ("schedules", 7, 2.0, 2, 9));
        let ledger = of_unread(Timestamp::UNIX_EPOCH, stream::LEDGER, Some((before, SECOND)), now, &[]);
        assert_eq!((ledger.stage, ledger.pending, ledger.in_per_s), ("ledger", 0, 5.0));
    }

    #[derive(Debug, Clone)]
    enum Step {
        Publish(u64),
        OfOthers(u64),
        HandOut(u64),
        Acknowledge(u64),
        Redeliver(u64),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            (0..50u64).prop_map(Step::Publish),
            (0..50u64).prop_map(Step::OfOthers),
            (0..50u64).prop_map(Step::HandOut),
            (0..50u64).prop_map(Step::Acknowledge),
            (0..50u64).prop_map(Step::Redeliver),
        ];
        prop::collection::vec(step, 0..30)
    }

    /// What a consumer does; the answer: how many came, how many went, how many were redelivered.
    fn play(steps: &[Step], now: &mut Counts) -> (u64, u64, u64) {
        let (mut came, mut went, mut again) = (0, 0, 0);
        for step in steps {
            match *step {
                Step::Publish(n) => {
                    now.pending += n;
                    came += n;
                }
                // Sequences that this consumer skips.
                Step::OfOthers(n) => now.passed += n,
                Step::HandOut(n) => {
                    let n = n.min(now.pending);
                    now.pending -= n;
                    now.in_flight += n;
                    now.delivered += n;
                    now.passed += n;
                }
                Step::Acknowledge(n) => {
                    let n = n.min(now.in_flight);
                    now.in_flight -= n;
                    went += n;
                }
                Step::Redeliver(n) => {
                    let n = n.min(now.in_flight);
                    now.delivered += n;
                    again += n;
                }
            }
        }
        (came, went, again)
    }

    proptest! {
        #[test]
        fn rates_are_what_came_and_went(earlier in steps(), later in steps()) {
            let mut now = Counts::default();
            play(&earlier, &mut now);
            let before = now;
            let (came, went, again) = play(&later, &mut now);
            let row = row(before, now);
            for (rate, count) in [(row.in_per_s, came), (row.out_per_s, went)] {
                prop_assert!(rate >= count as f64 && rate <= (count + again) as f64, "{rate} of {count}, {again} again");
            }
        }
    }
}
