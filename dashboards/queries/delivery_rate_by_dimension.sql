-- What came of the deliveries, by app, template and channel?
-- Group by whatever else `deliveries` has: category, variant, locale, lane, provider.
-- Over many days, `delivery_stats` answers the same by minute.
SELECT
    app,
    template,
    channel,
    count() AS deliveries,
    countIf(sent_at IS NOT NULL) AS sent,
    countIf(delivered_at IS NOT NULL) AS delivered,
    countIf(bounced_at IS NOT NULL) AS bounced,
    countIf(state = 'suppressed') AS suppressed,
    countIf(state = 'expired') AS expired,
    countIf(state = 'dead') AS dead,
    countIf(state = 'pending') AS pending,
    round(delivered / nullIf(sent, 0), 4) AS delivery_rate,
    round(bounced / nullIf(countIf(sent_at IS NOT NULL OR bounced_at IS NOT NULL), 0), 4) AS bounce_rate
FROM deliveries
WHERE submitted_at >= now() - INTERVAL 7 DAY
GROUP BY app, template, channel
ORDER BY deliveries DESC, app, template, channel;
