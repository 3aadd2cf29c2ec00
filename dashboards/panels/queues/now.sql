SELECT *
FROM
(
    SELECT stage, lane, channel, pending, in_flight, redelivered, waiting, oldest_ms / 1000 AS oldest, in_per_s, out_per_s,
        bytes, max_bytes, stream, consumer, sampled_at AS sampled
    FROM queue_metrics
    WHERE $__timeFilter(sampled_at) AND decodeURLComponent('${stage:percentencode}') IN ('*', stage) AND decodeURLComponent('${lane:percentencode}') IN ('*', lane)
    ORDER BY sampled_at DESC
    LIMIT 1 BY stream, consumer
)
ORDER BY oldest DESC, stage, lane, channel
