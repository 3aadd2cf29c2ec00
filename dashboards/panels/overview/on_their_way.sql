SELECT countIf(state = 'pending') AS pending
FROM notifications
WHERE $__timeFilter(submitted_at) AND '${app}' IN ('*', app)
