SELECT $__timeInterval(submitted_at) AS time, toString(channel) AS channel, quantile(0.99)(sent_after_ms) / 1000 AS p99
FROM deliveries
WHERE $__timeFilter(submitted_at) AND decodeURLComponent('${app:percentencode}') IN ('*', app) AND decodeURLComponent('${channel:percentencode}') IN ('*', channel) AND sent_at IS NOT NULL
    AND notification_id NOT IN
    (
        SELECT notification_id FROM notifications WHERE $__timeFilter(submitted_at) AND was_deferred
    )
GROUP BY time, channel
ORDER BY time, channel
