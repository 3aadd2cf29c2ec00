//! How full every queue is, and who works on it: the latest sample of the monitor, and the last half hour beside it.

use chasqui_schemas::{
    Lane, Stage,
    clickhouse::{QUEUE_METRICS, SENT_WITHIN_MS},
};
use chasqui_warehouse::read::waterfall::duration;
use clickhouse::{Client, Row};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::{Page, Problem, axis::round, moment};

/// Maximum consumers that are shown; there are some fifty.
const MAX_QUEUES: usize = 500;
/// Intervals of the history beside each queue, …
const POINTS: usize = 60;
/// … and the seconds of each.
const POINT_S: i64 = 30;
/// Age of a sample in milliseconds from which it says nothing about now.
const STALE_MS: i64 = 60_000;
/// Age in milliseconds of a pending message from which its queue is behind: the target for the whole way is over then.
const OLD_MS: u64 = SENT_WITHIN_MS as u64;

/// The latest sample of a consumer, and its history.
#[derive(Debug, Row, Deserialize)]
struct Sample {
    stage: String,
    lane: String,
    channel: String,
    stream: String,
    consumer: String,
    sampled_ms: i64,
    pending: u64,
    in_flight: u64,
    redelivered: u64,
    waiting: u64,
    oldest_ms: u64,
    in_per_s: f64,
    out_per_s: f64,
    /// Most pending of each interval, by how many intervals ago.
    history: Vec<(u32, u64)>,
}

#[derive(Debug, Serialize)]
struct Line {
    stage: String,
    lane: String,
    channel: String,
    stream: String,
    consumer: String,
    pending: u64,
    in_flight: u64,
    redelivered: u64,
    oldest: String,
    in_per_s: String,
    out_per_s: String,
    /// A word for what is wrong, or `ok`; and what colours it.
    health: &'static str,
    status: &'static str,
    /// Points of a line in a box of 100 by 20.
    history: String,
    most: u64,
}

pub(super) async fn page(client: &Client, now: Timestamp) -> Result<Page, Problem> {
    let span_s = POINTS as i64 * POINT_S;
    let now_s = now.as_second();
    let sql = format!(
        "SELECT stage, lane, channel, stream, consumer, max(at) AS sampled_ms,
                argMax(m.pending, at) AS pending, argMax(m.in_flight, at) AS in_flight,
                argMax(m.redelivered, at) AS redelivered, argMax(m.waiting, at) AS waiting,
                argMax(m.oldest_ms, at) AS oldest_ms, argMax(m.in_per_s, at) AS in_per_s,
                argMax(m.out_per_s, at) AS out_per_s, groupArray({POINTS})((ago, most)) AS history
         FROM (SELECT stage, lane, channel, stream, consumer,
                      toUInt32(intDiv(greatest({now_s} - toUnixTimestamp(sampled_at), 0), {POINT_S})) AS ago,
                      max(toUnixTimestamp64Milli(sampled_at)) AS at, max(s.pending) AS most,
                      argMax(s.pending, sampled_at) AS pending, argMax(s.in_flight, sampled_at) AS in_flight,
                      argMax(s.redelivered, sampled_at) AS redelivered, argMax(s.waiting, sampled_at) AS waiting,
                      argMax(s.oldest_ms, sampled_at) AS oldest_ms, argMax(s.in_per_s, sampled_at) AS in_per_s,
                      argMax(s.out_per_s, sampled_at) AS out_per_s
               FROM {QUEUE_METRICS} AS s WHERE sampled_at > fromUnixTimestamp64Milli({})
               GROUP BY stage, lane, channel, stream, consumer, ago) AS m
         GROUP BY stage, lane, channel, stream, consumer LIMIT {MAX_QUEUES}",
        (now_s - span_s) * 1_000
    );
    let mut samples: Vec<Sample> = client.query(&sql).fetch_all().await?;
    samples.sort_by_key(|sample| {
        let stage = Stage::ALL.iter().position(|stage| stage.as_str() == sample.stage);
        let lane = Lane::ALL.iter().position(|lane| lane.as_str() == sample.lane);
        let words = (sample.stage.clone(), sample.channel.clone(), sample.consumer.clone());
        (stage.unwrap_or(Stage::ALL.len()), words.0, words.1, lane, words.2)
    });
    let newest = samples.iter().map(|sample| sample.sampled_ms).max();
    let is_stale = newest.is_some_and(|newest| now.as_millisecond() - newest > STALE_MS);
    // Dead letters and what waits for its time is not behind.
    let consumed = || samples.iter().filter(|sample| !sample.consumer.is_empty());
    let pending: u64 = consumed().map(|sample| sample.pending).sum();
    let oldest_ms = consumed().map(|sample| sample.oldest_ms).max().unwrap_or(0);
    let lines: Vec<Line> = samples.into_iter().map(|sample| line(sample, now)).collect();
    let behind = lines.iter().filter(|line| line.status != "ok").count();
    Ok(Page::Show(
        "queues.html",
        json!({ "view": "queues", "title": "Queues", "lines": lines, "is_stale": is_stale, "pending": pending, "behind": behind, "oldest": duration(oldest_ms * 1_000_000), "sampled": newest.map(moment), "minutes": span_s / 60 }),
    ))
}

fn line(sample: Sample, now: Timestamp) -> Line {
    let (health, status) = health(&sample, now);
    let most = sample.history.iter().map(|(_, most)| *most).max().unwrap_or(0);
    Line {
        history: history(&sample.history, most),
        oldest: duration(sample.oldest_ms.saturating_mul(1_000_000)),
        in_per_s: per_second(sample.in_per_s),
        out_per_s: per_second(sample.out_per_s),
        stage: sample.stage,
        lane: sample.lane,
        channel: sample.channel,
        stream: sample.stream,
        consumer: sample.consumer,
        pending: sample.pending,
        in_flight: sample.in_flight,
        redelivered: sample.redelivered,
        health,
        status,
        most,
    }
}

fn health(sample: &Sample, now: Timestamp) -> (&'static str, &'static str) {
    // What has no consumer waits for no one: dead letters, say.
    let left = sample.pending + sample.in_flight > 0 && !sample.consumer.is_empty();
    if now.as_millisecond() - sample.sampled_ms > STALE_MS {
        ("not sampled", "retry")
    } else if left && sample.waiting == 0 && sample.in_flight == 0 && sample.out_per_s == 0.0 {
        ("nobody consumes", "error")
    } else if left && sample.oldest_ms > OLD_MS {
        ("behind", "retry")
    } else {
        ("ok", "ok")
    }
}

/// The line of a history, oldest first; intervals without a sample are left out.
fn history(points: &[(u32, u64)], most: u64) -> String {
    let mut points = points.to_vec();
    points.sort_unstable_by_key(|(ago, _)| std::cmp::Reverse(*ago));
    let last = (POINTS - 1) as f64;
    let at = |(ago, pending): &(u32, u64)| {
        let x = (last - f64::from(*ago)).max(0.0) * 100.0 / last;
        let y = 19.0 - 18.0 * *pending as f64 / most.max(1) as f64;
        format!("{},{}", round(x), round(y))
    };
    points.iter().map(at).collect::<Vec<_>>().join(" ")
}

fn per_second(rate: f64) -> String {
    if rate >= 100.0 || rate == 0.0 { format!("{rate:.0}") } else { format!("{rate:.1}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Sample {
        Sample {
            stage: "send".into(),
            lane: "bulk".into(),
            channel: "sms".into(),
            stream: "send".into(),
            consumer: "bulk".into(),
            sampled_ms: 100_000,
            pending: 5,
            in_flight: 0,
            redelivered: 0,
            waiting: 1,
            oldest_ms: 20,
            in_per_s: 1.0,
            out_per_s: 0.0,
            history: vec![(0, 5), (59, 10)],
        }
    }

    #[test]
    fn what_is_wrong_with_a_queue_has_a_name() {
        let now = Timestamp::from_second(101).unwrap();
        for (sample, expected) in [
            (sample(), "ok"),
            (Sample { waiting: 0, ..sample() }, "nobody consumes"),
            (Sample { waiting: 0, in_flight: 5, ..sample() }, "ok"),
            (Sample { waiting: 0, pending: 0, ..sample() }, "ok"),
            (Sample { oldest_ms: 20_000, ..sample() }, "behind"),
            (Sample { oldest_ms: 20_000, pending: 0, ..sample() }, "ok"),
            (Sample { oldest_ms: 20_000, consumer: String::new(), ..sample() }, "ok"),
            (Sample { sampled_ms: 1, ..sample() }, "not sampled"),
        ] {
            assert_eq!(health(&sample, now).0, expected, "{sample:?}");
        }
    }

    #[test]
    fn a_history_runs_from_left_to_right_and_reaches_its_top() {
        assert_eq!(line(sample(), Timestamp::from_second(101).unwrap()).history, "0,1 100,10");
    }
}
