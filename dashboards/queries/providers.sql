-- Which provider of a channel takes more, faster and with fewer attempts, and whose messages arrive?
-- Seconds are from the submission to the acceptance. A provider that reports no arrivals has a delivery rate of 0.
SELECT
    channel,
    provider,
    count() AS deliveries,
    countIf(sent_at IS NOT NULL) AS sent,
    round(sent / deliveries, 4) AS sent_rate,
    round(countIf(delivered_at IS NOT NULL) / nullIf(sent, 0), 4) AS delivery_rate,
    round(countIf(bounced_at IS NOT NULL) / deliveries, 4) AS bounce_rate,
    round(countIf(state = 'dead') / deliveries, 4) AS dead_rate,
    round(avg(attempts), 2) AS attempts_each,
    round(quantile(0.5)(sent_after_ms) / 1000, 3) AS p50,
    round(quantile(0.99)(sent_after_ms) / 1000, 3) AS p99
FROM deliveries
WHERE submitted_at >= now() - INTERVAL 7 DAY AND attempts > 0
GROUP BY channel, provider
ORDER BY channel, deliveries DESC, provider;
