SELECT max(oldest_ms) / 1000 AS lag
FROM queue_metrics
WHERE sampled_at >= $__toTime - INTERVAL 1 MINUTE AND stage = 'traces'
HAVING count() > 0
