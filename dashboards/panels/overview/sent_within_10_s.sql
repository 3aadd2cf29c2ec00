SELECT countIf(sent_after_ms <= 10000) / nullIf(count(), 0) AS within_10_s
FROM notifications
WHERE $__timeFilter(submitted_at) AND decodeURLComponent('${app:percentencode}') IN ('*', app) AND NOT was_deferred
    AND (sent_at IS NOT NULL OR state = 'pending' AND submitted_at < $__toTime - INTERVAL 10 SECOND)
