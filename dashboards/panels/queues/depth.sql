SELECT $__timeInterval(sampled_at) AS time, trim(concat(stage, ' ', lane)) AS queue, max(pending) AS depth
FROM queue_metrics
WHERE $__timeFilter(sampled_at) AND decodeURLComponent('${stage:percentencode}') IN ('*', stage) AND decodeURLComponent('${lane:percentencode}') IN ('*', lane)
GROUP BY time, queue
ORDER BY time, queue
