SELECT $__timeInterval(started_at) AS time, trim(concat(stage, ' ', lane)) AS queue, uniqExact(trace_id, span_id) AS errors
FROM trace_events
WHERE $__timeFilter(started_at) AND submitted_at >= $__fromTime - INTERVAL 7 DAY
    AND stage != 'receipt' AND status IN ('retry', 'dead', 'error', 'rejected') AND decodeURLComponent('${stage:percentencode}') IN ('*', stage) AND decodeURLComponent('${lane:percentencode}') IN ('*', lane)
GROUP BY time, queue
ORDER BY time, queue
