-- How many deliveries of every app, category, template, variant, locale, channel, lane and provider arrived, bounced, and were opened and clicked?
-- Shares are of what was sent; the `_human` rates leave out mail proxies and scanners. Two dimensions together:
-- GROUP BY them in `delivery_stats`, without the ARRAY JOIN.
SELECT
    each.1 AS dimension,
    each.2 AS value,
    sum(s.deliveries) AS deliveries,
    sum(s.sent) AS sent,
    round(sum(s.delivered) / nullIf(sent, 0), 4) AS delivery_rate,
    round(sum(s.bounced) / nullIf(sent, 0), 4) AS bounce_rate,
    round(sum(s.opened_human) / nullIf(sent, 0), 4) AS open_rate_human,
    round(sum(s.opened) / nullIf(sent, 0), 4) AS open_rate,
    round(sum(s.clicked_human) / nullIf(sent, 0), 4) AS click_rate_human,
    round(sum(s.clicked) / nullIf(sent, 0), 4) AS click_rate,
    round(sum(s.unsubscribed) / nullIf(sent, 0), 4) AS unsubscribe_rate,
    round(sum(s.complained) / nullIf(sent, 0), 4) AS complaint_rate
FROM delivery_stats AS s
ARRAY JOIN
    [('app', toString(app)), ('category', toString(category)), ('template', toString(template)),
    ('variant', toString(variant)), ('locale', toString(locale)), ('channel', toString(channel)),
    ('lane', toString(lane)), ('provider', toString(provider))] AS each
WHERE minute >= now() - INTERVAL 7 DAY
GROUP BY each
ORDER BY dimension, deliveries DESC, value;
