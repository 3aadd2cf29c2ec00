SELECT $__timeInterval(submitted_at) AS time, toString(channel) AS channel, avg(delivered_at IS NOT NULL) AS delivered
FROM deliveries
WHERE $__timeFilter(submitted_at) AND decodeURLComponent('${app:percentencode}') IN ('*', app) AND decodeURLComponent('${channel:percentencode}') IN ('*', channel) AND sent_at IS NOT NULL
GROUP BY time, channel
ORDER BY time, channel
