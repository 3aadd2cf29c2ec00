-- What was deliberately not sent, or refused at the front, and why?
-- Counts steps, not notifications: one that lost a channel on the way and was sent on another is here too.
SELECT
    status,
    reason,
    stage,
    app,
    category,
    uniqExact(trace_id, span_id) AS steps,
    uniqExact(trace_id) AS notifications
FROM trace_events
WHERE submitted_at >= now() - INTERVAL 7 DAY AND status IN ('suppressed', 'rejected')
GROUP BY status, reason, stage, app, category
ORDER BY steps DESC, status, reason, stage, app, category;
