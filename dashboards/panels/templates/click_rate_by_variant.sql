SELECT $__timeInterval(submitted_at) AS time, concat(template, ' ', variant) AS variant, avg(clicked_human_at IS NOT NULL) AS `clicked by people`
FROM deliveries AS d
WHERE $__timeFilter(submitted_at) AND decodeURLComponent('${app:percentencode}') IN ('*', app) AND decodeURLComponent('${template:percentencode}') IN ('*', template) AND d.variant != '' AND sent_at IS NOT NULL
GROUP BY time, variant
ORDER BY time, variant
