-- How many of the notifications of every day reached a provider within the 10 s we aim at?
-- Of those that were sent, without those that were held back on purpose: scheduled, quiet hours, pacing.
SELECT
    toDate(submitted_at) AS day,
    count() AS sent,
    countIf(sent_after_ms <= 10000) AS in_time,
    round(in_time / sent, 5) AS share
FROM notifications
WHERE submitted_at >= now() - INTERVAL 30 DAY AND sent_at IS NOT NULL AND NOT was_deferred
GROUP BY day
ORDER BY day;
