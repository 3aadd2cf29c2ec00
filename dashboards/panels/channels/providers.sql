SELECT
    toString(channel) AS channel,
    provider,
    count() AS deliveries,
    countIf(sent_at IS NOT NULL) AS sent,
    sent / deliveries AS `sent rate`,
    countIf(delivered_at IS NOT NULL) / nullIf(sent, 0) AS `delivery rate`,
    countIf(bounced_at IS NOT NULL) / deliveries AS `bounce rate`,
    countIf(state = 'dead') / deliveries AS `dead rate`,
    countIf(opened_human_at IS NOT NULL) / nullIf(sent, 0) AS `open rate, people`,
    countIf(clicked_human_at IS NOT NULL) / nullIf(sent, 0) AS `click rate, people`,
    avg(attempts) AS `attempts each`,
    quantileOrNullIf(0.5)(sent_after_ms, notification_id NOT IN
    (
        SELECT notification_id FROM notifications WHERE $__timeFilter(submitted_at) AND was_deferred
    )) / 1000 AS p50,
    quantileOrNullIf(0.99)(sent_after_ms, notification_id NOT IN
    (
        SELECT notification_id FROM notifications WHERE $__timeFilter(submitted_at) AND was_deferred
    )) / 1000 AS p99
FROM deliveries
WHERE $__timeFilter(submitted_at) AND decodeURLComponent('${app:percentencode}') IN ('*', app) AND decodeURLComponent('${channel:percentencode}') IN ('*', channel) AND attempts > 0
GROUP BY channel, provider
ORDER BY channel, deliveries DESC, provider
