SELECT $__timeInterval(submitted_at) AS time, toString(template) AS template, avg(opened_human_at IS NOT NULL) AS `opened by people`
FROM deliveries
WHERE $__timeFilter(submitted_at) AND decodeURLComponent('${app:percentencode}') IN ('*', app) AND decodeURLComponent('${template:percentencode}') IN ('*', template) AND template != '' AND sent_at IS NOT NULL
GROUP BY time, template
ORDER BY time, template
