//! Draws a trace as text: which step followed from which, when, how long it took, how it ended, and what explains that.
//!
//! Pure. What came from outside (categories, reasons, a provider's words) cannot steer the terminal: control characters
//! are replaced.

use std::{collections::BTreeMap, fmt::Write};

use chasqui_schemas::{Reason, text::clean};

use super::reconstruct::{FANNED_OUT, Node, TraceTree};

/// Least and maximum characters of a name with its branches; a narrow terminal gets fewer.
const NAME: std::ops::RangeInclusive<usize> = 16..=44;
/// Characters that the columns beside name, start and bar take.
const REST: usize = 2 * 9 + 2 + 10 + 2 + 18;
/// Maximum characters of a reason.
const MAX_REASON: usize = 24;
/// Least characters of a bar: a shorter one says nothing and is left out.
const MIN_BAR: usize = 10;
/// Maximum characters of an attribute's value: as many as a provider's words have at most.
const MAX_VALUE: usize = 500;
/// What a line of explanations begins with where it goes on.
const INDENT: &str = "    ";

/// Draws `tree` for a terminal of `width` characters.
///
/// The bar's `░` is waiting in the queue, `█` is work; receipts that came after the last step are `»` at its end. In a
/// narrow terminal bars and starts are left out, and no line is longer than it from 66 characters on. Below stands what the
/// steps say of themselves, and what the reason means.
pub fn render(tree: &TraceTree, width: usize, colours: bool) -> String {
    let mut lines = Vec::new();
    let max_name = width.saturating_sub(REST).clamp(*NAME.start(), *NAME.end());
    for root in &tree.roots {
        flatten(root, "", "", max_name, &mut lines);
    }
    let widest = |cells: &mut dyn Iterator<Item = usize>, least: usize| cells.max().unwrap_or(0).max(least);
    let name_width = widest(&mut lines.iter().map(|line| chars(&line.name)), 4);
    let reason_width = widest(&mut lines.iter().map(|line| chars(&line.reason)), 6);
    let fixed = name_width + reason_width + 3 * 9 + 10 + 2 * 3;
    let bar_width = width.saturating_sub(fixed + 2);
    let scale = Scale::of(&lines, bar_width);
    let wide = bar_width >= MIN_BAR;
    let start = |text: &str| if wide { format!(" {text:>9}") } else { String::new() };

    let mut text = heading(tree);
    let _ =
        writeln!(text, "{:name_width$}{}{:>9}{:>9}  {:10}  reason", "step", start("start"), "waited", "took", "status");
    for line in &lines {
        let node = line.node;
        let paint =
            |text: &str| if colours && !text.is_empty() { coloured(text, &node.status) } else { text.to_owned() };
        let row = format!(
            "{:name_width$}{}{:>9}{:>9}  {}  {:reason_width$}  {}",
            line.name,
            start(&format!("+{}", duration(node.offset_ns.max(0).unsigned_abs()))),
            duration(node.queued_ns),
            duration(node.duration_ns),
            paint(&format!("{:10}", clean(&node.status, 10))),
            line.reason,
            if wide { paint(&scale.bar(node)) } else { String::new() },
        );
        text.push_str(row.trim_end());
        text.push('\n');
    }
    for (what, spans) in [("without their parent", &tree.orphans), ("more than once", &tree.duplicates)] {
        if !spans.is_empty() {
            let _ = writeln!(text, "! steps {what}: {}", spans.join(", "));
        }
    }
    let explained: Vec<&Line<'_>> = lines.iter().filter(|line| !line.node.attributes.is_empty()).collect();
    if !explained.is_empty() {
        text.push_str("details\n");
    }
    for line in explained {
        text.push_str(&wrap(&format!("{}: ", clean(&line.node.name, *NAME.end())), &details(line.node), width));
    }
    if let Ok(reason) = tree.reason.parse::<Reason>() {
        let words = [reason.meaning(), reason.remedy().unwrap_or_default()].join(" ");
        text.push_str(&wrap(&format!("{reason}: "), &[words.trim_end().to_owned()], width));
    }
    text
}

/// What a step says of itself: `name: value` each.
pub fn details(node: &Node) -> Vec<String> {
    let detail = |(name, value): (&String, &String)| format!("{}: {}", clean(name, 64), clean(value, MAX_VALUE));
    node.attributes.iter().map(detail).collect()
}

/// How many notifications of a request ended in which way; nothing where there is one alone.
pub fn summary(traces: &[TraceTree]) -> Option<String> {
    let mut ends: BTreeMap<String, usize> = BTreeMap::new();
    for tree in traces.iter().filter(|tree| tree.state != FANNED_OUT) {
        *ends.entry(outcome(tree)).or_default() += 1;
    }
    let all: usize = ends.values().sum();
    let ends: Vec<String> = ends.into_iter().map(|(end, count)| format!("{count} {end}")).collect();
    (all > 1).then(|| format!("{all} notifications: {}", ends.join(", ")))
}

/// `state (reason)`
pub fn outcome(tree: &TraceTree) -> String {
    match tree.notifications() {
        Some(count) => format!("fanned out to {count} notifications"),
        None if tree.reason.is_empty() => tree.state.clone(),
        None => format!("{} ({})", tree.state, clean(&tree.reason, 64)),
    }
}

/// The parts after the name, with `·` between them, broken between words into lines of at most `width` characters.
fn wrap(name: &str, parts: &[String], width: usize) -> String {
    let mut text = name.to_owned();
    let mut length = chars(name);
    for (i, part) in parts.iter().enumerate() {
        for (j, word) in part.split(' ').enumerate() {
            let before = match (i, j) {
                (0, 0) => "",
                (_, 0) => " · ",
                _ => " ",
            };
            if length + chars(before) + chars(word) > width && length > chars(INDENT) {
                let _ = write!(text, "\n{INDENT}");
                length = chars(INDENT);
            } else {
                text.push_str(before);
                length += chars(before);
            }
            text.push_str(word);
            length += chars(word);
        }
    }
    text.push('\n');
    text
}

fn heading(tree: &TraceTree) -> String {
    format!(
        "{}  {} {}  {}  submitted {}, {} in all\n",
        tree.trace_id,
        clean(&tree.app, 64),
        clean(&tree.category, 64),
        outcome(tree),
        tree.submitted_at,
        duration(tree.took_ns.max(0).unsigned_abs()),
    )
}

struct Line<'a> {
    name: String,
    reason: String,
    node: &'a Node,
}

fn flatten<'a>(node: &'a Node, branch: &str, indent: &str, max_name: usize, lines: &mut Vec<Line<'a>>) {
    let name = clean(&format!("{branch}{}", node.name), max_name);
    lines.push(Line { name, reason: clean(&node.reason, MAX_REASON), node });
    for (i, child) in node.children.iter().enumerate() {
        let (fork, below) = if i + 1 < node.children.len() { ("├ ", "│ ") } else { ("└ ", "  ") };
        flatten(child, &format!("{indent}{fork}"), &format!("{indent}{below}"), max_name, lines);
    }
}

/// From the first step's waiting to the last step's end. Receipts come hours later: they do not stretch it.
struct Scale {
    begin: i64,
    span: i64,
    width: usize,
}

impl Scale {
    fn of(lines: &[Line<'_>], width: usize) -> Self {
        let begin = lines.iter().map(|line| waiting_since(line.node)).min().unwrap_or(0);
        let steps = lines.iter().filter(|line| line.node.stage != "receipt");
        let end = steps.map(|line| end(line.node)).max().unwrap_or(begin);
        Scale { begin, span: end.saturating_sub(begin).max(1), width }
    }

    fn cell(&self, ns: i64) -> usize {
        let share = ns.saturating_sub(self.begin) as f64 / self.span as f64;
        (share * self.width as f64) as usize
    }

    fn bar(&self, node: &Node) -> String {
        let first = self.cell(waiting_since(node));
        if first > self.width || (node.stage == "receipt" && end(node) > self.begin.saturating_add(self.span)) {
            return format!("{}»", " ".repeat(self.width - 1));
        }
        let first = first.min(self.width - 1);
        let work = self.cell(node.offset_ns).clamp(first, self.width - 1);
        let last = self.cell(end(node)).clamp(work + 1, self.width);
        format!("{}{}{}", " ".repeat(first), "░".repeat(work - first), "█".repeat(last - work))
    }
}

fn waiting_since(node: &Node) -> i64 {
    node.offset_ns.saturating_sub(i64::try_from(node.queued_ns).unwrap_or(i64::MAX))
}

fn end(node: &Node) -> i64 {
    node.offset_ns.saturating_add(i64::try_from(node.duration_ns).unwrap_or(i64::MAX))
}

fn coloured(text: &str, status: &str) -> String {
    let colour = match status {
        "ok" => 32,
        "deferred" | "retry" => 33,
        "rejected" | "dead" | "error" => 31,
        _ => 90,
    };
    format!("\x1b[{colour}m{text}\x1b[0m")
}

fn chars(text: &str) -> usize {
    text.chars().count()
}

/// A duration in at most seven characters or so: three digits where they matter.
pub fn duration(ns: u64) -> String {
    let (us, ms, s) = (ns / 1_000, ns / 1_000_000, ns / 1_000_000_000);
    match s {
        0 if ns == 0 => "0".to_owned(),
        0 if us == 0 => format!("{ns}ns"),
        0 if ms == 0 => format!("{us}µs"),
        0 if ms < 10 => format!("{}.{}ms", ms, us / 100 % 10),
        0 => format!("{ms}ms"),
        1..60 => format!("{s}.{}s", ms / 100 % 10),
        60..3_600 => format!("{}m{:02}s", s / 60, s % 60),
        3_600..86_400 => format!("{}h{:02}m", s / 3_600, s / 60 % 60),
        _ => format!("{}d{:02}h", s / 86_400, s / 3_600 % 24),
    }
}

#[cfg(test)]
mod tests {
    use chasqui_schemas::{id, trace::TraceEvent};
    use jiff::Timestamp;
    use uuid::Uuid;

    use super::*;
    use crate::read::reconstruct::trees;
    use chasqui_trace::span;

    const MS: i64 = 1_000_000;

    fn attributes(pairs: &[(&str, &str)]) -> chasqui_schemas::trace::Attributes {
        pairs.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect()
    }

    /// A notification with a deferral, a failed attempt, a success, and an open three hours later.
    fn example() -> TraceTree {
        let submitted = Timestamp::from_millisecond(1_790_000_000_000).unwrap();
        let trace_id = id::notification(submitted, Uuid::nil(), "user:ada");
        let delivery = Uuid::from_u128(9);
        let root = id::span(trace_id, "validate", None, 0);
        let render = id::span(trace_id, "render", None, 0);
        let anchor = span::delivery_anchor(trace_id, delivery);
        let base = |event: &str, stage: &str, at_ms: i64, waited_ms: i64, took_ms: i64| TraceEvent {
            trace_id,
            notification_id: trace_id,
            app: "shop".into(),
            category: "order".into(),
            event: event.into(),
            stage: stage.into(),
            status: "ok".into(),
            started_at: 1_790_000_000_000 * MS + at_ms * MS,
            queued_ns: (waited_ms * MS) as u64,
            duration_ns: (took_ms * MS) as u64,
            ..TraceEvent::default()
        };
        let stage = |stage: &str, span_id, at_ms, waited_ms, took_ms| TraceEvent {
            span_id,
            parent_span_id: root,
            ..base("stage", stage, at_ms, waited_ms, took_ms)
        };
        let attempt = |number, at_ms, waited_ms, took_ms| TraceEvent {
            span_id: id::span(trace_id, "send", Some(delivery), number),
            parent_span_id: anchor,
            delivery_id: delivery,
            channel: "sms".into(),
            provider: "twilio".into(),
            attempt: number,
            ..base("attempt", "send", at_ms, waited_ms, took_ms)
        };
        let events = vec![
            TraceEvent { span_id: root, ..base("notification", "validate", 1, 1, 1) },
            stage("enrich", id::span(trace_id, "enrich", None, 0), 4, 2, 2),
            TraceEvent {
                status: "deferred".into(),
                reason: "quiet_hours".into(),
                attributes: attributes(&[("until", "2026-09-22T05:00:00Z"), ("unknown_timezone", "Mars/Olympus")]),
                ..stage("filter", id::span(trace_id, "filter", None, 1), 8, 2, 1)
            },
            stage("filter", id::span(trace_id, "filter", None, 0), 40, 1, 1),
            stage("render", render, 44, 2, 10),
            TraceEvent {
                parent_span_id: render,
                delivery_id: delivery,
                channel: "sms".into(),
                ..stage("prioritize", anchor, 56, 1, 2)
            },
            TraceEvent {
                status: "retry".into(),
                reason: "provider_throttled".into(),
                attributes: attributes(&[
                    ("code", "20429"),
                    (
                        "detail",
                        "Too many requests: the account may make one call a second, and has made more than that",
                    ),
                ]),
                ..attempt(1, 60, 2, 10)
            },
            TraceEvent { state: "sent".into(), ..attempt(2, 90, 0, 12) },
            TraceEvent {
                span_id: 5,
                parent_span_id: anchor,
                delivery_id: delivery,
                channel: "sms".into(),
                ..base("opened", "receipt", 3 * 3_600_000, 0, 0)
            },
        ];
        trees(events).remove(0)
    }

    #[test]
    fn a_trace_is_drawn_as_a_waterfall() {
        insta::assert_snapshot!(render(&example(), 140, false), @"
        01a0c450-6c00-7387-9be6-17744f697d36  shop order  sent  submitted 2026-09-21T14:13:20Z, 3h00m in all
        step                             start   waited     took  status      reason
        notification order              +1.0ms    1.0ms    1.0ms  ok                              █
        ├ enrich                        +4.0ms    2.0ms    2.0ms  ok                              ░█
        ├ filter (deferred)             +8.0ms    2.0ms    1.0ms  deferred    quiet_hours           ░█
        ├ filter                         +40ms    1.0ms    1.0ms  ok                                                ░█
        └ render                         +44ms    2.0ms     10ms  ok                                                  ░████
          └ prioritize sms               +56ms    1.0ms    2.0ms  ok                                                        █
            ├ send sms via twilio #1     +60ms    2.0ms     10ms  retry       provider_throttled                             ░█████
            ├ send sms via twilio #2     +90ms        0     12ms  ok                                                                         ██████
            └ opened sms                +3h00m        0        0  ok                                                                              »
        details
        filter (deferred): unknown_timezone: Mars/Olympus · until: 2026-09-22T05:00:00Z
        send sms via twilio #1: code: 20429 · detail: Too many requests: the account may make one call a second, and has made more than that
        ");
    }

    #[test]
    fn a_narrow_terminal_gets_no_bars_and_colours_are_optional() {
        let text = render(&example(), 80, true);
        assert!(!text.contains('█'));
        let plain = render(&example(), 80, false);
        assert!(plain.lines().skip(1).all(|line| line.chars().count() <= 80), "{plain}");
        assert!(plain.contains("provider_throttled") && !plain.contains("start"), "{plain}");
        assert!(render(&example(), 140, true).contains("\x1b[33m"));
        assert!(text.contains("\x1b[33mretry     \x1b[0m"));
        assert!(!render(&example(), 60, false).contains('\x1b'));
    }

    #[test]
    fn what_explains_fits_the_terminal_and_the_reason_is_explained_with_its_remedy() {
        let mut tree = example();
        (tree.state, tree.reason) = ("dead".into(), "render_failed".into());
        let text = render(&tree, 80, false);
        assert!(text.lines().skip(1).all(|line| line.chars().count() <= 80), "{text}");
        assert!(text.contains("the account may\n    make one call"), "{text}");
        assert!(text.contains("\nrender_failed: The template failed on this data. Producer: correct"), "{text}");
        let long = wrap("step: ", &["x".repeat(200)], 80);
        assert_eq!(long, format!("step: \n    {}\n", "x".repeat(200)), "nothing is left out");
    }

    #[test]
    fn several_notifications_are_summed_up_and_a_request_is_not_pending() {
        let sent = example();
        let dead = TraceTree { state: "dead".into(), reason: "render_failed".into(), ..example() };
        assert_eq!(summary(std::slice::from_ref(&sent)), None);
        let request = TraceEvent {
            trace_id: Uuid::from_u128(7),
            span_id: 1,
            event: "request".into(),
            attributes: attributes(&[("notifications", "3")]),
            ..TraceEvent::default()
        };
        let request = trees(vec![request]).remove(0);
        let all = [request.clone(), sent.clone(), dead, sent];
        assert_eq!(summary(&all).as_deref(), Some("3 notifications: 1 dead (render_failed), 2 sent"));
        let text = render(&request, 80, false);
        assert!(text.contains("fanned out to 3 notifications") && !text.contains("pending"), "{text}");
    }

    #[test]
    fn words_from_outside_do_not_steer_the_terminal() {
        let mut tree = example();
        tree.roots[0].reason = "\x1b[2Jgone".into();
        tree.roots[0].attributes.insert("\x1b[1A".into(), "\x1b[8m".into());
        let text = render(&tree, 120, false);
        assert!(text.contains("\u{fffd}[2Jgone") && text.contains("\u{fffd}[1A: \u{fffd}[8m"), "{text}");
    }

    #[test]
    fn durations_are_short() {
        let shown: Vec<String> = [
            0,
            999,
            1_500,
            1_250_000,
            999_999_999,
            1_000_000_000,
            61_000_000_000,
            3_700_000_000_000,
            90_000_000_000_000,
        ]
        .map(duration)
        .to_vec();
        assert_eq!(shown, ["0", "999ns", "1µs", "1.2ms", "999ms", "1.0s", "1m01s", "1h01m", "1d01h"]);
    }
}
