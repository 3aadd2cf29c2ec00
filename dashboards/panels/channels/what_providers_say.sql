SELECT
    channel,
    provider,
    status,
    reason,
    uniqExact(trace_id, span_id) AS steps,
    max(started_at) AS latest,
    argMax(attributes['detail'], started_at) AS `latest detail`,
    argMax(trace_id, started_at) AS `latest trace`
FROM trace_events
WHERE $__timeFilter(started_at) AND submitted_at >= $__fromTime - INTERVAL 7 DAY
    AND stage = 'send' AND status != 'ok' AND decodeURLComponent('${app:percentencode}') IN ('*', app) AND decodeURLComponent('${channel:percentencode}') IN ('*', channel)
GROUP BY channel, provider, status, reason
ORDER BY steps DESC, channel, provider, status, reason
LIMIT 100
