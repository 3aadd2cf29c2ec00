SELECT uniqExact(trace_id, delivery_id) AS dead
FROM trace_events
WHERE $__timeFilter(started_at) AND submitted_at >= $__fromTime - INTERVAL 7 DAY
    AND status = 'dead' AND decodeURLComponent('${app:percentencode}') IN ('*', app)
