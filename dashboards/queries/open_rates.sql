-- How many of the deliveries that were sent were opened and clicked, by people and by anybody?
-- Mail proxies and scanners open and click too: the `_human` rates leave out what was, or may have been, one of them.
SELECT
    channel,
    template,
    variant,
    countIf(sent_at IS NOT NULL) AS sent,
    round(countIf(opened_human_at IS NOT NULL) / sent, 4) AS open_rate_human,
    round(countIf(opened_at IS NOT NULL) / sent, 4) AS open_rate,
    round(countIf(clicked_human_at IS NOT NULL) / sent, 4) AS click_rate_human,
    round(countIf(clicked_at IS NOT NULL) / sent, 4) AS click_rate,
    round(countIf(unsubscribed_at IS NOT NULL) / sent, 4) AS unsubscribe_rate,
    round(countIf(complained_at IS NOT NULL) / sent, 4) AS complaint_rate
FROM deliveries
WHERE submitted_at >= now() - INTERVAL 7 DAY
GROUP BY channel, template, variant
HAVING sent > 0
ORDER BY sent DESC, channel, template, variant;
