SELECT $__timeInterval(submitted_at) AS time, state, count() AS notifications
FROM notifications
WHERE $__timeFilter(submitted_at) AND decodeURLComponent('${app:percentencode}') IN ('*', app)
GROUP BY time, state
ORDER BY time, state
