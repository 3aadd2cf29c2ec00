-- The queues as the monitor saw them: every few seconds one row per consumer, and one per stream without a consumer.
-- Several monitors may run: they sample at the same moments and insert under the moment's token, so that each moment is
-- here once; should one come twice nevertheless, merging keeps one. An outage of ClickHouse leaves a gap, no more.
CREATE TABLE IF NOT EXISTS queue_metrics
(
    sampled_at DateTime64(3, 'UTC') COMMENT 'When; the same for all rows of a sample' CODEC(Delta, ZSTD(1)),
    stage LowCardinality(String) COMMENT 'What it serves: a stage, validate to send; or receipts, owners (contacts on their way into the index of owners), traces (the way into ClickHouse), schedules (what waits for its time), dead (dead letters), rejected (rejected submissions), ledger, attempts, inbox',
    lane LowCardinality(String) COMMENT 'critical, high, normal or bulk; empty where the stream has no lanes',
    channel LowCardinality(String) COMMENT 'push, sms, email or in_app at send; else empty',
    stream LowCardinality(String) COMMENT 'JetStream stream',
    consumer LowCardinality(String) COMMENT 'JetStream consumer; empty on the row of a stream without a consumer',
    pending UInt64 COMMENT 'Messages not handed out yet, each of up to 128 notifications; of schedules those not due, of dead all that are kept' CODEC(ZSTD(1)),
    in_flight UInt64 COMMENT 'Messages handed out and not acknowledged' CODEC(ZSTD(1)),
    redelivered UInt64 COMMENT 'Of those in flight, handed out more than once' CODEC(ZSTD(1)),
    waiting UInt64 COMMENT 'Requests for messages that the server holds; with messages pending and none in flight, 0 means that no process reads the queue' CODEC(ZSTD(1)),
    oldest_ms UInt64 COMMENT 'Age of the oldest message that is not acknowledged, milliseconds; 0 if there is none, or no consumer' CODEC(ZSTD(1)),
    bytes UInt64 COMMENT 'Bytes of the whole stream' CODEC(ZSTD(1)),
    max_bytes UInt64 COMMENT 'Maximum bytes of the whole stream; 0 where it has none' CODEC(ZSTD(1)),
    in_per_s Float64 COMMENT 'Messages that came, per second since the sample before' CODEC(ZSTD(1)),
    out_per_s Float64 COMMENT 'Messages that were acknowledged, per second since the sample before' CODEC(ZSTD(1))
)
ENGINE = ReplacingMergeTree
PARTITION BY toDate(sampled_at)
ORDER BY (stage, lane, channel, sampled_at)
TTL toDate(sampled_at) + toIntervalDay(14)
SETTINGS non_replicated_deduplication_window = 1000, ttl_only_drop_parts = 1
COMMENT 'Depth, age and rates of every queue over time';
