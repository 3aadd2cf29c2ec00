//! One notification: what is known of it, what became of its deliveries, and the waterfall of its steps.

use chasqui_schemas::clickhouse::DELIVERIES;
use chasqui_warehouse::{
    TraceTree, load,
    read::{reconstruct::Node, waterfall::duration},
};
use clickhouse::{Client, Row};
use serde::{Deserialize, Serialize};
use serde_json::json;
use uuid::Uuid;

use crate::{
    Page, Problem,
    axis::{Axis, round},
    meaning, moment,
};

/// Maximum steps that are drawn; a notification to twenty devices with all its retries has fewer.
const MAX_STEPS: usize = 1_000;
/// Maximum deliveries that are listed.
const MAX_DELIVERIES: usize = 200;
/// Least width of a bar, in percent, so that every step can be seen.
const MIN_BAR: f64 = 0.3;

/// Columns of the view `traces` that the steps do not have.
#[derive(Debug, Default, Row, Serialize, Deserialize)]
struct Facts {
    user: String,
    transaction_id: String,
    idempotency_key: String,
    template: String,
    lane: String,
    stage: String,
}

/// A row of the view `deliveries`.
#[derive(Debug, Row, Deserialize)]
struct DeliveryRow {
    delivery_id: String,
    channel: String,
    provider: String,
    locale: String,
    variant: String,
    state: String,
    reason: String,
    attempts: u32,
    sent_after_ms: Option<u32>,
    delivered_after_ms: Option<u32>,
    opened_after_ms: Option<i64>,
    clicked_after_ms: Option<i64>,
}

/// The same, to show.
#[derive(Debug, Serialize)]
struct DeliveryLine {
    id: String,
    channel: String,
    provider: String,
    text: String,
    state: String,
    reason: String,
    meaning: String,
    attempts: u32,
    /// Sent, delivered, opened, clicked: time from the submission; empty where it has not happened.
    after: [String; 4],
}

/// A step to show.
#[derive(Debug, Serialize)]
struct Step {
    name: String,
    depth: usize,
    span_id: String,
    status: String,
    reason: String,
    meaning: String,
    start: String,
    waited: String,
    took: String,
    bar: Bar,
    facts: Vec<(String, String)>,
    children: Vec<Step>,
}

/// Positions in percent; without work a mark is drawn.
#[derive(Debug, Serialize)]
struct Bar {
    wait_x: f64,
    wait_width: f64,
    work_x: f64,
    work_width: f64,
    is_instant: bool,
}

pub(super) async fn page(client: &Client, id: &str) -> Result<Page, Problem> {
    let missing =
        || Problem::Missing(format!("There is no trace of {}.", id.chars().take(64).collect::<String>()).into());
    let id: Uuid = id.parse().map_err(|_| missing())?;
    let mut trees = load(client, &id.to_string()).await?;
    let (Some(tree), true) = (trees.pop(), trees.is_empty()) else {
        return if trees.is_empty() { Err(missing()) } else { Ok(Page::Elsewhere(format!("/ui?q={id}"))) };
    };
    let key = format!(
        "submitted_at = fromUnixTimestamp64Milli({}) AND notification_id = toUUID('{}')",
        tree.submitted_at.as_millisecond(),
        tree.trace_id
    );
    let facts = format!(
        "SELECT user, transaction_id, idempotency_key, toString(template) AS template, lane, stage FROM traces WHERE {key}"
    );
    let deliveries = format!(
        "SELECT toString(delivery_id) AS delivery_id, toString(channel) AS channel, provider, toString(locale) AS locale,
                toString(variant) AS variant, state, reason, attempts, toUInt32(sent_after_ms) AS sent_after_ms,
                toUInt32(delivered_after_ms) AS delivered_after_ms,
                dateDiff('millisecond', submitted_at, opened_at) AS opened_after_ms,
                dateDiff('millisecond', submitted_at, clicked_at) AS clicked_after_ms
         FROM {DELIVERIES} WHERE {key} ORDER BY first_at, delivery_id LIMIT {MAX_DELIVERIES}"
    );
    let facts = client.query(&facts);
    let (facts, deliveries) =
        tokio::try_join!(facts.fetch_optional::<Facts>(), client.query(&deliveries).fetch_all::<DeliveryRow>())?;
    Ok(show(&tree, &facts.unwrap_or_default(), deliveries))
}

fn show(tree: &TraceTree, facts: &Facts, deliveries: Vec<DeliveryRow>) -> Page {
    let mut left = MAX_STEPS;
    let axis = Axis::of(work(&tree.roots));
    let steps: Vec<Step> = tree.roots.iter().filter_map(|node| step(node, 0, &axis, &mut left)).collect();
    let deliveries: Vec<DeliveryLine> = deliveries.into_iter().map(delivery).collect();
    Page::Show(
        "notification.html",
        json!({ "view": "notification", "title": format!("{} · {}", tree.category, tree.app), "trace_id": tree.trace_id.to_string(), "request_id": tree.request_id.to_string(), "has_request": !tree.request_id.is_nil() && tree.request_id != tree.trace_id, "app": &tree.app, "category": &tree.category, "state": &tree.state, "reason": &tree.reason, "meaning": meaning(&tree.reason), "submitted": moment(tree.submitted_at.as_millisecond()), "took": duration(tree.took_ns.max(0).unsigned_abs()), "orphans": &tree.orphans, "duplicates": &tree.duplicates, "is_cut_short": left == 0, "max_steps": MAX_STEPS, "facts": facts, "deliveries": deliveries, "steps": steps, "ticks": axis.ticks(), "cuts": axis.cuts() }),
    )
}

/// When work was done. Waiting in a queue does not keep a pause from being cut out.
fn work(nodes: &[Node]) -> Vec<(i64, i64)> {
    let mut all: Vec<_> = nodes.iter().map(|node| (node.offset_ns, end(node))).collect();
    all.extend(nodes.iter().flat_map(|node| work(&node.children)));
    all
}

fn end(node: &Node) -> i64 {
    node.offset_ns.saturating_add(i64::try_from(node.duration_ns).unwrap_or(i64::MAX))
}

fn step(node: &Node, depth: usize, axis: &Axis, left: &mut usize) -> Option<Step> {
    *left = left.checked_sub(1)?;
    let waited = i64::try_from(node.queued_ns).unwrap_or(i64::MAX);
    let wait_x = axis.x(node.offset_ns.saturating_sub(waited));
    let work_x = axis.x(node.offset_ns);
    let bar = Bar {
        wait_x,
        wait_width: round(work_x - wait_x),
        work_x,
        work_width: round((axis.x(end(node)) - work_x).max(MIN_BAR)),
        is_instant: node.duration_ns == 0,
    };
    Some(Step {
        name: node.name.clone(),
        depth,
        span_id: node.span_id.clone(),
        status: node.status.clone(),
        reason: node.reason.clone(),
        meaning: meaning(&node.reason),
        start: duration(node.offset_ns.max(0).unsigned_abs()),
        waited: duration(node.queued_ns),
        took: duration(node.duration_ns),
        bar,
        facts: facts_of(node),
        children: node.children.iter().filter_map(|child| step(child, depth + 1, axis, left)).collect(),
    })
}

/// All that is known of a step, by name.
fn facts_of(node: &Node) -> Vec<(String, String)> {
    let attempt = if node.attempt == 0 { String::new() } else { node.attempt.to_string() };
    let delivery = if node.delivery_id.is_nil() { String::new() } else { node.delivery_id.to_string() };
    let own = [
        ("started at", node.started_at.to_string()),
        ("stage", node.stage.clone()),
        ("event", node.event.clone()),
        ("status", node.status.clone()),
        ("state", node.state.clone()),
        ("reason", node.reason.clone()),
        ("meaning", meaning(&node.reason)),
        ("lane", node.lane.clone()),
        ("channel", node.channel.clone()),
        ("provider", node.provider.clone()),
        ("vendor", node.vendor.clone()),
        ("attempt", attempt),
        ("delivery", delivery),
        ("span", node.span_id.clone()),
    ];
    let own = own.into_iter().map(|(name, value)| (name.to_owned(), value));
    let attributes = node.attributes.iter().map(|(name, value)| (name.clone(), value.clone()));
    own.chain(attributes).filter(|(_, value)| !value.is_empty()).collect()
}

fn delivery(row: DeliveryRow) -> DeliveryLine {
    let after = [
        row.sent_after_ms.map(i64::from),
        row.delivered_after_ms.map(i64::from),
        row.opened_after_ms,
        row.clicked_after_ms,
    ];
    let text = [row.locale, row.variant].into_iter().filter(|word| !word.is_empty()).collect::<Vec<_>>().join(", ");
    DeliveryLine {
        after: after.map(|ms| ms.map(|ms| duration(ms.max(0).unsigned_abs() * 1_000_000)).unwrap_or_default()),
        meaning: meaning(&row.reason),
        id: row.delivery_id,
        channel: row.channel,
        provider: row.provider,
        text,
        state: row.state,
        reason: row.reason,
        attempts: row.attempts,
    }
}

#[cfg(test)]
mod tests {
    use chasqui_schemas::trace::TraceEvent;
    use chasqui_warehouse::read::reconstruct::trees;
    use minijinja::value::Serde;

    use super::*;
    use crate::tests::console;

    fn html(page: Page) -> String {
        let ui = console(Client::default());
        let Page::Show(template, values) = page else { panic!("elsewhere") };
        ui.templates.get_template(template).unwrap().render(Serde(values)).unwrap()
    }

    /// A step whose every word is `word`.
    fn event(span_id: u64, parent_span_id: u64, word: &str) -> TraceEvent {
        TraceEvent {
            trace_id: Uuid::from_u128(1),
            span_id,
            parent_span_id,
            app: word.into(),
            category: word.into(),
            lane: word.into(),
            channel: word.into(),
            provider: word.into(),
            vendor: word.into(),
            stage: word.into(),
            event: word.into(),
            status: word.into(),
            state: word.into(),
            reason: word.into(),
            attributes: vec![(word.into(), word.into())],
            ..TraceEvent::default()
        }
    }

    #[test]
    fn words_from_outside_cannot_become_markup() {
        let word = "\"'><script>alert(1)</script><a href=javascript:x ";
        let tree = trees(vec![event(1, 0, word), event(2, 1, word), event(3, 9, word)]).remove(0);
        let text = || word.to_owned();
        let facts = Facts {
            user: text(),
            transaction_id: text(),
            idempotency_key: text(),
            template: text(),
            lane: text(),
            stage: text(),
        };
        let row = DeliveryRow {
            delivery_id: text(),
            channel: text(),
            provider: text(),
            locale: text(),
            variant: text(),
            state: text(),
            reason: text(),
            attempts: 1,
            sent_after_ms: Some(1),
            delivered_after_ms: None,
            opened_after_ms: None,
            clicked_after_ms: None,
        };
        let page = html(show(&tree, &facts, vec![row]));
        assert!(page.matches("alert(1)").count() > 20, "{page}");
        for markup in ["<script>", "<a href=javascript", "'>", "\">&quot;><"] {
            assert!(!page.contains(markup), "{markup}");
        }
    }

    #[test]
    fn a_trace_of_many_steps_is_cut_short_and_says_so() {
        let events = (1..=MAX_STEPS as u64 + 1).map(|n| event(n, u64::from(n > 1), "x")).collect();
        let page = html(show(&trees(events).remove(0), &Facts::default(), Vec::new()));
        assert_eq!(page.matches("<summary").count(), MAX_STEPS);
        assert!(page.contains("Only the first 1000 steps"));
    }
}
