SELECT $__timeInterval(submitted_at) AS time, toString(channel) AS channel, avg(bounced_at IS NOT NULL) AS bounced
FROM deliveries
WHERE $__timeFilter(submitted_at) AND decodeURLComponent('${app:percentencode}') IN ('*', app) AND decodeURLComponent('${channel:percentencode}') IN ('*', channel) AND attempts > 0
GROUP BY time, channel
ORDER BY time, channel
