//! What came of the deliveries of a period: over time, by a dimension, and how the notifications ended.
//!
//! The numbers are those of `chasqui stats`.

use chasqui_warehouse::stats::{Dimension, Rates, StateCount, outcomes, rates, rates_over_time};
use clickhouse::Client;
use jiff::Timestamp;
use serde::Serialize;
use serde_json::json;

use crate::{Page, Parameters, Problem, axis::round, meaning};

/// Maximum values of a dimension: a page with more is not read.
const MAX_VALUES: usize = 100;
/// A period's name, its length and that of its intervals, both in seconds.
const PERIODS: [(&str, i64, u32); 4] =
    [("1h", 3_600, 300), ("24h", 86_400, 3_600), ("7d", 7 * 86_400, 21_600), ("30d", 30 * 86_400, 86_400)];

/// A row of a table, and where its column stands in the chart.
#[derive(Debug, Serialize)]
struct Line {
    key: String,
    deliveries: u64,
    /// Percent of the most deliveries of any row.
    share: f64,
    /// The same of what arrived.
    delivered_share: f64,
    x: f64,
    width: f64,
    sent: u64,
    /// Delivered, bounced, opened by people, clicked: how many, and the share of what was sent.
    rates: [Rate; 4],
    p50: String,
    p99: String,
}

#[derive(Debug, Serialize)]
struct Rate {
    count: u64,
    percent: String,
}

/// How notifications ended.
#[derive(Debug, Serialize)]
struct Ending {
    state: String,
    reason: String,
    meaning: String,
    notifications: u64,
    percent: String,
    share: f64,
}

pub(super) async fn page(client: &Client, asked: &Parameters, now: Timestamp) -> Result<Page, Problem> {
    let word = |name: &str, default: &'static str| asked.get(name).map_or(default, String::as_str).to_owned();
    let (by, period) = (word("by", "channel"), word("period", "24h"));
    let dimensions = Dimension::ALL.map(Dimension::as_str);
    let by: Dimension =
        by.parse().map_err(|_| Problem::Asked(format!("by: one of {}", dimensions.join(", ")).into()))?;
    let (period, length_s, step_s) = PERIODS
        .into_iter()
        .find(|(known, ..)| *known == period)
        .ok_or_else(|| Problem::Asked("period: one of 1h, 24h, 7d, 30d".into()))?;
    // Whole intervals, the last of them under way.
    let step = i64::from(step_s);
    let until_s = now.as_second() / step * step + step;
    let since_s = until_s - length_s;
    let since = Timestamp::from_second(since_s).unwrap_or_default();
    let (over_time, by_value, endings) = tokio::try_join!(
        rates_over_time(client, since, step_s),
        rates(client, since, by, MAX_VALUES),
        outcomes(client, since)
    )?;
    let over_time = intervals(over_time, since_s, until_s, step);
    let periods = PERIODS.map(|(name, ..)| name);
    Ok(Page::Show(
        "rates.html",
        json!({ "view": "rates", "title": "Rates", "by": by.as_str(), "period": period, "dimensions": dimensions, "periods": periods, "since": since.strftime("%Y-%m-%d %H:%M").to_string(), "over_time": lines(over_time), "by_value": lines(by_value), "endings": endings_of(endings) }),
    ))
}

/// One row for each interval, those without deliveries too.
fn intervals(mut counted: Vec<Rates>, since_s: i64, until_s: i64, step_s: i64) -> Vec<Rates> {
    let mut all = Vec::new();
    let mut at = since_s;
    while at < until_s {
        let key = at.to_string();
        let found = counted.iter().position(|row| row.key == key).map(|at| counted.swap_remove(at));
        let label = Timestamp::from_second(at).unwrap_or_default();
        let label = label.strftime(if step_s < 86_400 { "%m-%d %H:%M" } else { "%Y-%m-%d" }).to_string();
        all.push(Rates { key: label, ..found.unwrap_or_default() });
        at += step_s;
    }
    all
}

fn lines(counted: Vec<Rates>) -> Vec<Line> {
    let most = counted.iter().map(|row| row.deliveries).max().unwrap_or(0).max(1) as f64;
    let slot = 100.0 / counted.len().max(1) as f64;
    let line = |(n, row): (usize, Rates)| Line {
        share: round(100.0 * row.deliveries as f64 / most),
        delivered_share: round(100.0 * row.delivered as f64 / most),
        x: round((n as f64 + 0.12) * slot),
        width: round(0.76 * slot),
        rates: [row.delivered, row.bounced, row.opened_human, row.clicked]
            .map(|count| Rate { count, percent: percent(count, row.sent) }),
        p50: milliseconds(row.sent_p50_ms, row.sent),
        p99: milliseconds(row.sent_p99_ms, row.sent),
        key: row.key,
        deliveries: row.deliveries,
        sent: row.sent,
    };
    counted.into_iter().enumerate().map(line).collect()
}

fn endings_of(outcomes: Vec<StateCount>) -> Vec<Ending> {
    let all = outcomes.iter().map(|outcome| outcome.notifications).sum();
    let ending = |StateCount { state, reason, notifications }| Ending {
        meaning: meaning(&reason),
        percent: percent(notifications, all),
        share: round(100.0 * notifications as f64 / all.max(1) as f64),
        state,
        reason,
        notifications,
    };
    outcomes.into_iter().map(ending).collect()
}

fn percent(part: u64, whole: u64) -> String {
    if whole == 0 { "–".to_owned() } else { format!("{:.1} %", 100.0 * part as f64 / whole as f64) }
}

fn milliseconds(ms: f64, sent: u64) -> String {
    if sent == 0 { "–".to_owned() } else { chasqui_warehouse::read::waterfall::duration((ms.max(0.0) * 1e6) as u64) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_without_deliveries_are_there_too() {
        let row = |key: &str| Rates { key: key.into(), deliveries: 4, sent: 4, delivered: 3, ..Rates::default() };
        let all = lines(intervals(vec![row("7200")], 0, 4 * 3_600, 3_600));
        let shown: Vec<_> = all.iter().map(|line| (line.key.as_str(), line.deliveries, line.share)).collect();
        let zero = |key| (key, 0, 0.0);
        assert_eq!(shown, [zero("01-01 00:00"), zero("01-01 01:00"), ("01-01 02:00", 4, 100.0), zero("01-01 03:00")]);
        assert_eq!((all[2].rates[0].percent.as_str(), all[0].rates[0].percent.as_str()), ("75.0 %", "–"));
    }
}
