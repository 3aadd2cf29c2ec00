//! The list of notifications: newest first, narrowed by any id, user or key, by state and by time.

use chasqui_schemas::{
    clickhouse::{DELIVERY_STATES, NOTIFICATION_STATES},
    trace::State,
};
use chasqui_warehouse::read::{
    reconstruct::{FANNED_OUT, PENDING},
    waterfall::duration,
};
use clickhouse::{Client, Row};
use jiff::{Timestamp, civil::DateTime, tz::Offset};
use serde::{Deserialize, Serialize};
use serde_json::json;
use uuid::Uuid;

use crate::{Page, Parameters, Problem, meaning, moment};

/// What the view `traces` says of traces whose state no step has decided.
const OTHERS: [&str; 2] = [PENDING, FANNED_OUT];
/// Maximum rows of a list.
const MAX_ROWS: usize = 100;
/// Maximum notifications of one user or key that are looked through: the newest.
const MAX_MATCHES: usize = 10_000;
/// Where nothing is asked for, the last day is shown.
const DAY_MS: i64 = 86_400_000;

/// What ClickHouse knows of a trace, from the view `traces`.
#[derive(Debug, Row, Deserialize)]
struct Found {
    trace_id: String,
    is_notification: u8,
    submitted_ms: i64,
    user: String,
    app: String,
    category: String,
    channels: Vec<String>,
    lane: String,
    state: String,
    reason: String,
    sent_after_ms: Option<u32>,
}

/// A row of the list.
#[derive(Debug, Serialize)]
struct Line {
    trace_id: String,
    is_notification: bool,
    submitted: String,
    user: String,
    app: String,
    category: String,
    channels: String,
    lane: String,
    state: String,
    reason: String,
    meaning: String,
    sent_after: String,
}

/// The words and times of a search.
#[derive(Debug, Default, PartialEq)]
struct Search {
    q: String,
    state: String,
    from_ms: Option<i64>,
    to_ms: Option<i64>,
}

pub(super) async fn page(client: &Client, asked: &Parameters, now: Timestamp) -> Result<Page, Problem> {
    let search = read(asked)?;
    let found = find(client, &search, now).await?;
    if let ([only], Ok(_)) = (found.as_slice(), search.q.parse::<Uuid>()) {
        return Ok(Page::Elsewhere(format!("/ui/n/{}", only.trace_id)));
    }
    let older = match found.last() {
        Some(last) if found.len() == MAX_ROWS => Some(older(asked, last.submitted_ms)),
        _ => None,
    };
    let lines: Vec<Line> = found.into_iter().map(line).collect();
    let states: Vec<&str> = State::ALL.iter().map(|state| state.as_str()).chain(OTHERS).collect();
    let field = |name: &str| asked.get(name).cloned().unwrap_or_default();
    Ok(Page::Show(
        "search.html",
        json!({ "view": "search", "title": "Notifications", "lines": lines, "states": states, "older": older, "q": search.q, "state": search.state, "from": field("from"), "to": field("to"), "is_default": search == Search::default() }),
    ))
}

fn read(asked: &Parameters) -> Result<Search, Problem> {
    let time = |name: &str| {
        let read = |text: &String| Offset::UTC.to_timestamp(text.parse::<DateTime>()?).map(Timestamp::as_millisecond);
        let wrong = |_| Problem::Asked(format!("{name}: write it as 2026-01-31T23:59, in UTC").into());
        asked.get(name).map(read).transpose().map_err(wrong)
    };
    let word = |name: &str| asked.get(name).cloned().unwrap_or_default();
    let state = word("state");
    if !state.is_empty() && !OTHERS.contains(&state.as_str()) && State::ALL.iter().all(|known| known.as_str() != state)
    {
        return Err(Problem::Asked("state: there is no such state".into()));
    }
    Ok(Search { q: word("q"), state, from_ms: time("from")?, to_ms: time("to")? })
}

async fn find(client: &Client, search: &Search, now: Timestamp) -> Result<Vec<Found>, Problem> {
    // An id is found whenever it was; without anything to look for, there is no point in reading months.
    let is_open = search.q.is_empty() && search.from_ms.is_none() && search.to_ms.is_none();
    let from_ms = if is_open { Some(now.as_millisecond() - DAY_MS) } else { search.from_ms };
    let mut within = vec!["1".to_owned()];
    within.extend(from_ms.map(|ms| format!("submitted_at >= fromUnixTimestamp64Milli({ms})")));
    within.extend(search.to_ms.map(|ms| format!("submitted_at <= fromUnixTimestamp64Milli({ms})")));
    let within = within.join(" AND ");
    let mut conditions = within.clone();
    let mut binds: Vec<&str> = Vec::new();
    let id = search.q.parse::<Uuid>().map(|id| id.to_string()).unwrap_or_default();
    if !search.q.is_empty() {
        // Not FINAL, which would merge all to find one: that several rows of it match does no harm.
        let mut matches = "user = ? OR transaction_id = ? OR idempotency_key = ?".to_owned();
        binds.extend([search.q.as_str(); 3]);
        if !id.is_empty() {
            matches.push_str(&format!(
                " OR notification_id = toUUID(?) OR request_id = toUUID(?) OR notification_id IN
                 (SELECT notification_id FROM {DELIVERY_STATES} WHERE delivery_id = toUUID(?) LIMIT {MAX_MATCHES})"
            ));
            binds.extend([id.as_str(); 3]);
        }
        conditions.push_str(&format!(
            " AND (submitted_at, notification_id) IN
             (SELECT submitted_at, notification_id FROM {NOTIFICATION_STATES}
              WHERE {within} AND ({matches}) ORDER BY submitted_at DESC LIMIT {MAX_MATCHES})"
        ));
    }
    if !search.state.is_empty() {
        conditions.push_str(" AND state = ?");
        binds.push(&search.state);
    }
    let sql = format!(
        "SELECT trace_id, is_notification, toUnixTimestamp64Milli(submitted_at) AS submitted_ms, user,
                toString(app) AS app, toString(category) AS category, channels, lane, state, reason,
                toUInt32(sent_after_ms) AS sent_after_ms
         FROM traces WHERE {conditions} ORDER BY submitted_at DESC, notification_id LIMIT {MAX_ROWS}"
    );
    let query = binds.into_iter().fold(client.query(&sql), |query, text| query.bind(text));
    Ok(query.fetch_all().await?)
}

/// The search for a word.
pub(super) fn link(word: String) -> String {
    let prefix = "/ui?".to_owned();
    let start = prefix.len();
    form_urlencoded::Serializer::for_suffix(prefix, start).append_pair("q", &word).finish()
}

/// The same search, up to the last row's time: what was submitted in that millisecond comes again, and none is left out.
fn older(asked: &Parameters, to_ms: i64) -> String {
    let to = moment(to_ms).replace(' ', "T");
    let others = asked.iter().filter(|(name, _)| *name != "to");
    let prefix = "/ui?".to_owned();
    let start = prefix.len();
    form_urlencoded::Serializer::for_suffix(prefix, start).extend_pairs(others).append_pair("to", &to).finish()
}

fn line(found: Found) -> Line {
    Line {
        is_notification: found.is_notification == 1,
        submitted: moment(found.submitted_ms),
        channels: found.channels.join(" "),
        meaning: meaning(&found.reason),
        sent_after: found.sent_after_ms.map(|ms| duration(u64::from(ms) * 1_000_000)).unwrap_or_default(),
        trace_id: found.trace_id,
        user: found.user,
        app: found.app,
        category: found.category,
        lane: found.lane,
        state: found.state,
        reason: found.reason,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(pairs: &[(&str, &str)]) -> Parameters {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn times_are_utc_with_or_without_seconds() {
        let search = read(&asked(&[("from", "1970-01-01T00:01"), ("to", "1970-01-01T00:00:02.345")])).unwrap();
        assert_eq!((search.from_ms, search.to_ms), (Some(60_000), Some(2_345)));
    }

    #[test]
    fn what_makes_no_sense_is_said() {
        for (name, value) in [("from", "yesterday"), ("to", "2026-13-01T00:00"), ("state", "lost")] {
            let problem = read(&asked(&[(name, value)])).unwrap_err().to_string();
            assert!(problem.starts_with(name), "{problem}");
        }
    }

    #[test]
    fn the_link_to_what_is_older_keeps_the_rest_of_the_search() {
        let link = older(&asked(&[("q", "a&b"), ("to", "2026-01-01T00:00")]), 1_500);
        assert_eq!(link, "/ui?q=a%26b&to=1970-01-01T00%3A00%3A01.500");
    }
}
