-- What analysts and dashboards read: the latest state, one row each, exact even where rows were inserted twice:
--   SELECT state, count() FROM notifications GROUP BY state
-- 4294967295 is the time of what has not happened (NEVER in the writer's `states.rs`); `nullIf` makes it NULL. The lists of
-- words below, by rank or bit, are those of the enums State, Stage and Channel: a test in `schemas/src/clickhouse.rs`
-- holds them to it, and `pipeline/warehouse/tests/servers/states.rs` holds the rule of a notification's state to that in Rust.
-- Filter by submitted_at to read only those days. Dimensions are cast to a plain type, because
-- tools do not know the aggregate types of the states; ids and users are not, because a cast would bypass their index.
CREATE VIEW IF NOT EXISTS deliveries AS
WITH
    if(s.sent_ms = 4294967295, s.delivered_ms, s.sent_ms) AS accepted_ms,
    -- Of two ends one counts, the bounce; the trace has both.
    if(substring(s.outcome, 1, 1) = '7', 4294967295, s.delivered_ms) AS arrived_ms
SELECT
    delivery_id,
    notification_id,
    request_id,
    submitted_at,
    CAST(s.app, 'LowCardinality(String)') AS app,
    CAST(s.category, 'LowCardinality(String)') AS category,
    CAST(s.template, 'LowCardinality(String)') AS template,
    CAST(s.variant, 'LowCardinality(String)') AS variant,
    CAST(s.locale, 'LowCardinality(String)') AS locale,
    CAST(s.channel, 'LowCardinality(String)') AS channel,
    substring(s.lane, 7) AS lane,
    substring(s.provider, 7) AS provider,
    substring(s.vendor, 7) AS vendor,
    transform(toUInt8OrZero(substring(outcome, 1, 1)), [1, 2, 3, 4, 5, 6, 7], ['rejected', 'suppressed', 'expired', 'dead', 'sent', 'delivered', 'bounced'], 'pending') AS state,
    substring(outcome, 7) AS reason,
    transform(stage_rank, [1, 2, 3, 4, 5, 6, 7], ['validate', 'enrich', 'filter', 'dedupe', 'render', 'prioritize', 'send'], '') AS stage,
    attempts,
    addMilliseconds(submitted_at, first_ms) AS first_at,
    addMilliseconds(submitted_at, nullIf(s.ended_ms, 4294967295)) AS ended_at,
    -- What arrived was sent, even where the provider's answer was lost.
    addMilliseconds(submitted_at, nullIf(accepted_ms, 4294967295)) AS sent_at,
    addMilliseconds(submitted_at, nullIf(arrived_ms, 4294967295)) AS delivered_at,
    addMilliseconds(submitted_at, nullIf(s.bounced_ms, 4294967295)) AS bounced_at,
    addMilliseconds(submitted_at, nullIf(s.opened_ms, 4294967295)) AS opened_at,
    addMilliseconds(submitted_at, nullIf(s.opened_human_ms, 4294967295)) AS opened_human_at,
    addMilliseconds(submitted_at, nullIf(s.opened_machine_ms, 4294967295)) AS opened_machine_at,
    addMilliseconds(submitted_at, nullIf(s.clicked_ms, 4294967295)) AS clicked_at,
    addMilliseconds(submitted_at, nullIf(s.clicked_human_ms, 4294967295)) AS clicked_human_at,
    addMilliseconds(submitted_at, nullIf(s.unsubscribed_ms, 4294967295)) AS unsubscribed_at,
    addMilliseconds(submitted_at, nullIf(s.complained_ms, 4294967295)) AS complained_at,
    -- From the submission, in milliseconds.
    nullIf(accepted_ms, 4294967295) AS sent_after_ms,
    nullIf(arrived_ms, 4294967295) AS delivered_after_ms,
    nullIf(s.opened_human_ms, 4294967295) AS opened_human_after_ms
FROM delivery_states AS s FINAL
WHERE known = 1
SETTINGS do_not_merge_across_partitions_select_final = 1
COMMENT 'Latest state of every delivery, one row each';

ALTER TABLE deliveries
    COMMENT COLUMN delivery_id 'The delivery: one notification to one address',
    COMMENT COLUMN notification_id 'The notification',
    COMMENT COLUMN request_id 'The submission',
    COMMENT COLUMN submitted_at 'When the submission was stored; filter by it, it decides which days are read',
    COMMENT COLUMN app 'The app that published it',
    COMMENT COLUMN category 'The kind of message',
    COMMENT COLUMN template 'Template key; empty for inline content',
    COMMENT COLUMN variant 'Variant of the template',
    COMMENT COLUMN locale 'Locale that was rendered',
    COMMENT COLUMN channel 'push, sms, email or in_app',
    COMMENT COLUMN lane 'critical, high, normal or bulk: the one it was sent on',
    COMMENT COLUMN provider 'Account called last',
    COMMENT COLUMN vendor 'Vendor of that account',
    COMMENT COLUMN state 'pending, rejected, suppressed, expired, dead, sent (accepted, nothing more known), delivered or bounced',
    COMMENT COLUMN reason 'Reason code of that state; empty where there is none',
    COMMENT COLUMN stage 'The furthest stage reached',
    COMMENT COLUMN attempts 'Provider attempts',
    COMMENT COLUMN first_at 'First step',
    COMMENT COLUMN ended_at 'First terminal state',
    COMMENT COLUMN sent_at 'Accepted by the provider; what arrived was accepted, even where the answer was lost',
    COMMENT COLUMN delivered_at 'Arrived, as far as the provider says, and did not bounce after all',
    COMMENT COLUMN bounced_at 'Refused by the address',
    COMMENT COLUMN opened_at 'First open by anybody, mail proxies included',
    COMMENT COLUMN opened_human_at 'First open by a person',
    COMMENT COLUMN opened_machine_at 'First open by a mail proxy or scanner',
    COMMENT COLUMN clicked_at 'First click by anybody',
    COMMENT COLUMN clicked_human_at 'First click by a person',
    COMMENT COLUMN unsubscribed_at 'First unsubscription',
    COMMENT COLUMN complained_at 'First complaint of spam',
    COMMENT COLUMN sent_after_ms 'Milliseconds from submission to acceptance',
    COMMENT COLUMN delivered_after_ms 'Milliseconds from submission to arrival; empty where it bounced after all',
    COMMENT COLUMN opened_human_after_ms 'Milliseconds from submission to the first open by a person';

-- A notification has got as far as the best of its deliveries: one that arrived outweighs another that bounced.
CREATE VIEW IF NOT EXISTS traces AS
WITH
    arrayFilter(end -> bitAnd(end, 7) IN (5, 6) AND NOT has(s.ends, bitOr(end, 7)), s.ends) AS good_ends,
    multiIf(
        has_deliveries = 0, toUInt8OrZero(substring(outcome, 1, 1)),
        arrayExists(end -> bitAnd(end, 7) = 6, good_ends), 6,
        notEmpty(good_ends), 5,
        toUInt8OrZero(substring(delivery_outcome, 1, 1))) AS rank,
    if(s.sent_ms = 4294967295, s.delivered_ms, s.sent_ms) AS accepted_ms
SELECT
    replaceAll(toString(notification_id), '-', '') AS trace_id,
    known = 1 AS is_notification,
    notification_id,
    request_id,
    user,
    transaction_id,
    idempotency_key,
    submitted_at,
    CAST(s.app, 'LowCardinality(String)') AS app,
    CAST(s.category, 'LowCardinality(String)') AS category,
    CAST(s.template, 'LowCardinality(String)') AS template,
    arrayMap(bit -> transform(bit, [1, 2, 4, 8], ['push', 'sms', 'email', 'in_app'], ''), bitmaskToArray(s.channels)) AS channels,
    substring(s.lane, 7) AS lane,
    if(rank = 0 AND known != 1, 'fanned_out', transform(
        rank,
        [1, 2, 3, 4, 5, 6, 7], ['rejected', 'suppressed', 'expired', 'dead', 'sent', 'delivered', 'bounced'], 'pending')) AS state,
    multiIf(rank IN (5, 6), '', has_deliveries = 1, substring(delivery_outcome, 7), substring(outcome, 7)) AS reason,
    transform(stage_rank, [1, 2, 3, 4, 5, 6, 7], ['validate', 'enrich', 'filter', 'dedupe', 'render', 'prioritize', 'send'], '') AS stage,
    was_deferred = 1 AS was_deferred,
    toUInt32(length(arrayDistinct(arrayMap(end -> bitShiftRight(end, 3), good_ends)))) AS deliveries_sent,
    addMilliseconds(submitted_at, nullIf(s.ended_ms, 4294967295)) AS ended_at,
    addMilliseconds(submitted_at, nullIf(accepted_ms, 4294967295)) AS sent_at,
    addMilliseconds(submitted_at, nullIf(if(rank = 6, s.delivered_ms, 4294967295), 4294967295)) AS delivered_at,
    addMilliseconds(submitted_at, nullIf(s.opened_ms, 4294967295)) AS opened_at,
    addMilliseconds(submitted_at, nullIf(s.opened_human_ms, 4294967295)) AS opened_human_at,
    addMilliseconds(submitted_at, nullIf(s.clicked_ms, 4294967295)) AS clicked_at,
    nullIf(accepted_ms, 4294967295) AS sent_after_ms
FROM notification_states AS s FINAL
WHERE known > 0
SETTINGS do_not_merge_across_partitions_select_final = 1
COMMENT 'Latest state of every trace: of every notification, and of every request that was rejected or fanned out';

ALTER TABLE traces
    COMMENT COLUMN trace_id 'As in trace_events',
    COMMENT COLUMN is_notification 'False for a request that was rejected or fanned out',
    COMMENT COLUMN notification_id 'The notification',
    COMMENT COLUMN request_id 'The submission',
    COMMENT COLUMN user 'The recipient''s user id; empty where the submission named addresses',
    COMMENT COLUMN transaction_id 'The producer''s own id',
    COMMENT COLUMN idempotency_key 'The key under which it is sent only once',
    COMMENT COLUMN submitted_at 'When the submission was stored; filter by it, it decides which days are read',
    COMMENT COLUMN app 'The app that published it',
    COMMENT COLUMN category 'The kind of message',
    COMMENT COLUMN template 'Template key; empty for inline content',
    COMMENT COLUMN channels 'Channels of its deliveries',
    COMMENT COLUMN lane 'critical, high, normal or bulk: the last that is known',
    COMMENT COLUMN state 'pending, rejected, suppressed, expired, dead, sent (accepted, nothing more known), delivered or bounced; the best of its deliveries'' where it has any; fanned_out for a request that became several notifications',
    COMMENT COLUMN reason 'Reason code of that state; empty where there is none',
    COMMENT COLUMN stage 'The furthest stage reached',
    COMMENT COLUMN was_deferred 'Held back on purpose: a time to wait for, quiet hours, pacing',
    COMMENT COLUMN deliveries_sent 'Deliveries that a provider accepted and that did not bounce',
    COMMENT COLUMN ended_at 'First terminal state of itself or a delivery',
    COMMENT COLUMN sent_at 'First acceptance by a provider',
    COMMENT COLUMN delivered_at 'First arrival, as far as providers say; empty where nothing of it stayed',
    COMMENT COLUMN opened_at 'First open by anybody, mail proxies included',
    COMMENT COLUMN opened_human_at 'First open by a person',
    COMMENT COLUMN clicked_at 'First click by anybody',
    COMMENT COLUMN sent_after_ms 'Milliseconds from submission to the first acceptance';

CREATE VIEW IF NOT EXISTS notifications AS
SELECT * EXCEPT (trace_id, is_notification)
FROM traces
WHERE is_notification
COMMENT 'Latest state of every notification, one row each';

ALTER TABLE notifications
    COMMENT COLUMN notification_id 'The notification',
    COMMENT COLUMN request_id 'The submission',
    COMMENT COLUMN user 'The recipient''s user id; empty where the submission named addresses',
    COMMENT COLUMN transaction_id 'The producer''s own id',
    COMMENT COLUMN idempotency_key 'The key under which it is sent only once',
    COMMENT COLUMN submitted_at 'When the submission was stored; filter by it, it decides which days are read',
    COMMENT COLUMN app 'The app that published it',
    COMMENT COLUMN category 'The kind of message',
    COMMENT COLUMN template 'Template key; empty for inline content',
    COMMENT COLUMN channels 'Channels of its deliveries',
    COMMENT COLUMN lane 'critical, high, normal or bulk: the last that is known',
    COMMENT COLUMN state 'pending, rejected, suppressed, expired, dead, sent (accepted, nothing more known), delivered or bounced; the best of its deliveries'' where it has any',
    COMMENT COLUMN reason 'Reason code of that state; empty where there is none',
    COMMENT COLUMN stage 'The furthest stage reached',
    COMMENT COLUMN was_deferred 'Held back on purpose: a time to wait for, quiet hours, pacing',
    COMMENT COLUMN deliveries_sent 'Deliveries that a provider accepted and that did not bounce',
    COMMENT COLUMN ended_at 'First terminal state of itself or a delivery',
    COMMENT COLUMN sent_at 'First acceptance by a provider',
    COMMENT COLUMN delivered_at 'First arrival, as far as providers say; empty where nothing of it stayed',
    COMMENT COLUMN opened_at 'First open by anybody, mail proxies included',
    COMMENT COLUMN opened_human_at 'First open by a person',
    COMMENT COLUMN clicked_at 'First click by anybody',
    COMMENT COLUMN sent_after_ms 'Milliseconds from submission to the first acceptance';

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
    vendor,
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
GROUP BY minute, app, category, template, variant, locale, channel, provider, vendor, lane, state
COMMENT 'Deliveries by minute of submission and every dimension';

ALTER TABLE delivery_stats
    COMMENT COLUMN minute 'Minute of the submission',
    COMMENT COLUMN app 'The app that published it',
    COMMENT COLUMN category 'The kind of message',
    COMMENT COLUMN template 'Template key; empty for inline content',
    COMMENT COLUMN variant 'Variant of the template',
    COMMENT COLUMN locale 'Locale that was rendered',
    COMMENT COLUMN channel 'push, sms, email or in_app',
    COMMENT COLUMN provider 'Account called last',
    COMMENT COLUMN vendor 'Vendor of that account',
    COMMENT COLUMN lane 'critical, high, normal or bulk: the one it was sent on',
    COMMENT COLUMN state 'pending, rejected, suppressed, expired, dead, sent (accepted, nothing more known), delivered or bounced',
    COMMENT COLUMN deliveries 'Number of deliveries',
    COMMENT COLUMN sent 'Accepted by the provider',
    COMMENT COLUMN delivered 'Arrived, as far as the provider says, and did not bounce after all',
    COMMENT COLUMN bounced 'Refused by the address',
    COMMENT COLUMN opened 'Opened by anybody, mail proxies included',
    COMMENT COLUMN opened_human 'Opened by a person',
    COMMENT COLUMN clicked 'Clicked by anybody',
    COMMENT COLUMN clicked_human 'Clicked by a person',
    COMMENT COLUMN unsubscribed 'Unsubscribed',
    COMMENT COLUMN complained 'Complained of as spam',
    COMMENT COLUMN attempts 'Provider attempts';

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
    vendor,
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

ALTER TABLE dead_letters
    COMMENT COLUMN died_at 'When it was given up',
    COMMENT COLUMN notification_id 'The notification; zero where it was given up before there was one',
    COMMENT COLUMN delivery_id 'The delivery; zero where the notification as a whole was given up',
    COMMENT COLUMN request_id 'The submission',
    COMMENT COLUMN submitted_at 'When the submission was stored',
    COMMENT COLUMN app 'The app that published it',
    COMMENT COLUMN category 'The kind of message',
    COMMENT COLUMN lane 'critical, high, normal or bulk',
    COMMENT COLUMN channel 'push, sms, email or in_app; empty before render',
    COMMENT COLUMN provider 'Account called last',
    COMMENT COLUMN vendor 'Vendor of that account',
    COMMENT COLUMN stage 'The stage that gave up',
    COMMENT COLUMN reason 'Reason code',
    COMMENT COLUMN attempt 'Provider attempts that were made',
    COMMENT COLUMN detail 'What the provider, or the stage, said',
    COMMENT COLUMN trace_id 'As in trace_events';
