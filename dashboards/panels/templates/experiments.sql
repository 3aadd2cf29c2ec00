WITH
    1.959964 AS z95,
    (hits, n) -> (hits / n + z95 * z95 / (2 * n)) / (1 + z95 * z95 / n) AS middle,
    (hits, n) -> z95 / (1 + z95 * z95 / n) * sqrt(hits / n * (1 - hits / n) / n + z95 * z95 / (4 * n * n)) AS half,
    (hits, n, hits0, n0) -> (hits / n - hits0 / n0)
        / sqrt(greatest((hits + hits0) / (n + n0) * (1 - (hits + hits0) / (n + n0)) * (1 / n + 1 / n0), 1e-300)) AS z
SELECT
    template,
    channel,
    each.1 AS metric,
    variant,
    sent,
    each.2 AS hits,
    round(hits / sent, 4) AS rate,
    round(middle(hits, sent) - half(hits, sent), 4) AS at_least,
    round(middle(hits, sent) + half(hits, sent), 4) AS at_most,
    round(z(hits, sent, first_value(hits) OVER arms, first_value(sent) OVER arms), 3) AS z_score,
    round(erfc(abs(z_score) / sqrt(2)), 4) AS p_value
FROM
(
    SELECT
        toString(template) AS template,
        toString(channel) AS channel,
        toString(variant) AS variant,
        countIf(sent_at IS NOT NULL) AS sent,
        countIf(sent_at IS NOT NULL AND opened_human_at IS NOT NULL) AS opened,
        countIf(sent_at IS NOT NULL AND clicked_human_at IS NOT NULL) AS clicked
    FROM deliveries
    WHERE $__timeFilter(submitted_at) AND decodeURLComponent('${app:percentencode}') IN ('*', app) AND decodeURLComponent('${template:percentencode}') IN ('*', template) AND variant != ''
    GROUP BY template, channel, variant
    HAVING sent > 0
)
ARRAY JOIN [('opened by people', opened), ('clicked by people', clicked)] AS each
WINDOW arms AS (PARTITION BY template, channel, each.1 ORDER BY variant ROWS UNBOUNDED PRECEDING)
ORDER BY template, channel, metric, variant
