-- What is known of every delivery and notification. The writer makes these rows from the steps of each insert (module
-- `states` of chasqui-trace) and several rows of one delivery merge here.
-- Every column is the smallest, the greatest or the union of what the steps said, so that the same step inserted again,
-- in whatever batch, changes nothing; nothing here counts or sums. Ranks are those of chasqui_schemas::trace::State and
-- of the order of the stages. Times are milliseconds since the submission, 4294967295 where it has not happened; what
-- happens more than 49 days later counts as having happened then. Read the views `deliveries` and `notifications`.
-- What belongs together is one text that sorts, not a tuple: an element of a tuple read with FINAL is not aggregated
-- (seen on 26.7).
CREATE TABLE IF NOT EXISTS delivery_states
(
    submitted_at DateTime64(3, 'UTC') COMMENT 'When the submission was stored; part of the notification id' CODEC(Delta, ZSTD(1)),
    notification_id UUID COMMENT 'The notification' CODEC(ZSTD(1)),
    delivery_id UUID COMMENT 'The delivery' CODEC(ZSTD(1)),
    known SimpleAggregateFunction(max, UInt8) COMMENT '1 if a stage has seen it; a receipt alone does not make a delivery',
    request_id SimpleAggregateFunction(max, UUID) COMMENT 'The submission' CODEC(ZSTD(1)),
    app SimpleAggregateFunction(max, LowCardinality(String)) COMMENT 'The app that published it',
    category SimpleAggregateFunction(max, LowCardinality(String)) COMMENT 'The kind of message',
    template SimpleAggregateFunction(max, LowCardinality(String)) COMMENT 'Template key',
    variant SimpleAggregateFunction(max, LowCardinality(String)) COMMENT 'Variant of the template',
    locale SimpleAggregateFunction(max, LowCardinality(String)) COMMENT 'Locale that was rendered',
    channel SimpleAggregateFunction(max, LowCardinality(String)) COMMENT 'Channel',
    lane SimpleAggregateFunction(max, LowCardinality(String)) COMMENT 'Rank of the latest stage that knew the lane, 0000, and the lane: ''80000 high''',
    provider SimpleAggregateFunction(max, LowCardinality(String)) COMMENT 'Rank of the latest stage that knew the account, four digits of attempt, and the account: ''80002 twilio-shop''',
    vendor SimpleAggregateFunction(max, LowCardinality(String)) COMMENT 'Rank of the latest stage that knew the vendor, four digits of attempt, and the vendor: ''80002 twilio''',
    stage_rank SimpleAggregateFunction(max, UInt8) COMMENT 'The furthest stage reached',
    attempts SimpleAggregateFunction(max, UInt32) COMMENT 'Provider attempts' CODEC(ZSTD(1)),
    outcome SimpleAggregateFunction(max, LowCardinality(String)) COMMENT 'The highest state reached as its rank (0 for none), four digits of attempt, and its reason: ''40003 retries_exhausted''',
    first_ms SimpleAggregateFunction(min, UInt32) COMMENT 'First step' CODEC(ZSTD(1)),
    ended_ms SimpleAggregateFunction(min, UInt32) COMMENT 'First terminal state' CODEC(ZSTD(1)),
    sent_ms SimpleAggregateFunction(min, UInt32) COMMENT 'Accepted by the provider' CODEC(ZSTD(1)),
    delivered_ms SimpleAggregateFunction(min, UInt32) COMMENT 'Arrived' CODEC(ZSTD(1)),
    bounced_ms SimpleAggregateFunction(min, UInt32) COMMENT 'Refused by the address' CODEC(ZSTD(1)),
    opened_ms SimpleAggregateFunction(min, UInt32) COMMENT 'First open by anybody' CODEC(ZSTD(1)),
    opened_human_ms SimpleAggregateFunction(min, UInt32) COMMENT 'First open by a person' CODEC(ZSTD(1)),
    opened_machine_ms SimpleAggregateFunction(min, UInt32) COMMENT 'First open by a mail proxy or scanner' CODEC(ZSTD(1)),
    clicked_ms SimpleAggregateFunction(min, UInt32) COMMENT 'First click by anybody' CODEC(ZSTD(1)),
    clicked_human_ms SimpleAggregateFunction(min, UInt32) COMMENT 'First click by a person' CODEC(ZSTD(1)),
    unsubscribed_ms SimpleAggregateFunction(min, UInt32) COMMENT 'First unsubscription' CODEC(ZSTD(1)),
    complained_ms SimpleAggregateFunction(min, UInt32) COMMENT 'First complaint' CODEC(ZSTD(1)),
    INDEX notification_ids notification_id TYPE bloom_filter(0.01) GRANULARITY 4,
    INDEX delivery_ids delivery_id TYPE bloom_filter(0.01) GRANULARITY 4
)
ENGINE = AggregatingMergeTree
PARTITION BY toYYYYMMDD(submitted_at)
ORDER BY (submitted_at, notification_id, delivery_id)
SETTINGS non_replicated_deduplication_window = 10000, ttl_only_drop_parts = 1, merge_selector_base = 12,
    max_bytes_to_merge_at_max_space_in_pool = 2147483648, fsync_after_insert = 1, fsync_part_directory = 1
COMMENT 'What is known of every delivery; read the view `deliveries`';

CREATE TABLE IF NOT EXISTS notification_states
(
    submitted_at DateTime64(3, 'UTC') COMMENT 'When the submission was stored; part of the notification id' CODEC(Delta, ZSTD(1)),
    notification_id UUID COMMENT 'The notification, or the trace of something else' CODEC(ZSTD(1)),
    known SimpleAggregateFunction(max, UInt8) COMMENT '1 if a stage has seen it; 2 if the trace is not a notification''s but the request''s own; a receipt alone does not make a notification',
    request_id SimpleAggregateFunction(max, UUID) COMMENT 'The submission' CODEC(ZSTD(1)),
    user SimpleAggregateFunction(max, String) COMMENT 'The recipient''s user id; empty where the submission named addresses' CODEC(ZSTD(1)),
    transaction_id SimpleAggregateFunction(max, String) COMMENT 'The producer''s own id' CODEC(ZSTD(1)),
    idempotency_key SimpleAggregateFunction(max, String) COMMENT 'The key under which it is sent only once' CODEC(ZSTD(1)),
    app SimpleAggregateFunction(max, LowCardinality(String)) COMMENT 'The app that published it',
    category SimpleAggregateFunction(max, LowCardinality(String)) COMMENT 'The kind of message',
    template SimpleAggregateFunction(max, LowCardinality(String)) COMMENT 'Template key',
    channels SimpleAggregateFunction(groupBitOr, UInt8) COMMENT 'Channels of its deliveries: 1 push, 2 sms, 4 email, 8 in_app',
    lane SimpleAggregateFunction(max, LowCardinality(String)) COMMENT 'Rank of the latest stage that knew the lane, 0000, and the lane: ''80000 high''',
    stage_rank SimpleAggregateFunction(max, UInt8) COMMENT 'The furthest stage reached',
    was_deferred SimpleAggregateFunction(max, UInt8) COMMENT '1 if a step held it back on purpose: a time to wait for, quiet hours, pacing',
    has_deliveries SimpleAggregateFunction(max, UInt8) COMMENT '1 if there is a delivery: then their states count, not its own',
    outcome SimpleAggregateFunction(max, LowCardinality(String)) COMMENT 'The highest state of the notification as a whole as its rank (0 for none), four digits of stage, and its reason: ''20003 opted_out''',
    delivery_outcome SimpleAggregateFunction(max, LowCardinality(String)) COMMENT 'The highest state of its deliveries as its rank, four digits of attempt, and its reason',
    ends SimpleAggregateFunction(groupUniqArrayArray, Array(UInt64)) COMMENT 'Deliveries that were accepted, arrived or bounced: a hash of the delivery, the rank of that state in its last three bits' CODEC(ZSTD(1)),
    ended_ms SimpleAggregateFunction(min, UInt32) COMMENT 'First terminal state of itself or a delivery' CODEC(ZSTD(1)),
    sent_ms SimpleAggregateFunction(min, UInt32) COMMENT 'First acceptance by a provider' CODEC(ZSTD(1)),
    delivered_ms SimpleAggregateFunction(min, UInt32) COMMENT 'First arrival' CODEC(ZSTD(1)),
    opened_ms SimpleAggregateFunction(min, UInt32) COMMENT 'First open by anybody' CODEC(ZSTD(1)),
    opened_human_ms SimpleAggregateFunction(min, UInt32) COMMENT 'First open by a person' CODEC(ZSTD(1)),
    clicked_ms SimpleAggregateFunction(min, UInt32) COMMENT 'First click by anybody' CODEC(ZSTD(1)),
    INDEX notification_ids notification_id TYPE bloom_filter(0.01) GRANULARITY 4,
    INDEX request_ids request_id TYPE bloom_filter(0.01) GRANULARITY 4,
    INDEX users user TYPE bloom_filter(0.01) GRANULARITY 4,
    INDEX transaction_ids transaction_id TYPE bloom_filter(0.01) GRANULARITY 4,
    INDEX idempotency_keys idempotency_key TYPE bloom_filter(0.01) GRANULARITY 4
)
ENGINE = AggregatingMergeTree
PARTITION BY toYYYYMMDD(submitted_at)
ORDER BY (submitted_at, notification_id)
SETTINGS non_replicated_deduplication_window = 10000, ttl_only_drop_parts = 1, merge_selector_base = 12,
    max_bytes_to_merge_at_max_space_in_pool = 2147483648, fsync_after_insert = 1, fsync_part_directory = 1
COMMENT 'What is known of every notification; read the view `notifications`';
