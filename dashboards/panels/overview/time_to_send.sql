SELECT
    $__timeInterval(submitted_at) AS time,
    quantile(0.5)(sent_after_ms) / 1000 AS p50,
    quantile(0.95)(sent_after_ms) / 1000 AS p95,
    quantile(0.99)(sent_after_ms) / 1000 AS p99
FROM notifications
WHERE $__timeFilter(submitted_at) AND decodeURLComponent('${app:percentencode}') IN ('*', app) AND sent_at IS NOT NULL AND NOT was_deferred
GROUP BY time
ORDER BY time
