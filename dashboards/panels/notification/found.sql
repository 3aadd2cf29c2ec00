WITH
    decodeURLComponent('${id:percentencode}') AS needle,
    toUUIDOrZero(needle) AS uuid
SELECT
    trace_id,
    submitted_at AS submitted,
    toString(app) AS app,
    toString(category) AS category,
    toString(template) AS template,
    toString(user) AS user,
    toString(transaction_id) AS transaction,
    channels,
    state,
    reason,
    stage,
    toString(request_id) AS request_id
FROM traces
WHERE uuid != toUUIDOrZero('')
        AND (notification_id = uuid OR traces.request_id = uuid
            OR notification_id IN (SELECT notification_id FROM deliveries WHERE delivery_id = uuid))
    OR $__timeFilter(submitted_at) AND (needle = '' OR needle IN (user, transaction_id, idempotency_key))
ORDER BY trace_id DESC
LIMIT 100
