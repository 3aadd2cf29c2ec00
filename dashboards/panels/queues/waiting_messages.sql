SELECT sum(pending) AS pending
FROM
(
    SELECT pending
    FROM queue_metrics
    WHERE sampled_at >= $__toTime - INTERVAL 1 MINUTE AND stage NOT IN ('dead', 'schedules', 'traces')
    ORDER BY sampled_at DESC
    LIMIT 1 BY stream, consumer
)
HAVING count() > 0
