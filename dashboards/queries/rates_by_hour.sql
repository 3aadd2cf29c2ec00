-- How many deliveries of every hour arrived, bounced, and were opened and clicked?
-- An hour is that of the submission; shares are of what was sent. Mail proxies and scanners open and click too: the
-- `_human` rates leave out what was, or may have been, one of them. Providers that report no arrivals keep
-- `delivery_rate` low: see providers.sql.
SELECT
    toStartOfHour(minute) AS hour,
    sum(s.deliveries) AS deliveries,
    sum(s.sent) AS sent,
    round(sum(s.delivered) / nullIf(sent, 0), 4) AS delivery_rate,
    round(sum(s.bounced) / nullIf(sent, 0), 4) AS bounce_rate,
    round(sum(s.opened_human) / nullIf(sent, 0), 4) AS open_rate_human,
    round(sum(s.opened) / nullIf(sent, 0), 4) AS open_rate,
    round(sum(s.clicked_human) / nullIf(sent, 0), 4) AS click_rate_human,
    round(sum(s.clicked) / nullIf(sent, 0), 4) AS click_rate
FROM delivery_stats AS s
WHERE minute >= now() - INTERVAL 7 DAY
GROUP BY hour
ORDER BY hour;
