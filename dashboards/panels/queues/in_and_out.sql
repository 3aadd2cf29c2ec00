SELECT time, stage, sum(into) AS `in`, sum(outof) AS `out`
FROM
(
    SELECT $__timeInterval(sampled_at) AS time, stage, stream, consumer, avg(in_per_s) AS into, avg(out_per_s) AS outof
    FROM queue_metrics
    WHERE $__timeFilter(sampled_at) AND decodeURLComponent('${stage:percentencode}') IN ('*', stage) AND decodeURLComponent('${lane:percentencode}') IN ('*', lane)
    GROUP BY time, stage, stream, consumer
)
GROUP BY time, stage
ORDER BY time, stage
