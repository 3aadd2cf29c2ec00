//! A notification's state is a rule in two languages: the tree that Rust reads from `trace_events`
//! (`read::reconstruct`), and what the writer (`write::states`) and the view `notifications` make of the same steps.
//! Random stories hold them together: attempts in any number, replayed dead letters, receipts before and after
//! everything else, every step possibly twice, and all of it in a random order over many inserts.

#![allow(clippy::expect_used, reason = "a test may fail")]

use std::{collections::BTreeMap, time::Duration};

use super::bench::{
    Bench,
    story::{Story, delivery, notification, receipt, submitted_at},
};
use anyhow::{Context as _, Result};
use chasqui_contract::{Output, Verdict};
use chasqui_schemas::{
    Delivery, Notification, Reason, ReceiptKind, Stage,
    delivery::Address,
    id,
    receipt::Actor,
    trace::{State, TraceEvent},
};
use chasqui_warehouse::{
    WriterSettings, load,
    read::reconstruct::{PENDING, TraceTree, trees},
};
use clickhouse::Row;
use jiff::SignedDuration;
use proptest::{
    prelude::*,
    sample::select,
    strategy::ValueTree,
    test_runner::{Config, TestRunner},
};
use serde::Deserialize;
use uuid::Uuid;

/// Enough for every pair of an ending and a receipt to meet; one look-up answers up to a thousand traces.
const STORIES: usize = 400;

/// What happens to one notification.
#[derive(Debug, Clone)]
struct Plan {
    is_deferred: bool,
    course: Course,
    /// For each step in turn, whether it comes twice.
    twice: Vec<bool>,
}

#[derive(Debug, Clone)]
enum Course {
    /// It waits at a stage, or ends there.
    Whole(Stage, Option<End>),
    Rendered(Vec<Way>),
    /// Of it there is only what was reported.
    Stranger(Vec<Report>),
}

/// What happens to one delivery: the ends of its attempts, and what is reported.
#[derive(Debug, Clone)]
struct Way {
    /// How often its text failed; without attempts, it did so to the end.
    failures: u32,
    attempts: Vec<End>,
    reports: Vec<Report>,
}

#[derive(Debug, Clone, Copy)]
enum End {
    Retry(Reason),
    Sent,
    Bounce,
    Suppress(Reason),
    Dead(Reason),
}

type Report = (ReceiptKind, i64, Actor);

#[derive(Debug, PartialEq, Row, Deserialize)]
struct StateRow {
    notification_id: String,
    state: String,
    reason: String,
}

#[derive(Debug, PartialEq, Row, Deserialize)]
struct DeliveryRow {
    delivery_id: String,
    state: String,
    reason: String,
    has_ended: bool,
    opened_ms: i64,
    opened_human_ms: i64,
}

#[tokio::test(flavor = "multi_thread")]
async fn a_state_is_the_same_in_rust_and_in_sql_whatever_happened() -> Result<()> {
    let mut runner = TestRunner::new(Config::default());
    let request_id = id::request("states", submitted_at(), 1);
    let mut plans = BTreeMap::new();
    let mut events = Vec::new();
    for number in 0..STORIES {
        let plan = draw(plan(), &mut runner)?;
        let wanted = notification(submitted_at(), request_id, &format!("user-{number}"), None);
        events.extend(steps(&wanted, &plan)?);
        plans.insert(wanted.id, plan);
    }
    let events = draw(Just(events).prop_shuffle(), &mut runner)?;

    let bench = Bench::ready().await?;
    // Of no insert it is known that it is the last: states merge while they are read.
    let settings = WriterSettings { max_rows: 500, max_wait: Duration::from_millis(50), ..WriterSettings::default() };
    let writer = bench.writer_with(settings);
    bench.trace(&events, 40).await?;
    bench.drained().await?;
    writer.stop().await?;

    let stored = load(&bench.clickhouse, &request_id.to_string()).await?;
    let known = |plan: &Plan| !matches!(plan.course, Course::Stranger(_));
    assert_eq!(stored.len(), plans.values().filter(|plan| known(plan)).count());
    let sql = "SELECT toString(notification_id) AS notification_id, state, reason FROM notifications";
    let rows: Vec<StateRow> = bench.clickhouse.query(sql).fetch_all().await?;
    assert_eq!(rows.len(), stored.len());
    let states: BTreeMap<String, StateRow> = rows.into_iter().map(|row| (row.notification_id.clone(), row)).collect();
    let deliveries = deliveries(&bench).await?;
    let written: BTreeMap<Uuid, TraceTree> =
        trees(events.clone()).into_iter().map(|tree| (tree.trace_id, tree)).collect();
    for tree in stored {
        let plan = &plans[&tree.trace_id];
        let row = states.get(&tree.trace_id.to_string()).with_context(|| format!("{plan:?}"))?;
        assert_eq!((&tree.state, &tree.reason), (&row.state, &row.reason), "the view's is the right one: {plan:#?}");
        let own = &written[&tree.trace_id];
        assert_eq!((&tree.state, &tree.reason), (&own.state, &own.reason), "as stored and as written: {plan:#?}");
        let of_it: Vec<&DeliveryRow> = ids_of(&events, tree.trace_id).filter_map(|id| deliveries.get(&id)).collect();
        let has_ended = if of_it.is_empty() { row.state != PENDING } else { of_it.iter().all(|row| row.has_ended) };
        assert_eq!(tree.has_ended(), has_ended, "{plan:#?}");
        for row in of_it {
            assert_eq!(row, &expected(&events, &row.delivery_id), "{plan:#?}");
        }
    }
    Ok(())
}

fn draw<T: std::fmt::Debug>(strategy: impl Strategy<Value = T>, runner: &mut TestRunner) -> Result<T> {
    Ok(strategy.new_tree(runner).map_err(|reason| anyhow::anyhow!("{reason}"))?.current())
}

fn plan() -> impl Strategy<Value = Plan> {
    let stage = || select(vec![Stage::Enrich, Stage::Filter, Stage::Dedupe, Stage::Render]);
    let whole = prop_oneof![
        any::<bool>().prop_map(|is_dead| match is_dead {
            true => End::Dead(Reason::RenderFailed),
            false => End::Suppress(Reason::OptedOut),
        }),
        Just(End::Suppress(Reason::Expired)),
    ];
    let report = || {
        let kind = select(ReceiptKind::ALL.to_vec());
        (kind, 0i64..100, select(vec![Actor::Human, Actor::Machine, Actor::Unknown]))
    };
    let reports = || prop::collection::vec(report(), 0..4);
    let end = prop_oneof![
        3 => select(vec![Reason::ProviderThrottled, Reason::ProviderTimeout]).prop_map(End::Retry),
        3 => Just(End::Sent),
        1 => Just(End::Bounce),
        1 => select(vec![Reason::Expired, Reason::OptedOut]).prop_map(End::Suppress),
        1 => select(vec![Reason::RetriesExhausted, Reason::NoProvider]).prop_map(End::Dead),
    ];
    let failures = prop_oneof![2 => Just(0), 1 => 1u32..3];
    let way = (failures, prop::collection::vec(end, 0..4), reports());
    let way = way.prop_map(|(failures, attempts, reports)| Way { failures, attempts, reports });
    let course = prop_oneof![
        2 => (stage(), prop::option::of(whole)).prop_map(|(stage, end)| Course::Whole(stage, end)),
        6 => prop::collection::vec(way, 1..4).prop_map(Course::Rendered),
        1 => prop::collection::vec(report(), 1..3).prop_map(Course::Stranger),
    ];
    (any::<bool>(), course, prop::collection::vec(any::<bool>(), 8)).prop_map(|(is_deferred, course, twice)| Plan {
        is_deferred,
        course,
        twice,
    })
}

/// Everything that is traced of a plan.
fn steps(wanted: &Notification, plan: &Plan) -> Result<Vec<TraceEvent>> {
    let mut story = Story::begin(wanted.clone());
    if plan.is_deferred {
        let message = Box::new(Output::Notification(wanted.clone()));
        story.stage(Stage::Filter, Verdict::Defer { until: story.at, reason: Reason::QuietHours, message });
    }
    let mut receipts = Vec::new();
    match &plan.course {
        Course::Whole(stage, end) => {
            let verdict = match end {
                Some(End::Suppress(reason)) => Verdict::Suppress(*reason),
                Some(End::Dead(reason)) => Verdict::Dead { reason: *reason, detail: String::new() },
                _ => Verdict::Forward(vec![Output::Notification(wanted.clone())]),
            };
            story.stage(*stage, verdict);
        }
        Course::Rendered(ways) => {
            let address = |number| Address::Phone(format!("+1555000{number}"));
            let deliveries: Vec<Delivery> = (0..ways.len()).map(|number| delivery(wanted, address(number))).collect();
            let (failed, written): (Vec<_>, Vec<_>) =
                deliveries.iter().cloned().zip(ways).partition(|(_, way)| way.failures > 0);
            let of = |some: &[(Delivery, &Way)]| some.iter().map(|(each, _)| each.clone()).collect::<Vec<_>>();
            story = story.rendered_but(&of(&written), &of(&failed));
            for (each, way) in &failed {
                let goes_on = !way.attempts.is_empty();
                (1..way.failures).for_each(|pass| story.replayed(each, pass, true));
                if goes_on {
                    story.replayed(each, way.failures, false);
                }
            }
            for (each, way) in deliveries.iter().zip(ways) {
                for (end, number) in way.attempts.iter().zip(1..) {
                    story.attempt(each, number, verdict(*end, each));
                }
                receipts.extend(reported(each, &way.reports)?);
            }
        }
        Course::Stranger(reports) => {
            story.events.clear();
            receipts = reported(&delivery(wanted, Address::Phone("+15550009".into())), reports)?;
        }
    }
    let mut steps = story.events;
    steps.extend(receipts);
    let again = steps.iter().zip(plan.twice.iter().cycle()).filter(|(_, twice)| **twice).map(|(step, _)| step.clone());
    let again: Vec<TraceEvent> = again.collect();
    steps.extend(again);
    Ok(steps)
}

fn reported(of: &Delivery, reports: &[Report]) -> Result<Vec<TraceEvent>> {
    let at = |seconds: i64| of.submitted_at + SignedDuration::from_secs(seconds);
    reports.iter().map(|&(kind, seconds, by)| receipt(of, kind, at(seconds), by)).collect()
}

fn verdict(end: End, of: &Delivery) -> Verdict {
    let message = Box::new(Output::Delivery(of.clone()));
    match end {
        End::Retry(reason) => Verdict::Retry { after: Duration::from_secs(1), reason, message },
        End::Sent => Verdict::Sent,
        End::Bounce => Verdict::Bounce(Reason::DeadEndpoint),
        End::Suppress(reason) => Verdict::Suppress(reason),
        End::Dead(reason) => Verdict::Dead { reason, detail: String::new() },
    }
}

async fn deliveries(bench: &Bench) -> Result<BTreeMap<String, DeliveryRow>> {
    let sql = "SELECT toString(delivery_id) AS delivery_id, state, reason, ended_at IS NOT NULL AS has_ended,
                      ifNull(toUnixTimestamp64Milli(opened_at), 0) AS opened_ms,
                      ifNull(toUnixTimestamp64Milli(opened_human_at), 0) AS opened_human_ms
               FROM deliveries";
    let rows: Vec<DeliveryRow> = bench.clickhouse.query(sql).fetch_all().await?;
    Ok(rows.into_iter().map(|row| (row.delivery_id.clone(), row)).collect())
}

fn ids_of(events: &[TraceEvent], trace_id: Uuid) -> impl Iterator<Item = String> {
    let of_it = events.iter().filter(move |event| event.trace_id == trace_id && !event.delivery_id.is_nil());
    let ids: std::collections::BTreeSet<Uuid> = of_it.map(|event| event.delivery_id).collect();
    ids.into_iter().map(|id| id.to_string())
}

/// A delivery's row as its steps say it: its highest state, and its first opens.
fn expected(events: &[TraceEvent], id: &str) -> DeliveryRow {
    let steps: Vec<&TraceEvent> = events.iter().filter(|event| event.delivery_id.to_string() == id).collect();
    let rank = |step: &&&TraceEvent| {
        let state = State::ALL.into_iter().find(|state| state.as_str() == step.state);
        (state.map_or(0, State::rank), step.attempt, step.reason.clone())
    };
    let highest = steps.iter().max_by_key(rank).expect("a step");
    let first = |by: &[&str]| {
        let is_by =
            |step: &&&TraceEvent| step.attributes.iter().any(|(key, value)| key == "by" && by.contains(&&**value));
        let opens = steps.iter().filter(|step| step.event == ReceiptKind::Opened.as_str()).filter(is_by);
        opens.map(|step| step.started_at / 1_000_000).min().unwrap_or(0)
    };
    let state = if highest.state.is_empty() { PENDING } else { &*highest.state };
    DeliveryRow {
        delivery_id: id.to_owned(),
        state: state.to_owned(),
        reason: highest.reason.to_string(),
        has_ended: steps.iter().any(|step| !step.state.is_empty()),
        opened_ms: first(&["human", "machine", "unknown"]),
        opened_human_ms: first(&["human"]),
    }
}
