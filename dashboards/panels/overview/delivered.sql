SELECT countIf(delivered_at IS NOT NULL) / nullIf(countIf(sent_at IS NOT NULL), 0) AS delivered
FROM deliveries
WHERE $__timeFilter(submitted_at) AND decodeURLComponent('${app:percentencode}') IN ('*', app)
