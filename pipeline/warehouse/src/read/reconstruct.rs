//! Reads what happened to a notification back from ClickHouse, as one tree.
//!
//! Guarantee: from `trace_events` alone, each step once, whatever was inserted twice. A step whose parent is missing
//! is shown and named as an orphan, never left out: where a trace is incomplete, that is what one has to see.

use std::collections::{BTreeMap, BTreeSet};

use chasqui_schemas::{
    clickhouse::{DELIVERY_STATES, NOTIFICATION_STATES, TRACE_EVENTS},
    id,
    trace::{State, TraceEvent, event},
};
use clickhouse::Client;
use jiff::Timestamp;
use serde::Serialize;
use uuid::Uuid;

use crate::{
    WarehouseError,
    write::row::{EventRow, trace_hex},
};

/// Maximum traces of one look-up: a request has at most 1,000 recipients.
pub const MAX_TRACES: usize = 1_000;
/// Maximum steps of one look-up: a request to 1,000 recipients has some 10,000.
pub const MAX_EVENTS: usize = 100_000;
/// The state of a trace in which nothing is decided yet.
pub const PENDING: &str = "pending";
/// The state of a request's own trace: it became notifications, which have traces of their own.
pub const FANNED_OUT: &str = "fanned_out";
/// Steps nested deeper than this would be a fault; they are shown as orphans.
const MAX_DEPTH: usize = 64;

/// One trace.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TraceTree {
    /// The notification's id, or the request's own trace.
    pub trace_id: Uuid,
    /// The request it came from.
    pub request_id: Uuid,
    /// Who published it.
    pub app: String,
    /// What kind of message.
    pub category: String,
    /// As the view `notifications` has it: `pending` while nothing is decided. [`FANNED_OUT`] where it is a request's own.
    pub state: String,
    /// The reason of that state.
    pub reason: String,
    /// When the submission was stored.
    pub submitted_at: Timestamp,
    /// Nanoseconds from there to the end of the last step.
    pub took_ns: i64,
    /// The root, then orphans.
    pub roots: Vec<Node>,
    /// Steps whose parent is missing.
    pub orphans: Vec<String>,
    /// Steps that were there more than once.
    pub duplicates: Vec<String>,
}

impl TraceTree {
    /// Whether nothing more is to be expected but receipts: each of its deliveries, or without any it itself, has come to
    /// an end. A request's own trace says only what it became, which is an end too.
    pub fn has_ended(&self) -> bool {
        let mut deliveries = BTreeMap::new();
        let mut expected = 0;
        for step in self.steps() {
            if !step.delivery_id.is_nil() {
                *deliveries.entry(step.delivery_id).or_insert(false) |= !step.state.is_empty();
            } else if let Some(count) = step.attributes.get("deliveries") {
                // Render says how many it made: one that ended there is traced before the others are.
                expected = count.parse().unwrap_or(0).max(expected);
            }
        }
        match deliveries.is_empty() {
            true => self.state != PENDING,
            false => deliveries.len() >= expected && deliveries.into_values().all(|ended| ended),
        }
    }

    /// Whether every notification of a request is there and has a state. The request's own trace, where it has one, says
    /// how many they are.
    pub fn all_ended(traces: &[TraceTree]) -> bool {
        let expected = traces.iter().find_map(TraceTree::notifications).unwrap_or(1);
        let decided = traces.iter().filter(|tree| ![PENDING, FANNED_OUT].contains(&tree.state.as_str())).count();
        traces.iter().all(|tree| tree.state != PENDING) && decided >= expected
    }

    /// How many notifications a request became, where this is its own trace.
    pub fn notifications(&self) -> Option<usize> {
        let count = self.roots.first()?.attributes.get("notifications").filter(|_| self.state == FANNED_OUT);
        count.and_then(|count| count.parse().ok())
    }

    /// The step that decided the state of each delivery; where there is none, that of the notification or request itself.
    pub fn ends(&self) -> Vec<&Node> {
        let rank = |step: &Node| step.state.parse::<State>().map_or(0, State::rank);
        let mut ends: BTreeMap<Uuid, &Node> = BTreeMap::new();
        for step in self.steps().into_iter().filter(|step| rank(step) > 0) {
            let end = ends.entry(step.delivery_id).or_insert(step);
            if rank(step) > rank(end) {
                *end = step;
            }
        }
        if ends.len() > 1 {
            ends.remove(&Uuid::nil());
        }
        ends.into_values().collect()
    }

    /// Every step, those that followed after those from which they followed.
    pub fn steps(&self) -> Vec<&Node> {
        let mut steps: Vec<&Node> = self.roots.iter().collect();
        let mut next = 0;
        while let Some(step) = steps.get(next).copied() {
            steps.extend(&step.children);
            next += 1;
        }
        steps
    }
}

/// A step and what came of it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Node {
    /// 16 hex digits.
    pub span_id: String,
    /// What it is, in a few words.
    pub name: String,
    /// When it began.
    pub started_at: Timestamp,
    /// Nanoseconds from the submission to its beginning.
    pub offset_ns: i64,
    /// Nanoseconds that the message had waited in its queue.
    pub queued_ns: u64,
    /// Nanoseconds that it took.
    pub duration_ns: u64,
    /// See [`TraceEvent`] for these.
    #[allow(missing_docs, reason = "documented at the trace event")]
    pub stage: String,
    #[allow(missing_docs, reason = "documented at the trace event")]
    pub event: String,
    #[allow(missing_docs, reason = "documented at the trace event")]
    pub status: String,
    #[allow(missing_docs, reason = "documented at the trace event")]
    #[serde(skip_serializing_if = "String::is_empty")]
    pub state: String,
    #[allow(missing_docs, reason = "documented at the trace event")]
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
    #[allow(missing_docs, reason = "documented at the trace event")]
    #[serde(skip_serializing_if = "String::is_empty")]
    pub lane: String,
    #[allow(missing_docs, reason = "documented at the trace event")]
    #[serde(skip_serializing_if = "String::is_empty")]
    pub channel: String,
    #[allow(missing_docs, reason = "documented at the trace event")]
    #[serde(skip_serializing_if = "String::is_empty")]
    pub provider: String,
    #[allow(missing_docs, reason = "documented at the trace event")]
    #[serde(skip_serializing_if = "String::is_empty")]
    pub vendor: String,
    #[allow(missing_docs, reason = "documented at the trace event")]
    pub attempt: u32,
    #[allow(missing_docs, reason = "documented at the trace event")]
    #[serde(skip_serializing_if = "Uuid::is_nil")]
    pub delivery_id: Uuid,
    #[allow(missing_docs, reason = "documented at the trace event")]
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub attributes: BTreeMap<String, String>,
    /// The steps that followed from it, in order of time.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub children: Vec<Node>,
}

/// The traces of a notification, request or delivery (by UUID, with or without hyphens) or of a transaction (by the
/// producer's own id); none where nothing is known of it. At most [`MAX_TRACES`] and [`MAX_EVENTS`].
///
/// # Errors
/// What ClickHouse said.
pub async fn load(client: &Client, id: &str) -> Result<Vec<TraceTree>, WarehouseError> {
    let traces = find(client, id).await.map_err(WarehouseError::clickhouse("looking for a trace"))?;
    if traces.is_empty() {
        return Ok(Vec::new());
    }
    let sql =
        format!("SELECT ?fields FROM {TRACE_EVENTS} FINAL WHERE trace_id IN ? ORDER BY trace_id LIMIT {MAX_EVENTS}");
    let rows: Vec<EventRow> =
        client.query(&sql).bind(traces).fetch_all().await.map_err(WarehouseError::clickhouse("reading a trace"))?;
    Ok(trees(rows.into_iter().map(TraceEvent::from).collect()))
}

/// The traces that an id leads to: it is a trace's own, or that of what the states know.
async fn find(client: &Client, id: &str) -> Result<Vec<String>, clickhouse::error::Error> {
    let Ok(uuid) = id.parse::<Uuid>() else {
        return from_states(client, NOTIFICATION_STATES, "transaction_id = ?", id).await;
    };
    let sql = format!("SELECT trace_id FROM {TRACE_EVENTS} WHERE trace_id = ? LIMIT 1");
    let found: Vec<String> = client.query(&sql).bind(trace_hex(uuid)).fetch_all().await?;
    if !found.is_empty() {
        return Ok(found);
    }
    for (table, column) in [(NOTIFICATION_STATES, "request_id"), (DELIVERY_STATES, "delivery_id")] {
        let found = from_states(client, table, &format!("{column} = toUUID(?)"), &uuid.to_string()).await?;
        if !found.is_empty() {
            return Ok(found);
        }
    }
    // A producer's own id may be a UUID too.
    from_states(client, NOTIFICATION_STATES, "transaction_id = ?", id).await
}

async fn from_states(
    client: &Client,
    table: &str,
    condition: &str,
    id: &str,
) -> Result<Vec<String>, clickhouse::error::Error> {
    let sql = format!(
        "SELECT DISTINCT replaceAll(toString(notification_id), '-', '') FROM {table} WHERE {condition} LIMIT {MAX_TRACES}"
    );
    client.query(&sql).bind(id).fetch_all().await
}

/// Puts events together, one tree for each trace, in order of time.
pub fn trees(events: Vec<TraceEvent>) -> Vec<TraceTree> {
    let mut traces: BTreeMap<Uuid, Vec<TraceEvent>> = BTreeMap::new();
    for event in events {
        traces.entry(event.trace_id).or_default().push(event);
    }
    traces.into_iter().map(|(trace_id, events)| tree(trace_id, events)).collect()
}

fn tree(trace_id: Uuid, events: Vec<TraceEvent>) -> TraceTree {
    let (mut state, reason) = outcome(&events);
    if state == PENDING && events.iter().any(|event| event.event == event::REQUEST) {
        state = FANNED_OUT.to_owned();
    }
    let text = |pick: fn(&TraceEvent) -> &str| events.iter().map(pick).max().unwrap_or_default().to_owned();
    let (app, category) = (text(|event| &event.app), text(|event| &event.category));
    let request_id = events.iter().map(|event| event.request_id).max().unwrap_or_default();
    let submitted_ns = id::embedded_ms(trace_id).saturating_mul(1_000_000);
    let end_ns = events.iter().map(end_ns).max().unwrap_or(submitted_ns);

    let mut duplicates = BTreeSet::new();
    let mut steps: BTreeMap<u64, TraceEvent> = BTreeMap::new();
    for event in events {
        if let Some(twin) = steps.insert(event.span_id, event) {
            duplicates.insert(hex(twin.span_id));
        }
    }
    let known: BTreeSet<u64> = steps.keys().copied().collect();
    let mut children: BTreeMap<u64, Vec<TraceEvent>> = BTreeMap::new();
    for (_, event) in steps {
        // No span has the id zero: there the roots and those without a parent come together.
        let parent = if known.contains(&event.parent_span_id) { event.parent_span_id } else { 0 };
        children.entry(parent).or_default().push(event);
    }
    let mut orphans = Vec::new();
    let mut roots = Vec::new();
    // Once for the roots; again only for what hangs in a circle or too deep.
    let mut next = Some(0);
    while let Some(parent) = next {
        let mut found = children.remove(&parent).unwrap_or_default();
        found.sort_by_key(|event| (event.parent_span_id != 0, event.started_at, event.span_id));
        orphans.extend(found.iter().filter(|event| event.parent_span_id != 0).map(|event| hex(event.span_id)));
        roots.extend(found.into_iter().map(|event| node(event, submitted_ns, &mut children, 1)));
        next = children.keys().next().copied();
    }
    TraceTree {
        trace_id,
        request_id,
        app,
        category,
        state,
        reason,
        submitted_at: timestamp(submitted_ns),
        took_ns: end_ns.saturating_sub(submitted_ns),
        roots,
        orphans,
        duplicates: duplicates.into_iter().collect(),
    }
}

fn node(event: TraceEvent, submitted_ns: i64, children: &mut BTreeMap<u64, Vec<TraceEvent>>, depth: usize) -> Node {
    let mut below = if depth < MAX_DEPTH { children.remove(&event.span_id).unwrap_or_default() } else { Vec::new() };
    below.sort_by_key(|child| (child.started_at, child.span_id));
    let name = name(&event);
    Node {
        span_id: hex(event.span_id),
        name,
        started_at: timestamp(event.started_at),
        offset_ns: event.started_at.saturating_sub(submitted_ns),
        queued_ns: event.queued_ns,
        duration_ns: event.duration_ns,
        stage: event.stage.into(),
        event: event.event.into(),
        status: event.status.into(),
        state: event.state.into(),
        reason: event.reason.into(),
        lane: event.lane.into(),
        channel: event.channel.into(),
        provider: event.provider.into(),
        vendor: event.vendor.into(),
        attempt: event.attempt,
        delivery_id: event.delivery_id,
        attributes: event.attributes.into_iter().map(|(key, value)| (key.into(), value.into())).collect(),
        children: below.into_iter().map(|child| node(child, submitted_ns, children, depth + 1)).collect(),
    }
}

/// The rule of the view `notifications`, to which `tests/servers/states.rs` holds it: the state of the delivery that got furthest if there is any, else its own.
/// A delivery's state is its highest; one that was accepted outweighs another that bounced.
fn outcome(events: &[TraceEvent]) -> (String, String) {
    let has_deliveries = events.iter().any(|event| !event.delivery_id.is_nil());
    let mut highest: BTreeMap<Uuid, (u8, u32, &TraceEvent)> = BTreeMap::new();
    for event in events.iter().filter(|event| event.delivery_id.is_nil() != has_deliveries) {
        let rank = State::ALL.iter().find(|state| state.as_str() == event.state).map_or(0, |state| state.rank());
        let stage = chasqui_schemas::Stage::ALL.iter().position(|stage| stage.as_str() == event.stage);
        let step = if has_deliveries { event.attempt } else { stage.map_or(0, |stage| stage as u32 + 1) };
        let entry = highest.entry(event.delivery_id).or_insert((rank, step, event));
        if (rank, step, &event.reason) > (entry.0, entry.1, &entry.2.reason) {
            *entry = (rank, step, event);
        }
    }
    let accepted = |rank: u8| [State::Sent.rank(), State::Delivered.rank()].contains(&rank);
    let furthest =
        highest.into_values().max_by_key(|(rank, step, event)| (accepted(*rank), *rank, *step, &event.reason));
    match furthest {
        Some((0, _, event)) => (PENDING.to_owned(), event.reason.to_string()),
        Some((rank, _, event)) if accepted(rank) => (event.state.to_string(), String::new()),
        Some((_, _, event)) => (event.state.to_string(), event.reason.to_string()),
        None => (PENDING.to_owned(), String::new()),
    }
}

/// What a step is, in a few words; `otel_traces.SpanName` says the same.
pub(crate) fn name(of: &TraceEvent) -> String {
    let TraceEvent { event, stage, channel, provider, attempt, category, .. } = of;
    match event.as_str() {
        event::ATTEMPT => format!("send {channel} via {provider} #{attempt}"),
        event::STAGE => {
            let deferred = if of.status == "deferred" { " (deferred)" } else { "" };
            format!("{}{deferred}", format!("{stage} {channel}").trim())
        }
        event::NOTIFICATION | event::REQUEST => format!("{event} {category}").trim().to_owned(),
        receipt => format!("{receipt} {channel}").trim().to_owned(),
    }
}

fn end_ns(event: &TraceEvent) -> i64 {
    event.started_at.saturating_add(i64::try_from(event.duration_ns).unwrap_or(i64::MAX))
}

fn timestamp(ns: i64) -> Timestamp {
    Timestamp::from_nanosecond(i128::from(ns)).unwrap_or_default()
}

fn hex(span_id: u64) -> String {
    format!("{span_id:016x}")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn step(span_id: u64, parent_span_id: u64) -> TraceEvent {
        TraceEvent { trace_id: Uuid::from_u128(1), span_id, parent_span_id, ..TraceEvent::default() }
    }

    fn count(nodes: &[Node]) -> usize {
        nodes.iter().map(|node| 1 + count(&node.children)).sum()
    }

    #[test]
    fn a_step_without_its_parent_is_an_orphan_and_still_shown() {
        let tree = &trees(vec![step(1, 0), step(2, 1), step(3, 7), step(4, 3)])[0];
        assert_eq!(tree.orphans, [hex(3)]);
        assert_eq!(tree.roots.len(), 2);
        assert_eq!(tree.roots[1].children.len(), 1);
    }

    #[test]
    fn a_step_that_comes_twice_is_shown_once() {
        let tree = &trees(vec![step(1, 0), step(2, 1), step(2, 1)])[0];
        assert_eq!(tree.duplicates, [hex(2)]);
        assert_eq!(count(&tree.roots), 2);
    }

    #[test]
    fn deliveries_decide_the_state_where_there_are_any() {
        let own = TraceEvent { state: "dead".into(), reason: "render_failed".into(), ..step(1, 0) };
        assert_eq!(outcome(std::slice::from_ref(&own)), ("dead".into(), "render_failed".into()));
        let waiting = TraceEvent { delivery_id: Uuid::from_u128(2), ..step(2, 1) };
        assert_eq!(outcome(&[own.clone(), waiting.clone()]).0, "pending");
        let sent = TraceEvent { state: "sent".into(), ..waiting.clone() };
        assert_eq!(outcome(&[own, sent, waiting]).0, "sent");
    }

    #[test]
    fn a_trace_has_ended_when_all_its_deliveries_have() {
        let ended = |events: &[TraceEvent]| trees(events.to_vec())[0].has_ended();
        let request = TraceEvent { event: event::REQUEST.into(), ..step(1, 0) };
        assert!(ended(std::slice::from_ref(&request)) && !ended(&[step(1, 0)]));
        assert!(ended(&[TraceEvent { state: "suppressed".into(), ..step(1, 0) }]));
        let prioritized = |id: u64| TraceEvent { delivery_id: Uuid::from_u128(id.into()), ..step(id, 1) };
        let sent = |id: u64| TraceEvent { span_id: id + 10, state: "sent".into(), ..prioritized(id) };
        let mut events = vec![step(1, 0), prioritized(2), prioritized(3), sent(2)];
        assert!(!ended(&events), "one delivery is still on its way");
        events.push(sent(3));
        assert!(ended(&events));
        events[0].attributes.push(("deliveries".into(), "3".into()));
        assert!(!ended(&events), "one that render forwarded is not seen yet");
        events.push(sent(4));
        assert!(ended(&events));
    }

    fn root(trace: u128, event: &str, state: &str, notifications: &str) -> TraceEvent {
        TraceEvent {
            trace_id: Uuid::from_u128(trace),
            span_id: 1,
            event: event.into(),
            state: state.into(),
            attributes: vec![("notifications".into(), notifications.into())],
            ..TraceEvent::default()
        }
    }

    #[test]
    fn a_request_has_ended_when_all_its_notifications_have() {
        let ended = |events: &[TraceEvent]| TraceTree::all_ended(&trees(events.to_vec()));
        let fan_out = root(9, event::REQUEST, "", "2");
        let sent = |trace| root(trace, event::NOTIFICATION, "sent", "");
        let waiting = root(2, event::NOTIFICATION, "", "");
        assert!(!ended(&[]));
        assert!(ended(&[sent(1)]));
        assert!(ended(&[root(9, event::REQUEST, "rejected", "")]));
        assert!(!ended(std::slice::from_ref(&fan_out)));
        assert!(!ended(&[fan_out.clone(), sent(1)]));
        assert!(!ended(&[fan_out.clone(), sent(1), waiting]));
        assert!(ended(&[fan_out.clone(), sent(1), sent(2)]));
        let tree = &trees(vec![fan_out])[0];
        assert_eq!((tree.state.as_str(), tree.notifications()), (FANNED_OUT, Some(2)));
    }

    proptest! {
        #[test]
        fn no_step_is_left_out_whatever_the_parents(parents in proptest::collection::vec(0u64..40, 1..120)) {
            let events = parents.iter().zip(1..).map(|(&parent, id)| step(id, parent)).collect();
            let tree = &trees(events)[0];
            prop_assert_eq!(count(&tree.roots), parents.len());
        }
    }
}
