-- How many deliveries of every app, category, template, variant, locale, channel, lane and provider arrived, bounced, and were opened and clicked?
-- Shares are of what was sent; the `_human` rates leave out mail proxies and scanners. Two dimensions together: a set of
-- both.
SELECT
    ['app', 'category', 'template', 'variant', 'locale', 'channel', 'lane', 'provider'][
        indexOf([grouping(app), grouping(category), grouping(template), grouping(variant), grouping(locale),
        grouping(channel), grouping(lane), grouping(provider)], 0)] AS dimension,
    -- The others are empty in this set.
    concat(app, category, template, variant, locale, channel, lane, provider) AS value,
    count() AS deliveries,
    count(sent_at) AS sent,
    round(count(delivered_at) / nullIf(sent, 0), 4) AS delivery_rate,
    round(count(bounced_at) / nullIf(sent, 0), 4) AS bounce_rate,
    round(count(opened_human_at) / nullIf(sent, 0), 4) AS open_rate_human,
    round(count(opened_at) / nullIf(sent, 0), 4) AS open_rate,
    round(count(clicked_human_at) / nullIf(sent, 0), 4) AS click_rate_human,
    round(count(clicked_at) / nullIf(sent, 0), 4) AS click_rate,
    round(count(unsubscribed_at) / nullIf(sent, 0), 4) AS unsubscribe_rate,
    round(count(complained_at) / nullIf(sent, 0), 4) AS complaint_rate
FROM deliveries
WHERE submitted_at >= now() - INTERVAL 7 DAY
GROUP BY GROUPING SETS ((app), (category), (template), (variant), (locale), (channel), (lane), (provider))
ORDER BY dimension, deliveries DESC, value;
