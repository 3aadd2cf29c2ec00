SELECT count() AS notifications
FROM notifications
WHERE $__timeFilter(submitted_at) AND '${app}' IN ('*', app)
