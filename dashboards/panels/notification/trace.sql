SELECT
    TraceId AS traceID,
    SpanId AS spanID,
    ParentSpanId AS parentSpanID,
    ServiceName AS serviceName,
    SpanName AS operationName,
    multiply(toUnixTimestamp64Nano(Timestamp), 0.000001) AS startTime,
    multiply(Duration, 0.000001) AS duration,
    arrayMap(key -> map('key', key, 'value', SpanAttributes[key]), mapKeys(SpanAttributes)) AS tags,
    arrayMap(key -> map('key', key, 'value', ResourceAttributes[key]), mapKeys(ResourceAttributes)) AS serviceTags,
    if(StatusCode = 'Error', 2, 0) AS statusCode,
    StatusMessage AS statusMessage,
    SpanKind AS kind
FROM otel_traces
WHERE TraceId = replaceAll(lower(if(decodeURLComponent('${trace_id:percentencode}') = '', decodeURLComponent('${id:percentencode}'), decodeURLComponent('${trace_id:percentencode}'))), '-', '')
ORDER BY startTime
LIMIT 10000
