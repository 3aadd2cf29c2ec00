SELECT $__timeInterval(submitted_at) AS time, lane, count() AS notifications
FROM notifications
WHERE $__timeFilter(submitted_at) AND decodeURLComponent('${app:percentencode}') IN ('*', app)
GROUP BY time, lane
ORDER BY time, lane
