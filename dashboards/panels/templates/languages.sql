SELECT
    toString(locale) AS locale,
    toString(template) AS template,
    count() AS deliveries,
    countIf(sent_at IS NOT NULL) AS sent,
    countIf(delivered_at IS NOT NULL) / nullIf(sent, 0) AS `delivery rate`,
    countIf(opened_human_at IS NOT NULL) / nullIf(sent, 0) AS `open rate, people`,
    countIf(opened_at IS NOT NULL) / nullIf(sent, 0) AS `open rate`,
    countIf(clicked_human_at IS NOT NULL) / nullIf(sent, 0) AS `click rate, people`,
    countIf(unsubscribed_at IS NOT NULL) / nullIf(sent, 0) AS `unsubscribe rate`,
    countIf(complained_at IS NOT NULL) / nullIf(sent, 0) AS `complaint rate`
FROM deliveries
WHERE $__timeFilter(submitted_at) AND decodeURLComponent('${app:percentencode}') IN ('*', app) AND decodeURLComponent('${template:percentencode}') IN ('*', template) AND template != ''
GROUP BY locale, template
ORDER BY deliveries DESC, locale, template
LIMIT 100
