-- The log of what happened: one row per step of a notification, its identity (trace_id, span_id).
-- A step done again after a crash comes with the same identity: when parts merge, the row that began last stays, in
-- whatever order they came; read with FINAL to see it once before that. The partition is the day of the submission,
-- which the trace id carries, so that both rows always meet. No index but the key and the day: what else is known of a
-- notification leads to its trace id through `notifications` and `deliveries`, at an eighth of the cost.
-- Parts are merged twelve and more at a time, and not beyond 2 GiB: to write a row anew two or three times instead of
-- six halves what it costs, and a trace is in one or two parts however many there are, because ids sort by time.
-- An insert is on the disk before it is answered: the trace stream forgets what was answered. A merge need not be,
-- because the parts it was made of are kept for some minutes.
-- Statements here must be safe to run twice, and from two processes at once.
CREATE TABLE IF NOT EXISTS trace_events
(
    trace_id String COMMENT '32 hex digits of the notification''s UUIDv7, or of the request''s own trace; as text because ClickHouse sorts UUIDs by their random half' CODEC(ZSTD(1)),
    span_id UInt64 COMMENT 'The step: derived from trace, stage, delivery and attempt' CODEC(NONE),
    parent_span_id UInt64 COMMENT 'The step before it; 0 for the root' CODEC(ZSTD(1)),
    submitted_at DateTime64(3, 'UTC') COMMENT 'When the submission was stored; part of the trace id' CODEC(Delta, ZSTD(1)),
    is_notification Bool COMMENT 'False on a trace that is not a notification''s: the request''s own, or that of a message that could not be read',
    notification_id UUID ALIAS if(is_notification, toUUID(trace_id), toUUID('00000000-0000-0000-0000-000000000000')) COMMENT 'The notification: the trace id, or zero on other traces',
    request_id UUID COMMENT 'The submission; zero on receipts' CODEC(ZSTD(1)),
    delivery_id UUID COMMENT 'The delivery; zero on steps of the notification as a whole' CODEC(ZSTD(1)),
    app LowCardinality(String) COMMENT 'The app that published it',
    category LowCardinality(String) COMMENT 'The kind of message',
    template LowCardinality(String) COMMENT 'Template key; empty for inline content',
    variant LowCardinality(String) COMMENT 'Variant of the template',
    locale LowCardinality(String) COMMENT 'Locale that was rendered',
    lane LowCardinality(String) COMMENT 'critical, high, normal or bulk',
    channel LowCardinality(String) COMMENT 'push, sms, email or in_app; empty before render',
    provider LowCardinality(String) COMMENT 'Account called, or reporter of a receipt',
    vendor LowCardinality(String) COMMENT 'Vendor of that account; empty before it is called, and on receipts of apps',
    stage LowCardinality(String) COMMENT 'validate, enrich, filter, dedupe, render, prioritize, send, or receipt',
    event LowCardinality(String) COMMENT 'request, notification (the root), stage, attempt, or the kind of a receipt: delivered, bounced, opened, clicked, unsubscribed, complained, failed',
    status LowCardinality(String) COMMENT 'ok, suppressed, deferred, retry, rejected, dead or error',
    state LowCardinality(String) COMMENT 'Terminal state that this step decides: rejected, suppressed, expired, dead, sent, delivered, bounced; else empty',
    reason LowCardinality(String) COMMENT 'Reason code, where the message did not simply go on; on receipts the provider''s own code',
    attempt UInt32 COMMENT 'Provider attempt, from 1' CODEC(ZSTD(1)),
    queued_ns UInt64 COMMENT 'Nanoseconds that the message had waited in its queue' CODEC(ZSTD(1)),
    started_at DateTime64(9, 'UTC') COMMENT 'When the work began; of a receipt, when it happened' CODEC(Delta, ZSTD(1)),
    duration_ns UInt64 COMMENT 'Nanoseconds that the work took' CODEC(ZSTD(1)),
    attributes Map(LowCardinality(String), String) COMMENT 'What else explains the step; never message bodies or addresses' CODEC(ZSTD(1)),
    INDEX started_at_range started_at TYPE minmax GRANULARITY 1
)
ENGINE = ReplacingMergeTree(started_at)
PARTITION BY toYYYYMMDD(submitted_at)
ORDER BY (trace_id, span_id)
SETTINGS non_replicated_deduplication_window = 10000, ttl_only_drop_parts = 1, merge_selector_base = 12,
    max_bytes_to_merge_at_max_space_in_pool = 2147483648, fsync_after_insert = 1, fsync_part_directory = 1
COMMENT 'One row per step of a notification: the log that everything else derives from';
