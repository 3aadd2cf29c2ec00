-- trace_events under the column names of the OpenTelemetry ClickHouse exporter, so that Grafana's trace panel and
-- every other tool made for that schema work untouched. TraceId stays the sorting key: a trace is one key look-up.
CREATE VIEW IF NOT EXISTS otel_traces AS
SELECT
    started_at AS Timestamp,
    trace_id AS TraceId,
    leftPad(lower(hex(span_id)), 16, '0') AS SpanId,
    if(parent_span_id = 0, '', leftPad(lower(hex(parent_span_id)), 16, '0')) AS ParentSpanId,
    '' AS TraceState,
    multiIf(
        event = 'attempt', concat('send ', channel, ' via ', provider, ' #', toString(attempt)),
        event = 'stage', concat(trim(concat(stage, ' ', channel)), if(status = 'deferred', ' (deferred)', '')),
        event IN ('notification', 'request'), trim(concat(event, ' ', category)),
        trim(concat(event, ' ', channel))) AS SpanName,
    multiIf(event = 'attempt', 'Client', stage = 'receipt', 'Internal', 'Consumer') AS SpanKind,
    concat('chasqui-', stage) AS ServiceName,
    CAST(map('service.namespace', 'chasqui', 'service.name', concat('chasqui-', stage)), 'Map(LowCardinality(String), String)') AS ResourceAttributes,
    'chasqui' AS ScopeName,
    '' AS ScopeVersion,
    mapConcat(
        attributes,
        mapFilter((k, v) -> v NOT IN ('', '0', '00000000-0000-0000-0000-000000000000'),
            CAST(map(
                'notification_id', toString(notification_id),
                'request_id', toString(request_id),
                'delivery_id', toString(delivery_id),
                'app', toString(app),
                'category', toString(category),
                'template', toString(template),
                'variant', toString(variant),
                'locale', toString(locale),
                'lane', toString(lane),
                'channel', toString(channel),
                'provider', toString(provider),
                'vendor', toString(vendor),
                'status', toString(status),
                'state', toString(state),
                'reason', toString(reason),
                'attempt', toString(attempt),
                'queued_ms', toString(intDiv(queued_ns, 1000000))), 'Map(LowCardinality(String), String)'))) AS SpanAttributes,
    duration_ns AS Duration,
    multiIf(status = 'ok', 'Ok', status IN ('retry', 'rejected', 'dead', 'error'), 'Error', 'Unset') AS StatusCode,
    toString(reason) AS StatusMessage,
    CAST([], 'Array(DateTime64(9, \'UTC\'))') AS `Events.Timestamp`,
    CAST([], 'Array(LowCardinality(String))') AS `Events.Name`,
    CAST([], 'Array(Map(LowCardinality(String), String))') AS `Events.Attributes`,
    -- The producer's own trace (W3C traceparent: version-trace-span-flags).
    if(attributes['traceparent'] = '', [], [substring(attributes['traceparent'], 4, 32)]) AS `Links.TraceId`,
    if(attributes['traceparent'] = '', [], [substring(attributes['traceparent'], 37, 16)]) AS `Links.SpanId`,
    arrayMap(x -> '', `Links.TraceId`) AS `Links.TraceState`,
    arrayMap(x -> CAST(map(), 'Map(LowCardinality(String), String)'), `Links.TraceId`) AS `Links.Attributes`
FROM trace_events FINAL
SETTINGS do_not_merge_across_partitions_select_final = 1
COMMENT 'trace_events with the columns of the OpenTelemetry exporter';

ALTER TABLE otel_traces
    COMMENT COLUMN Timestamp 'When the work began',
    COMMENT COLUMN TraceId 'trace_events.trace_id',
    COMMENT COLUMN SpanId 'trace_events.span_id, 16 hex digits',
    COMMENT COLUMN ParentSpanId 'trace_events.parent_span_id; empty for the root',
    COMMENT COLUMN TraceState 'Always empty',
    COMMENT COLUMN SpanName 'What the step is, in a few words',
    COMMENT COLUMN SpanKind 'Client for provider attempts, Consumer for stages, Internal for receipts',
    COMMENT COLUMN ServiceName 'chasqui-<stage>',
    COMMENT COLUMN ResourceAttributes 'service.namespace and service.name',
    COMMENT COLUMN ScopeName 'chasqui',
    COMMENT COLUMN ScopeVersion 'Always empty',
    COMMENT COLUMN SpanAttributes 'The other columns of trace_events that are not empty, and its attributes',
    COMMENT COLUMN Duration 'Nanoseconds that the work took',
    COMMENT COLUMN StatusCode 'Ok, Error or Unset',
    COMMENT COLUMN StatusMessage 'Reason code',
    COMMENT COLUMN `Events.Timestamp` 'Always empty',
    COMMENT COLUMN `Events.Name` 'Always empty',
    COMMENT COLUMN `Events.Attributes` 'Always empty',
    COMMENT COLUMN `Links.TraceId` 'The producer''s own trace, from traceparent',
    COMMENT COLUMN `Links.SpanId` 'The producer''s own span',
    COMMENT COLUMN `Links.TraceState` 'Always empty',
    COMMENT COLUMN `Links.Attributes` 'Always empty';
