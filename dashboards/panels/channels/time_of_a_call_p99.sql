SELECT
    $__timeInterval(started_at) AS time,
    concat(channel, ' ', provider) AS via,
    quantile(0.99)(duration_ns) / 1000000000 AS p99
FROM trace_events
WHERE $__timeFilter(started_at) AND submitted_at >= $__fromTime - INTERVAL 7 DAY
    AND event = 'attempt' AND status IN ('ok', 'retry', 'dead', 'error') AND decodeURLComponent('${app:percentencode}') IN ('*', app) AND decodeURLComponent('${channel:percentencode}') IN ('*', channel)
GROUP BY time, via
ORDER BY time, via
