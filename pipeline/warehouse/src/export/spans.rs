//! Trace events as OTLP spans: the same as ClickHouse's view `otel_traces` makes of them. Pure.
//!
//! [trace.proto](https://github.com/open-telemetry/opentelemetry-proto/blob/v1.9.0/opentelemetry/proto/trace/v1/trace.proto).

use std::collections::BTreeMap;

use chasqui_schemas::{
    header,
    trace::{RECEIPT_STAGE, Status as Ended, TraceEvent, event},
};
use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value::Value},
    resource::v1::Resource,
    trace::v1::{
        ResourceSpans, ScopeSpans, Span, Status,
        span::{Link, SpanKind},
        status::StatusCode,
    },
};
use uuid::Uuid;

use crate::read::reconstruct;

/// The events as one request, a resource for each stage. `parent`: a producer's span is the parent of the root, and its
/// trace the trace of all.
pub(crate) fn request(events: &[TraceEvent], parent: bool) -> ExportTraceServiceRequest {
    let mut stages: BTreeMap<&str, Vec<Span>> = BTreeMap::new();
    for event in events {
        stages.entry(&event.stage).or_default().push(span(event, parent));
    }
    let resource_spans = stages.into_iter().map(|(stage, spans)| ResourceSpans {
        resource: Some(Resource {
            attributes: vec![text("service.namespace", "chasqui"), text("service.name", &format!("chasqui-{stage}"))],
            ..Resource::default()
        }),
        scope_spans: vec![ScopeSpans {
            scope: Some(InstrumentationScope { name: "chasqui".to_owned(), ..InstrumentationScope::default() }),
            spans,
            ..ScopeSpans::default()
        }],
        ..ResourceSpans::default()
    });
    ExportTraceServiceRequest { resource_spans: resource_spans.collect() }
}

fn span(event: &TraceEvent, parent: bool) -> Span {
    let producer = producer(&event.traceparent);
    let above = producer.filter(|_| parent);
    let is_root = event.parent_span_id == 0;
    let begin = u64::try_from(event.started_at).unwrap_or(0);
    Span {
        trace_id: above.map_or(event.trace_id.into_bytes(), |(trace, _)| trace).to_vec(),
        span_id: event.span_id.to_be_bytes().to_vec(),
        parent_span_id: match above {
            _ if !is_root => event.parent_span_id.to_be_bytes().to_vec(),
            Some((_, span)) => span.to_vec(),
            None => Vec::new(),
        },
        name: reconstruct::name(event),
        kind: match event.event.as_str() {
            event::ATTEMPT => SpanKind::Client,
            _ if event.stage == RECEIPT_STAGE => SpanKind::Internal,
            _ => SpanKind::Consumer,
        }
        .into(),
        start_time_unix_nano: begin,
        end_time_unix_nano: begin.saturating_add(event.duration_ns),
        attributes: attributes(event),
        links: producer
            .filter(|_| is_root)
            .map(|(trace, span)| Link { trace_id: trace.to_vec(), span_id: span.to_vec(), ..Link::default() })
            .into_iter()
            .collect(),
        status: Some(Status { message: event.reason.to_string(), code: code(&event.status).into() }),
        ..Span::default()
    }
}

fn code(status: &str) -> StatusCode {
    const ERRORS: [Ended; 4] = [Ended::Retry, Ended::Rejected, Ended::Dead, Ended::Error];
    match status {
        _ if status == Ended::Ok.as_str() => StatusCode::Ok,
        _ if ERRORS.iter().any(|error| status == error.as_str()) => StatusCode::Error,
        _ => StatusCode::Unset,
    }
}

/// The event's attributes, and every column of it that is not empty; a key stands once.
fn attributes(event: &TraceEvent) -> Vec<KeyValue> {
    let id = |id: Uuid| if id.is_nil() { String::new() } else { id.to_string() };
    let ids = [
        ("notification_id", id(event.notification_id)),
        ("request_id", id(event.request_id)),
        ("delivery_id", id(event.delivery_id)),
    ];
    let words = [
        ("app", &event.app),
        ("category", &event.category),
        ("template", &event.template),
        ("variant", &event.variant),
        ("locale", &event.locale),
        ("lane", &event.lane),
        ("channel", &event.channel),
        ("provider", &event.provider),
        ("vendor", &event.vendor),
        ("status", &event.status),
        ("state", &event.state),
        ("reason", &event.reason),
    ];
    let numbers = [("attempt", i64::from(event.attempt)), ("queued_ms", (event.queued_ns / 1_000_000) as i64)];
    let ids = ids.iter().filter(|(_, id)| !id.is_empty()).map(|(key, id)| text(key, id));
    let words = words.iter().filter(|(_, word)| !word.is_empty()).map(|(key, word)| text(key, word));
    let numbers = numbers.iter().filter(|(_, number)| *number != 0).map(|(key, number)| KeyValue {
        key: (*key).to_owned(),
        value: Some(AnyValue { value: Some(Value::IntValue(*number)) }),
        ..KeyValue::default()
    });
    let own = |key: &str| event.attributes.iter().any(|(taken, _)| taken == key);
    let columns = ids.chain(words).chain(numbers).filter(|column| !own(&column.key));
    event.attributes.iter().map(|(key, value)| text(key, value)).chain(columns).collect()
}

fn text(key: &str, value: &str) -> KeyValue {
    KeyValue {
        key: key.to_owned(),
        value: Some(AnyValue { value: Some(Value::StringValue(value.to_owned())) }),
        ..KeyValue::default()
    }
}

/// Trace and span of a `traceparent`.
fn producer(traceparent: &str) -> Option<([u8; 16], [u8; 8])> {
    let known = header::traceparent(traceparent)?;
    let trace = u128::from_str_radix(&known[3..35], 16).ok()?;
    let span = u64::from_str_radix(&known[36..52], 16).ok()?;
    Some((trace.to_be_bytes(), span.to_be_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACEPARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    fn step(parent_span_id: u64) -> TraceEvent {
        TraceEvent {
            trace_id: Uuid::from_u128(7),
            span_id: 9,
            parent_span_id,
            stage: "send".into(),
            event: event::ATTEMPT.into(),
            channel: "sms".into(),
            provider: "twilio".into(),
            status: "retry".into(),
            reason: "provider_throttled".into(),
            attempt: 2,
            queued_ns: 3_999_999,
            started_at: 1_000,
            duration_ns: 5,
            attributes: vec![("provider".into(), "told by the stage".into())],
            traceparent: TRACEPARENT.into(),
            ..TraceEvent::default()
        }
    }

    fn only(request: ExportTraceServiceRequest) -> Span {
        request.resource_spans.into_iter().next().unwrap().scope_spans.remove(0).spans.remove(0)
    }

    #[test]
    fn a_producer_is_a_link_of_the_root_and_a_parent_only_where_wanted() {
        let own = only(request(&[step(0)], false));
        assert_eq!((own.trace_id, own.parent_span_id), (Uuid::from_u128(7).as_bytes().to_vec(), vec![]));
        let trace = TRACEPARENT[3..35].parse::<Uuid>().unwrap().as_bytes().to_vec();
        assert_eq!((&own.links[0].trace_id, own.links[0].span_id[0]), (&trace, 0xb7));

        let theirs = only(request(&[step(0)], true));
        assert_eq!((&theirs.trace_id, &theirs.parent_span_id), (&trace, &own.links[0].span_id));
        let below = only(request(&[step(5)], true));
        assert_eq!((below.trace_id, below.parent_span_id), (trace, 5u64.to_be_bytes().to_vec()));
        assert!(below.links.is_empty());

        let broken = TraceEvent { traceparent: "00-nonsense".into(), ..step(0) };
        assert_eq!(only(request(&[broken], true)).trace_id, Uuid::from_u128(7).as_bytes());
    }

    #[test]
    fn a_span_tells_what_the_event_does_and_each_key_once() {
        let span = only(request(&[step(5)], false));
        assert_eq!((span.name.as_str(), span.kind()), ("send sms via twilio #2", SpanKind::Client));
        assert_eq!((span.start_time_unix_nano, span.end_time_unix_nano), (1_000, 1_005));
        let status = span.status.clone().unwrap();
        assert_eq!((status.code(), status.message.as_str()), (StatusCode::Error, "provider_throttled"));
        let shown: Vec<String> = span
            .attributes
            .into_iter()
            .map(|KeyValue { key, value, .. }| match value.unwrap().value.unwrap() {
                Value::StringValue(text) => format!("{key}={text}"),
                Value::IntValue(number) => format!("{key}={number}"),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(
            shown,
            [
                "provider=told by the stage",
                "channel=sms",
                "status=retry",
                "reason=provider_throttled",
                "attempt=2",
                "queued_ms=3"
            ]
        );
    }
}
