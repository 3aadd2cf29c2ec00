SELECT dateDiff('second', max(sampled_at), now()) AS age
FROM queue_metrics
WHERE $__timeFilter(sampled_at)
HAVING count() > 0
