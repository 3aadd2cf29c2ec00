-- How many deliveries of every hour were sent, and how many of those arrived?
-- An hour is that of the submission. Providers that report no arrivals keep `delivered` low: see the rate by channel.
SELECT
    toStartOfHour(submitted_at) AS hour,
    count() AS deliveries,
    countIf(sent_at IS NOT NULL) AS sent,
    countIf(delivered_at IS NOT NULL) AS delivered,
    round(sent / deliveries, 4) AS sent_rate,
    round(delivered / nullIf(sent, 0), 4) AS delivery_rate
FROM deliveries
WHERE submitted_at >= now() - INTERVAL 7 DAY
GROUP BY hour
ORDER BY hour;
