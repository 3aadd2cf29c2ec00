-- Which messages became dead letters, where and why?
-- Also those that were replayed since; `chasqui dead list` shows what is still there. The words of the latest are looked
-- up by its key: to read them beside would take most of the log.
WITH dead AS
(
    SELECT
        reason,
        stage,
        channel,
        provider,
        uniqExact(trace_id, delivery_id) AS messages,
        max(started_at) AS latest,
        argMax((trace_id, span_id), started_at) AS latest_step,
        argMax(notification_id, started_at) AS latest_notification
    FROM trace_events
    WHERE submitted_at >= now() - INTERVAL 30 DAY AND status = 'dead'
    GROUP BY reason, stage, channel, provider
)
SELECT reason, stage, channel, provider, messages, latest, words.detail AS latest_detail, latest_notification
FROM dead
LEFT ANY JOIN
(
    SELECT (trace_id, span_id) AS step, attributes['detail'] AS detail
    FROM trace_events
    WHERE (trace_id, span_id) IN (SELECT latest_step FROM dead)
) AS words ON dead.latest_step = words.step
ORDER BY messages DESC, reason, stage, channel, provider;
