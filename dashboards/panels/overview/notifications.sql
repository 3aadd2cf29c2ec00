SELECT count() AS notifications
FROM notifications
WHERE $__timeFilter(submitted_at) AND decodeURLComponent('${app:percentencode}') IN ('*', app)
