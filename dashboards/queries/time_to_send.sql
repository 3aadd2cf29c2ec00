-- How long did it take from the submission to the provider's acceptance, and how much of it within the 10 s we aim at?
-- Seconds. Without notifications that were held back on purpose: scheduled, quiet hours, pacing.
SELECT
    channel,
    lane,
    count() AS sent,
    round(quantile(0.5)(sent_after_ms) / 1000, 3) AS p50,
    round(quantile(0.95)(sent_after_ms) / 1000, 3) AS p95,
    round(quantile(0.99)(sent_after_ms) / 1000, 3) AS p99,
    round(countIf(sent_after_ms <= 10000) / sent, 4) AS within_10_s
FROM deliveries
WHERE submitted_at >= now() - INTERVAL 7 DAY
    AND sent_at IS NOT NULL
    AND notification_id NOT IN
    (
        SELECT notification_id FROM notifications WHERE submitted_at >= now() - INTERVAL 7 DAY AND was_deferred
    )
GROUP BY channel, lane
ORDER BY channel, lane;
