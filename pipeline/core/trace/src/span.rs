//! Builds the trace events of a decision. Pure.
//!
//! One tree per notification:
//!
//! ```text
//! notification            validate, the root
//! ├ enrich                one span per stage …
//! ├ filter                … and one more for each time the message was put back
//! ├ dedupe
//! └ render
//!   └ prioritize          one per delivery
//!     ├ send              one per attempt, and one for each time it waited for a provider to be in service
//!     └ delivered, …      one per receipt
//! ```
//!
//! Guarantee: ids depend only on the message and the verdict. So a step that is done again after a crash replaces its
//! own row, and a child can name its parent without having seen it.

use std::time::Duration;

use chasqui_contract::{Context, Decision, Output, Verdict};
use chasqui_schemas::{
    Channel, Notification, Reason, Stage, id,
    trace::{State, Status, TraceEvent, event},
};
use compact_str::ToCompactString;
use jiff::Timestamp;
use uuid::Uuid;

/// Stands in the span id of a delivery's wait at send, which is no attempt and must not take an attempt's span.
const WAIT: &str = "send.wait";

/// When a step was done.
#[derive(Debug, Clone, Copy)]
pub struct Timing {
    /// When JetStream stored the message; it waited in the queue from then on.
    pub stored_at: Timestamp,
    /// When the stage began to decide.
    pub started_at: Timestamp,
    /// How long it took.
    pub took: Duration,
}

impl Timing {
    fn queued_ns(&self) -> u64 {
        u64::try_from(self.started_at.duration_since(self.stored_at).as_nanos()).unwrap_or(0)
    }
}

/// The span that is the parent of a delivery's attempts and receipts.
pub fn delivery_anchor(trace_id: Uuid, delivery_id: Uuid) -> u64 {
    id::span(trace_id, Stage::Prioritize.as_str(), Some(delivery_id), 0)
}

/// The root of a notification's trace.
fn root(trace_id: Uuid) -> u64 {
    id::span(trace_id, Stage::Validate.as_str(), None, 0)
}

/// The events that record what `stage` decided about the message of `context`.
pub fn of_decision(stage: Stage, context: &Context, timing: &Timing, decision: &Decision) -> Vec<TraceEvent> {
    let mut event = base(stage, context, timing);
    event.attributes.clone_from(&decision.attributes);
    let (status, state, reason) = outcome(&decision.verdict);
    event.status = status.as_str().into();
    event.state = state.map(State::as_str).unwrap_or_default().into();
    event.reason = reason.map(Reason::as_str).unwrap_or_default().into();
    let forwarded = matches!(decision.verdict, Verdict::Forward(_));
    (event.span_id, event.parent_span_id) = place(stage, context, forwarded);

    match &decision.verdict {
        Verdict::Forward(outputs) if stage == Stage::Validate => return accepted(event, outputs),
        Verdict::Forward(outputs) => {
            // The message says nothing of what the stage chose; its output does.
            if let Some(Output::Delivery(delivery)) = outputs.first() {
                event.variant = delivery.variant.as_str().into();
                event.locale = delivery.locale.as_str().into();
                event.provider = delivery.provider.as_str().into();
                event.lane = delivery.lane.as_str().into();
            }
        }
        Verdict::Reject { violations, request_id, .. } => {
            event.event = event::REQUEST.into();
            if let Some(request_id) = request_id {
                event.request_id = *request_id;
            }
            event.attributes.extend(
                violations.iter().enumerate().map(|(i, text)| (format!("violation.{i}").into(), text.as_str().into())),
            );
            link(&mut event);
        }
        Verdict::Dead { detail, .. } => {
            // The stage may have set the key itself, and a key may be there only once.
            event.attributes.retain(|(key, _)| key != "detail");
            event.attributes.push(("detail".into(), detail.as_str().into()));
        }
        Verdict::Defer { until, .. } => {
            event.attributes.push(("until".into(), until.to_compact_string()));
            if stage == Stage::Send {
                // No provider was called.
                event.provider.clear();
                event.vendor.clear();
                event.event = event::STAGE.into();
                event.span_id = id::span(context.trace_id, WAIT, context.delivery_id, context.pass.saturating_add(1));
            }
        }
        Verdict::Retry { after, .. } => {
            event.attributes.push(("retry_after_ms".into(), after.as_millis().to_compact_string()));
        }
        Verdict::Sent | Verdict::Suppress(_) | Verdict::Bounce(_) => {}
    }
    vec![event]
}

/// What all verdicts have in common.
fn base(stage: Stage, context: &Context, timing: &Timing) -> TraceEvent {
    TraceEvent {
        trace_id: context.trace_id,
        notification_id: context.notification_id,
        request_id: context.request_id,
        delivery_id: context.delivery_id.unwrap_or_default(),
        app: context.app.clone(),
        category: context.category.clone(),
        template: context.template.clone(),
        variant: context.variant.clone(),
        locale: context.locale.clone(),
        lane: context.lane.map(chasqui_schemas::Lane::as_str).unwrap_or_default().into(),
        channel: context.channel.map(Channel::as_str).unwrap_or_default().into(),
        provider: context.provider.clone(),
        vendor: context.vendor.clone(),
        stage: stage.as_str().into(),
        event: if stage == Stage::Send { event::ATTEMPT } else { event::STAGE }.into(),
        attempt: if stage == Stage::Send { context.attempt } else { 0 },
        queued_ns: timing.queued_ns(),
        started_at: i64::try_from(timing.started_at.as_nanosecond()).unwrap_or(0),
        duration_ns: u64::try_from(timing.took.as_nanos()).unwrap_or(u64::MAX),
        traceparent: context.traceparent.clone(),
        ..TraceEvent::default()
    }
}

fn outcome(verdict: &Verdict) -> (Status, Option<State>, Option<Reason>) {
    match verdict {
        Verdict::Forward(_) => (Status::Ok, None, None),
        Verdict::Sent => (Status::Ok, Some(State::Sent), None),
        Verdict::Suppress(Reason::Expired) => (Status::Suppressed, Some(State::Expired), Some(Reason::Expired)),
        Verdict::Suppress(reason) => (Status::Suppressed, Some(State::Suppressed), Some(*reason)),
        Verdict::Defer { reason, .. } => (Status::Deferred, None, Some(*reason)),
        Verdict::Retry { reason, .. } => (Status::Retry, None, Some(*reason)),
        Verdict::Bounce(reason) => (Status::Error, Some(State::Bounced), Some(*reason)),
        Verdict::Dead { reason, .. } => (Status::Dead, Some(State::Dead), Some(*reason)),
        Verdict::Reject { reason, .. } => (Status::Rejected, Some(State::Rejected), Some(*reason)),
    }
}

/// The span and its parent. A step that forwarded has number 0, where its children find it; one that did not forward
/// has no children, and gets a span for each time that the message came.
fn place(stage: Stage, context: &Context, forwarded: bool) -> (u64, u64) {
    let trace_id = context.trace_id;
    let number = match stage {
        Stage::Send => context.attempt,
        _ if forwarded => 0,
        _ => context.pass.saturating_add(1),
    };
    let span = id::span(trace_id, stage.as_str(), context.delivery_id, number);
    let parent = match stage {
        Stage::Validate => 0,
        Stage::Enrich | Stage::Filter | Stage::Dedupe | Stage::Render => root(trace_id),
        Stage::Prioritize => id::span(trace_id, Stage::Render.as_str(), None, 0),
        Stage::Send => delivery_anchor(trace_id, context.delivery_id.unwrap_or_default()),
    };
    (span, parent)
}

/// The events of a valid submission: a root for each notification and, where there are several, one of the request. The
/// notifications are linked to the request and are not its children, since a submission to many would make one trace of
/// millions of spans.
fn accepted(request: TraceEvent, outputs: &[Output]) -> Vec<TraceEvent> {
    let roots = outputs.iter().filter_map(|output| match output {
        Output::Notification(notification) => Some(root_event(&request, notification)),
        Output::Delivery(_) => None,
    });
    let mut events: Vec<TraceEvent> = roots.collect();
    if let [only] = &mut events[..] {
        only.attributes.extend(request.attributes);
    } else if let Some(first) = events.first() {
        let mut request = TraceEvent {
            request_id: first.request_id,
            category: first.category.clone(),
            template: first.template.clone(),
            event: event::REQUEST.into(),
            ..request
        };
        request.attributes.push(("notifications".into(), events.len().to_compact_string()));
        link(&mut request);
        events.push(request);
    }
    events
}

/// Names the producer's own span, from which ClickHouse's `otel_traces` makes a link.
fn link(root: &mut TraceEvent) {
    if !root.traceparent.is_empty() {
        root.attributes.push(("traceparent".into(), root.traceparent.clone()));
    }
}

fn root_event(request: &TraceEvent, notification: &Notification) -> TraceEvent {
    let common = &notification.request;
    let mut attributes = vec![("idempotency_key".into(), common.idempotency_key.as_str().into())];
    let optional = [
        ("user", notification.recipient.user()),
        ("transaction_id", common.transaction_id.as_deref()),
        ("traceparent", common.traceparent.as_deref()),
        ("test", common.test.then_some("true")),
    ];
    attributes.extend(optional.into_iter().filter_map(|(key, value)| Some((key.into(), value?.into()))));
    // One attribute: names of attributes are a dictionary in ClickHouse, and producers' words would fill it without end.
    if !common.metadata.is_empty() {
        // A map of texts always serialises.
        attributes.push(("metadata".into(), serde_json::to_string(&common.metadata).unwrap_or_default().into()));
    }
    TraceEvent {
        trace_id: notification.id,
        span_id: root(notification.id),
        parent_span_id: 0,
        notification_id: notification.id,
        request_id: common.id,
        category: common.category.as_str().into(),
        template: common.message.template().into(),
        event: event::NOTIFICATION.into(),
        traceparent: common.traceparent.as_deref().unwrap_or_default().into(),
        attributes,
        ..request.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn context(pass: u32, attempt: u32, delivery: Option<Uuid>) -> Context {
        Context {
            trace_id: Uuid::from_u128(7),
            notification_id: Uuid::from_u128(7),
            delivery_id: delivery,
            pass,
            attempt,
            ..Context::default()
        }
    }

    fn timing() -> Timing {
        Timing {
            stored_at: Timestamp::from_second(100).unwrap(),
            started_at: Timestamp::from_second(101).unwrap(),
            took: Duration::from_millis(5),
        }
    }

    fn one(stage: Stage, context: &Context, verdict: Verdict) -> TraceEvent {
        let events = of_decision(stage, context, &timing(), &Decision::new(verdict));
        assert_eq!(events.len(), 1);
        events.into_iter().next().unwrap()
    }

    #[test]
    fn a_delivery_hangs_on_the_tree_without_gaps() {
        let delivery = Some(Uuid::from_u128(9));
        let render = one(Stage::Render, &context(2, 0, None), Verdict::Forward(vec![]));
        let prioritize = one(Stage::Prioritize, &context(0, 1, delivery), Verdict::Forward(vec![]));
        let send = one(Stage::Send, &context(3, 4, delivery), Verdict::Sent);
        assert_eq!(render.parent_span_id, root(Uuid::from_u128(7)));
        assert_eq!(prioritize.parent_span_id, render.span_id);
        assert_eq!(send.parent_span_id, prioritize.span_id);
        assert_eq!((send.attempt, send.event.as_str(), send.state.as_str()), (4, "attempt", "sent"));
    }

    #[test]
    fn every_deferral_has_a_span_of_its_own() {
        let until = Timestamp::from_second(200).unwrap();
        let deferred = |pass| {
            let message = Box::new(Output::Notification(notification()));
            let verdict = Verdict::Defer { until, reason: Reason::QuietHours, message };
            one(Stage::Filter, &context(pass, 0, None), verdict)
        };
        let forwarded = one(Stage::Filter, &context(2, 0, None), Verdict::Forward(vec![]));
        let spans = [deferred(0).span_id, deferred(1).span_id, forwarded.span_id];
        assert_eq!(spans.iter().collect::<std::collections::BTreeSet<_>>().len(), 3);
        assert_eq!(deferred(0), deferred(0), "done again, it is the same span");
        assert_eq!(deferred(0).queued_ns, 1_000_000_000);
    }

    #[test]
    fn a_wait_for_a_provider_is_no_attempt_and_hides_none() {
        let until = Timestamp::from_second(200).unwrap();
        let delivery = Some(Uuid::from_u128(9));
        let waited = |pass| {
            let verdict = Verdict::Defer {
                until,
                reason: Reason::CircuitOpen,
                message: Box::new(Output::Notification(notification())),
            };
            one(Stage::Send, &Context { provider: "twilio".into(), ..context(pass, 1, delivery) }, verdict)
        };
        let attempt = one(Stage::Send, &context(2, 1, delivery), Verdict::Sent);
        let spans = [waited(0).span_id, waited(1).span_id, attempt.span_id];
        assert_eq!(spans.iter().collect::<std::collections::BTreeSet<_>>().len(), 3);
        assert_eq!((waited(0).event.as_str(), waited(0).provider.as_str()), ("stage", ""));
        assert_eq!(waited(0).parent_span_id, attempt.parent_span_id);
    }

    #[test]
    fn expiry_is_a_state_of_its_own() {
        let event = one(Stage::Send, &context(0, 1, Some(Uuid::nil())), Verdict::Suppress(Reason::Expired));
        assert_eq!((event.status.as_str(), event.state.as_str()), ("suppressed", "expired"));
    }

    #[test]
    fn a_fan_out_has_a_root_each_and_a_request_event() {
        let two = vec![Output::Notification(notification()), Output::Notification(notification())];
        let decision = Decision::new(Verdict::Forward(two)).with("note", "n");
        let events = of_decision(Stage::Validate, &context(0, 0, None), &timing(), &decision);
        let kinds: Vec<&str> = events.iter().map(|e| e.event.as_str()).collect();
        assert_eq!(kinds, ["notification", "notification", "request"]);
        assert!(events.iter().all(|e| e.parent_span_id == 0));
        assert_eq!(events[2].attributes.last().unwrap().1, "2");
    }

    #[test]
    fn what_producers_name_becomes_a_value_and_never_a_name() {
        let labels = [("team \u{1f600}".to_owned(), "x".to_owned()), ("b".to_owned(), "y".to_owned())];
        let labelled = notification().with_request(|request| request.metadata = labels.into());
        let decision = Decision::new(Verdict::Forward(vec![Output::Notification(labelled)]));
        let events = of_decision(Stage::Validate, &context(0, 0, None), &timing(), &decision);
        let names: Vec<&str> = events[0].attributes.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["idempotency_key", "user", "metadata"]);
        assert_eq!(events[0].attributes[2].1, "{\"b\":\"y\",\"team \u{1f600}\":\"x\"}");
    }

    #[test]
    fn a_test_says_so_at_its_root() {
        let test = notification().with_request(|request| request.test = true);
        let events = of_decision(Stage::Validate, &context(0, 0, None), &timing(), &Decision::forward(test));
        assert_eq!(events[0].attributes.last(), Some(&("test".into(), "true".into())));
    }

    fn notification() -> Notification {
        Notification { id: Uuid::now_v7(), ..chasqui_schemas::sample::notification() }
    }
}
