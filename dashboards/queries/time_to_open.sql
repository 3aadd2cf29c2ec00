-- How long did it take from the submission until a delivery arrived, and until a person opened it?
-- Seconds, counting only deliveries that did, as far as providers and apps report it.
SELECT
    channel,
    countIf(delivered_at IS NOT NULL) AS delivered,
    round(quantile(0.5)(delivered_after_ms) / 1000, 3) AS delivered_p50,
    round(quantile(0.95)(delivered_after_ms) / 1000, 3) AS delivered_p95,
    round(quantile(0.99)(delivered_after_ms) / 1000, 3) AS delivered_p99,
    countIf(opened_human_at IS NOT NULL) AS opened_human,
    round(quantile(0.5)(opened_human_after_ms) / 1000, 3) AS opened_human_p50,
    round(quantile(0.95)(opened_human_after_ms) / 1000, 3) AS opened_human_p95,
    round(quantile(0.99)(opened_human_after_ms) / 1000, 3) AS opened_human_p99
FROM deliveries
WHERE submitted_at >= now() - INTERVAL 7 DAY
GROUP BY channel
ORDER BY channel;
