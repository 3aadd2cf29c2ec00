SELECT countIf(idle) AS queues
FROM
(
    SELECT max(waiting) = 0 AND max(out_per_s) = 0 AS idle
    FROM queue_metrics
    WHERE sampled_at >= $__toTime - INTERVAL 2 MINUTE AND consumer != ''
    GROUP BY stream, consumer
)
HAVING count() > 0
