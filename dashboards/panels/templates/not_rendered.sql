SELECT
    template,
    status,
    reason,
    uniqExact(trace_id) AS notifications,
    max(started_at) AS latest,
    argMax(attributes['detail'], started_at) AS `latest detail`,
    argMax(trace_id, started_at) AS `latest trace`
FROM trace_events
WHERE $__timeFilter(started_at) AND submitted_at >= $__fromTime - INTERVAL 7 DAY
    AND stage = 'render' AND status NOT IN ('ok', 'deferred') AND decodeURLComponent('${app:percentencode}') IN ('*', app) AND decodeURLComponent('${template:percentencode}') IN ('*', template)
GROUP BY template, status, reason
ORDER BY notifications DESC, template, status, reason
LIMIT 100
