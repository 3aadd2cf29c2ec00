SELECT status, reason, stage, channel, uniqExact(trace_id, span_id) AS steps
FROM trace_events
WHERE $__timeFilter(submitted_at) AND status IN ('suppressed', 'rejected') AND decodeURLComponent('${app:percentencode}') IN ('*', app)
GROUP BY status, reason, stage, channel
ORDER BY steps DESC, status, reason, stage, channel
LIMIT 100
