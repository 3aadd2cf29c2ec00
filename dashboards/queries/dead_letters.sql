-- Which messages became dead letters, where and why?
-- Also those that were replayed since; `chasqui dead list` shows what is still there.
SELECT
    reason,
    stage,
    channel,
    provider,
    uniqExact(trace_id, delivery_id) AS messages,
    max(started_at) AS latest,
    argMax(attributes['detail'], started_at) AS latest_detail,
    argMax(notification_id, started_at) AS latest_notification
FROM trace_events
WHERE submitted_at >= now() - INTERVAL 30 DAY AND status = 'dead'
GROUP BY reason, stage, channel, provider
ORDER BY messages DESC, reason, stage, channel, provider;
