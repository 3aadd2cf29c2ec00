-- How many deliveries of every hour arrived, bounced, and were opened and clicked?
-- An hour is that of the submission; shares are of what was sent. Mail proxies and scanners open and click too: the
-- `_human` rates leave out what was, or may have been, one of them. Providers that report no arrivals keep
-- `delivery_rate` low: see providers.sql.
SELECT
    toStartOfHour(submitted_at) AS hour,
    count() AS deliveries,
    countIf(sent_at IS NOT NULL) AS sent,
    round(countIf(delivered_at IS NOT NULL) / nullIf(sent, 0), 4) AS delivery_rate,
    round(countIf(bounced_at IS NOT NULL) / nullIf(sent, 0), 4) AS bounce_rate,
    round(countIf(opened_human_at IS NOT NULL) / nullIf(sent, 0), 4) AS open_rate_human,
    round(countIf(opened_at IS NOT NULL) / nullIf(sent, 0), 4) AS open_rate,
    round(countIf(clicked_human_at IS NOT NULL) / nullIf(sent, 0), 4) AS click_rate_human,
    round(countIf(clicked_at IS NOT NULL) / nullIf(sent, 0), 4) AS click_rate
FROM deliveries
WHERE submitted_at >= now() - INTERVAL 7 DAY
GROUP BY hour
ORDER BY hour;
