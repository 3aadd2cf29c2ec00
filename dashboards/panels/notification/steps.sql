SELECT started_at AS started, stage, event, channel, provider, status, state, reason, attempt, lane,
    queued_ns / 1000000 AS queued, duration_ns / 1000000 AS took, toString(attributes) AS attributes
FROM trace_events FINAL
WHERE trace_id = replaceAll(lower(if(decodeURLComponent('${trace_id:percentencode}') = '', decodeURLComponent('${id:percentencode}'), decodeURLComponent('${trace_id:percentencode}'))), '-', '')
ORDER BY started
LIMIT 10000
