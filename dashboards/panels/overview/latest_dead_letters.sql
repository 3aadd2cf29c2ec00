SELECT started_at AS died, reason, stage, app, channel, provider, attempt, attributes['detail'] AS detail, trace_id
FROM trace_events
WHERE $__timeFilter(started_at) AND submitted_at >= $__fromTime - INTERVAL 7 DAY
    AND status = 'dead' AND decodeURLComponent('${app:percentencode}') IN ('*', app)
ORDER BY died DESC
LIMIT 1 BY trace_id, delivery_id
LIMIT 100
