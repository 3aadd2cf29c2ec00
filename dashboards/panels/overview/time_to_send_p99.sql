SELECT quantileOrNull(0.99)(sent_after_ms) / 1000 AS p99
FROM notifications
WHERE $__timeFilter(submitted_at) AND decodeURLComponent('${app:percentencode}') IN ('*', app) AND NOT was_deferred
