SELECT max(oldest_ms / 1000 / multiIf(lane IN ('critical', 'high'), 10, lane = 'bulk', 3600, 300)) AS age
FROM queue_metrics
WHERE sampled_at >= $__toTime - INTERVAL 1 MINUTE AND stage NOT IN ('dead', 'schedules', 'traces')
HAVING count() > 0
