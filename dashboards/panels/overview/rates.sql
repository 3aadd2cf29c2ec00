SELECT
    $__timeInterval(submitted_at) AS time,
    avg(delivered_at IS NOT NULL) AS delivered,
    avg(bounced_at IS NOT NULL) AS bounced,
    avg(opened_human_at IS NOT NULL) AS `opened by people`,
    avg(clicked_human_at IS NOT NULL) AS `clicked by people`
FROM deliveries
WHERE $__timeFilter(submitted_at) AND decodeURLComponent('${app:percentencode}') IN ('*', app) AND sent_at IS NOT NULL
GROUP BY time
ORDER BY time
