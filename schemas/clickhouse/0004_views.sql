-- What analysts and dashboards read. Latest state, one row each, exact whatever was inserted twice:
--   SELECT state, count() FROM notifications GROUP BY state
-- Filter by submitted_at to read only those days.
CREATE VIEW IF NOT EXISTS deliveries AS
SELECT
    delivery_id,
    notification_id,
    request_id,
    submitted_at,
    app,
    category,
    template,
    variant,
    locale,
    channel,
    substring(s.lane, 3) AS lane,
    substring(s.provider, 7) AS provider,
    transform(state_rank, [1, 2, 3, 4, 5, 6, 7], ['rejected', 'suppressed', 'expired', 'dead', 'sent', 'delivered', 'bounced'], 'pending') AS state,
    substring(outcome, 7) AS reason,
    transform(stage_rank, [1, 2, 3, 4, 5, 6, 7], ['validate', 'enrich', 'filter', 'dedupe', 'render', 'prioritize', 'send'], '') AS stage,
    attempts,
    first_at,
    ended_at,
    -- What arrived was sent, even where the provider's answer was lost.
    coalesce(s.sent_at, s.delivered_at) AS sent_at,
    delivered_at,
    bounced_at,
    opened_at,
    opened_human_at,
    opened_machine_at,
    clicked_at,
    clicked_human_at,
    unsubscribed_at,
    complained_at
FROM delivery_states AS s FINAL
WHERE known = 1
SETTINGS do_not_merge_across_partitions_select_final = 1
COMMENT 'Latest state of every delivery, one row each';

-- A notification has got as far as the best of its deliveries: one that arrived outweighs another that bounced.
CREATE VIEW IF NOT EXISTS notifications AS
WITH multiIf(
    has_deliveries = 0, s.state_rank,
    notEmpty(arrayFilter(delivery -> NOT has(s.bounced, delivery), s.arrived)), 6,
    notEmpty(arrayFilter(delivery -> NOT has(s.bounced, delivery), s.accepted)), 5,
    delivery_state_rank) AS rank
SELECT
    notification_id,
    request_id,
    transaction_id,
    submitted_at,
    app,
    category,
    template,
    arraySort(s.channels) AS channels,
    substring(s.lane, 3) AS lane,
    transform(
        rank,
        [1, 2, 3, 4, 5, 6, 7], ['rejected', 'suppressed', 'expired', 'dead', 'sent', 'delivered', 'bounced'], 'pending') AS state,
    multiIf(rank IN (5, 6), '', has_deliveries = 1, substring(delivery_outcome, 7), substring(outcome, 7)) AS reason,
    transform(stage_rank, [1, 2, 3, 4, 5, 6, 7], ['validate', 'enrich', 'filter', 'dedupe', 'render', 'prioritize', 'send'], '') AS stage,
    ended_at,
    coalesce(s.sent_at, s.delivered_at) AS sent_at,
    delivered_at,
    opened_at,
    opened_human_at,
    clicked_at
FROM notification_states AS s FINAL
WHERE known = 1
SETTINGS do_not_merge_across_partitions_select_final = 1
COMMENT 'Latest state of every notification, one row each';

CREATE VIEW IF NOT EXISTS delivery_stats AS
SELECT
    toStartOfMinute(submitted_at) AS minute,
    app,
    category,
    template,
    variant,
    locale,
    channel,
    provider,
    lane,
    state,
    count() AS deliveries,
    countIf(sent_at IS NOT NULL) AS sent,
    countIf(delivered_at IS NOT NULL) AS delivered,
    countIf(bounced_at IS NOT NULL) AS bounced,
    countIf(opened_at IS NOT NULL) AS opened,
    countIf(opened_human_at IS NOT NULL) AS opened_human,
    countIf(clicked_at IS NOT NULL) AS clicked,
    countIf(clicked_human_at IS NOT NULL) AS clicked_human,
    countIf(unsubscribed_at IS NOT NULL) AS unsubscribed,
    countIf(complained_at IS NOT NULL) AS complained,
    sum(attempts) AS attempts
FROM deliveries
GROUP BY minute, app, category, template, variant, locale, channel, provider, lane, state
COMMENT 'Deliveries by minute of submission and every dimension';

CREATE VIEW IF NOT EXISTS dead_letters AS
SELECT
    started_at AS died_at,
    notification_id,
    delivery_id,
    request_id,
    submitted_at,
    app,
    category,
    lane,
    channel,
    provider,
    stage,
    reason,
    attempt,
    attributes['detail'] AS detail,
    trace_id
FROM trace_events FINAL
WHERE status = 'dead'
ORDER BY started_at DESC
LIMIT 1 BY trace_id, delivery_id
SETTINGS do_not_merge_across_partitions_select_final = 1
COMMENT 'The latest dead letter of every notification and delivery, replayed or not';
