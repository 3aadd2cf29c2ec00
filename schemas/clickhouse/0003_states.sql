-- What is known of every delivery and notification, kept up to date by two materialized views over trace_events.
-- Every column is the smallest or the greatest of what the steps said, so that the same step inserted again, in
-- whatever batch, changes nothing; nothing here counts or sums. Ranks are those of chasqui_schemas::trace::State
-- and of the order of the stages. Read them through the views `deliveries` and `notifications`.
-- What belongs together is one text that sorts, not a tuple: an element of a tuple read with FINAL is not
-- aggregated (seen on 26.7).
CREATE TABLE IF NOT EXISTS delivery_states
(
    submitted_at DateTime64(3, 'UTC') COMMENT 'When the submission was stored; part of the notification id' CODEC(Delta, ZSTD(1)),
    notification_id UUID COMMENT 'The notification' CODEC(ZSTD(1)),
    delivery_id UUID COMMENT 'The delivery' CODEC(ZSTD(1)),
    known SimpleAggregateFunction(max, UInt8) COMMENT '1 if a stage has seen it; a receipt alone does not make a delivery',
    request_id SimpleAggregateFunction(max, UUID) COMMENT 'The submission' CODEC(ZSTD(1)),
    app SimpleAggregateFunction(max, LowCardinality(String)) COMMENT 'Who published it',
    category SimpleAggregateFunction(max, LowCardinality(String)) COMMENT 'What kind of message',
    template SimpleAggregateFunction(max, LowCardinality(String)) COMMENT 'Template key',
    variant SimpleAggregateFunction(max, LowCardinality(String)) COMMENT 'Variant of the template',
    locale SimpleAggregateFunction(max, LowCardinality(String)) COMMENT 'Locale that was rendered',
    channel SimpleAggregateFunction(max, LowCardinality(String)) COMMENT 'Channel',
    lane SimpleAggregateFunction(max, String) COMMENT 'Rank of the latest stage that knew the lane, and the lane: ''8 high''' CODEC(ZSTD(1)),
    provider SimpleAggregateFunction(max, String) COMMENT 'Rank of the latest stage that knew the provider, four digits of attempt, and the provider: ''80002 apns''' CODEC(ZSTD(1)),
    stage_rank SimpleAggregateFunction(max, UInt8) COMMENT 'The furthest stage reached',
    attempts SimpleAggregateFunction(max, UInt32) COMMENT 'Provider attempts' CODEC(ZSTD(1)),
    state_rank SimpleAggregateFunction(max, UInt8) COMMENT 'The highest state reached; 0 for none',
    outcome SimpleAggregateFunction(max, String) COMMENT 'Its rank, four digits of attempt, and its reason: ''40003 retries_exhausted''' CODEC(ZSTD(1)),
    first_at SimpleAggregateFunction(min, DateTime64(3, 'UTC')) COMMENT 'First step' CODEC(Delta, ZSTD(1)),
    ended_at SimpleAggregateFunction(min, Nullable(DateTime64(3, 'UTC'))) COMMENT 'First terminal state' CODEC(ZSTD(1)),
    sent_at SimpleAggregateFunction(min, Nullable(DateTime64(3, 'UTC'))) COMMENT 'Accepted by the provider' CODEC(ZSTD(1)),
    delivered_at SimpleAggregateFunction(min, Nullable(DateTime64(3, 'UTC'))) COMMENT 'Arrived' CODEC(ZSTD(1)),
    bounced_at SimpleAggregateFunction(min, Nullable(DateTime64(3, 'UTC'))) COMMENT 'Refused by the address' CODEC(ZSTD(1)),
    opened_at SimpleAggregateFunction(min, Nullable(DateTime64(3, 'UTC'))) COMMENT 'First open by anybody' CODEC(ZSTD(1)),
    opened_human_at SimpleAggregateFunction(min, Nullable(DateTime64(3, 'UTC'))) COMMENT 'First open by a person' CODEC(ZSTD(1)),
    opened_machine_at SimpleAggregateFunction(min, Nullable(DateTime64(3, 'UTC'))) COMMENT 'First open by a mail proxy or scanner' CODEC(ZSTD(1)),
    clicked_at SimpleAggregateFunction(min, Nullable(DateTime64(3, 'UTC'))) COMMENT 'First click by anybody' CODEC(ZSTD(1)),
    clicked_human_at SimpleAggregateFunction(min, Nullable(DateTime64(3, 'UTC'))) COMMENT 'First click by a person' CODEC(ZSTD(1)),
    unsubscribed_at SimpleAggregateFunction(min, Nullable(DateTime64(3, 'UTC'))) COMMENT 'First unsubscription' CODEC(ZSTD(1)),
    complained_at SimpleAggregateFunction(min, Nullable(DateTime64(3, 'UTC'))) COMMENT 'First complaint' CODEC(ZSTD(1)),
    INDEX notification_ids notification_id TYPE bloom_filter(0.01) GRANULARITY 4,
    INDEX delivery_ids delivery_id TYPE bloom_filter(0.01) GRANULARITY 4
)
ENGINE = AggregatingMergeTree
PARTITION BY toYYYYMMDD(submitted_at)
ORDER BY (submitted_at, notification_id, delivery_id)
SETTINGS non_replicated_deduplication_window = 10000, ttl_only_drop_parts = 1
COMMENT 'What is known of every delivery; read the view `deliveries`';

CREATE TABLE IF NOT EXISTS notification_states
(
    submitted_at DateTime64(3, 'UTC') COMMENT 'When the submission was stored; part of the notification id' CODEC(Delta, ZSTD(1)),
    notification_id UUID COMMENT 'The notification' CODEC(ZSTD(1)),
    known SimpleAggregateFunction(max, UInt8) COMMENT '1 if a stage has seen it; a receipt alone does not make a notification',
    has_deliveries SimpleAggregateFunction(max, UInt8) COMMENT '1 if there is a delivery: then their states count, not its own',
    request_id SimpleAggregateFunction(max, UUID) COMMENT 'The submission' CODEC(ZSTD(1)),
    transaction_id SimpleAggregateFunction(max, String) COMMENT 'The producer''s own id' CODEC(ZSTD(1)),
    app SimpleAggregateFunction(max, LowCardinality(String)) COMMENT 'Who published it',
    category SimpleAggregateFunction(max, LowCardinality(String)) COMMENT 'What kind of message',
    template SimpleAggregateFunction(max, LowCardinality(String)) COMMENT 'Template key',
    channels SimpleAggregateFunction(groupUniqArrayArray, Array(String)) COMMENT 'Channels of its deliveries' CODEC(ZSTD(1)),
    lane SimpleAggregateFunction(max, String) COMMENT 'Rank of the latest stage that knew the lane, and the lane: ''8 high''' CODEC(ZSTD(1)),
    stage_rank SimpleAggregateFunction(max, UInt8) COMMENT 'The furthest stage reached',
    state_rank SimpleAggregateFunction(max, UInt8) COMMENT 'The highest state of the notification as a whole; 0 for none',
    outcome SimpleAggregateFunction(max, String) COMMENT 'Its rank, four digits of stage, and its reason: ''20003 opted_out''' CODEC(ZSTD(1)),
    delivery_state_rank SimpleAggregateFunction(max, UInt8) COMMENT 'The highest state of its deliveries; 0 for none',
    delivery_outcome SimpleAggregateFunction(max, String) COMMENT 'Its rank, four digits of attempt, and its reason' CODEC(ZSTD(1)),
    accepted SimpleAggregateFunction(groupUniqArrayArray, Array(UInt32)) COMMENT 'Deliveries that a provider accepted, as short hashes' CODEC(ZSTD(1)),
    arrived SimpleAggregateFunction(groupUniqArrayArray, Array(UInt32)) COMMENT 'Deliveries that arrived, as short hashes' CODEC(ZSTD(1)),
    bounced SimpleAggregateFunction(groupUniqArrayArray, Array(UInt32)) COMMENT 'Deliveries that bounced, before or after, as short hashes' CODEC(ZSTD(1)),
    ended_at SimpleAggregateFunction(min, Nullable(DateTime64(3, 'UTC'))) COMMENT 'First terminal state of itself or a delivery' CODEC(ZSTD(1)),
    sent_at SimpleAggregateFunction(min, Nullable(DateTime64(3, 'UTC'))) COMMENT 'First acceptance by a provider' CODEC(ZSTD(1)),
    delivered_at SimpleAggregateFunction(min, Nullable(DateTime64(3, 'UTC'))) COMMENT 'First arrival' CODEC(ZSTD(1)),
    opened_at SimpleAggregateFunction(min, Nullable(DateTime64(3, 'UTC'))) COMMENT 'First open by anybody' CODEC(ZSTD(1)),
    opened_human_at SimpleAggregateFunction(min, Nullable(DateTime64(3, 'UTC'))) COMMENT 'First open by a person' CODEC(ZSTD(1)),
    clicked_at SimpleAggregateFunction(min, Nullable(DateTime64(3, 'UTC'))) COMMENT 'First click by anybody' CODEC(ZSTD(1)),
    INDEX notification_ids notification_id TYPE bloom_filter(0.01) GRANULARITY 4
)
ENGINE = AggregatingMergeTree
PARTITION BY toYYYYMMDD(submitted_at)
ORDER BY (submitted_at, notification_id)
SETTINGS non_replicated_deduplication_window = 10000, ttl_only_drop_parts = 1
COMMENT 'What is known of every notification; read the view `notifications`';

CREATE MATERIALIZED VIEW IF NOT EXISTS delivery_states_feed TO delivery_states AS
SELECT
    submitted_at,
    notification_id,
    delivery_id,
    max(step != 0) AS known,
    max(e.request_id) AS request_id,
    max(e.app) AS app,
    max(e.category) AS category,
    max(e.template) AS template,
    max(e.variant) AS variant,
    max(e.locale) AS locale,
    max(e.channel) AS channel,
    -- An empty word never hides one that is known.
    max(if(e.lane = '', '', concat(toString(step + 1), ' ', e.lane))) AS lane,
    max(if(e.provider = '', '', concat(toString(step + 1), try, ' ', e.provider))) AS provider,
    max(step) AS stage_rank,
    maxIf(e.attempt, e.event = 'attempt' AND e.status NOT IN ('suppressed', 'deferred')) AS attempts,
    max(e.state_rank) AS state_rank,
    max(concat(toString(e.state_rank), try, ' ', e.reason)) AS outcome,
    min(begun) AS first_at,
    minOrNullIf(done, e.state != '') AS ended_at,
    minOrNullIf(done, e.state = 'sent') AS sent_at,
    minOrNullIf(begun, e.state = 'delivered') AS delivered_at,
    minOrNullIf(begun, e.state = 'bounced') AS bounced_at,
    minOrNullIf(begun, e.event = 'opened') AS opened_at,
    minOrNullIf(begun, e.event = 'opened' AND by = 'human') AS opened_human_at,
    minOrNullIf(begun, e.event = 'opened' AND by = 'machine') AS opened_machine_at,
    minOrNullIf(begun, e.event = 'clicked') AS clicked_at,
    minOrNullIf(begun, e.event = 'clicked' AND by = 'human') AS clicked_human_at,
    minOrNullIf(begun, e.event = 'unsubscribed') AS unsubscribed_at,
    minOrNullIf(begun, e.event = 'complained') AS complained_at
FROM
(
    SELECT
        *,
        transform(stage, ['validate', 'enrich', 'filter', 'dedupe', 'render', 'prioritize', 'send'], [1, 2, 3, 4, 5, 6, 7], 0)::UInt8 AS step,
        transform(state, ['rejected', 'suppressed', 'expired', 'dead', 'sent', 'delivered', 'bounced'], [1, 2, 3, 4, 5, 6, 7], 0)::UInt8 AS state_rank,
        leftPad(toString(least(attempt, 9999)), 4, '0') AS try,
        attributes['by'] AS by,
        started_at::DateTime64(3, 'UTC') AS begun,
        addNanoseconds(started_at, duration_ns)::DateTime64(3, 'UTC') AS done
    FROM trace_events
    WHERE delivery_id != toUUID('00000000-0000-0000-0000-000000000000')
) AS e
GROUP BY submitted_at, notification_id, delivery_id;

CREATE MATERIALIZED VIEW IF NOT EXISTS notification_states_feed TO notification_states AS
SELECT
    submitted_at,
    notification_id,
    max(step != 0) AS known,
    max(of_delivery) AS has_deliveries,
    max(e.request_id) AS request_id,
    max(e.attributes['transaction_id']) AS transaction_id,
    max(e.app) AS app,
    max(e.category) AS category,
    max(e.template) AS template,
    groupUniqArrayArray(if(e.channel = '' OR NOT of_delivery, [], [toString(e.channel)])) AS channels,
    max(if(e.lane = '', '', concat(toString(step + 1), ' ', e.lane))) AS lane,
    max(step) AS stage_rank,
    maxIf(e.state_rank, NOT of_delivery) AS state_rank,
    maxIf(concat(toString(e.state_rank), leftPad(toString(step), 4, '0'), ' ', e.reason), NOT of_delivery) AS outcome,
    maxIf(e.state_rank, of_delivery) AS delivery_state_rank,
    maxIf(concat(toString(e.state_rank), try, ' ', e.reason), of_delivery) AS delivery_outcome,
    groupUniqArrayIf(short, of_delivery AND e.state IN ('sent', 'delivered')) AS accepted,
    groupUniqArrayIf(short, of_delivery AND e.state = 'delivered') AS arrived,
    groupUniqArrayIf(short, of_delivery AND e.state = 'bounced') AS bounced,
    minOrNullIf(done, e.state != '') AS ended_at,
    minOrNullIf(done, e.state = 'sent') AS sent_at,
    minOrNullIf(begun, e.state = 'delivered') AS delivered_at,
    minOrNullIf(begun, e.event = 'opened') AS opened_at,
    minOrNullIf(begun, e.event = 'opened' AND by = 'human') AS opened_human_at,
    minOrNullIf(begun, e.event = 'clicked') AS clicked_at
FROM
(
    SELECT
        *,
        delivery_id != toUUID('00000000-0000-0000-0000-000000000000') AS of_delivery,
        toUInt32(cityHash64(delivery_id)) AS short,
        transform(stage, ['validate', 'enrich', 'filter', 'dedupe', 'render', 'prioritize', 'send'], [1, 2, 3, 4, 5, 6, 7], 0)::UInt8 AS step,
        transform(state, ['rejected', 'suppressed', 'expired', 'dead', 'sent', 'delivered', 'bounced'], [1, 2, 3, 4, 5, 6, 7], 0)::UInt8 AS state_rank,
        leftPad(toString(least(attempt, 9999)), 4, '0') AS try,
        attributes['by'] AS by,
        started_at::DateTime64(3, 'UTC') AS begun,
        addNanoseconds(started_at, duration_ns)::DateTime64(3, 'UTC') AS done
    FROM trace_events
    WHERE notification_id != toUUID('00000000-0000-0000-0000-000000000000')
) AS e
GROUP BY submitted_at, notification_id;
