SELECT each.1 AS step, each.2 AS notifications
FROM
(
    SELECT
        count() AS submitted,
        countIf(notEmpty(channels)) AS rendered,
        countIf(sent_at IS NOT NULL) AS sent,
        countIf(coalesce(delivered_at, opened_at, clicked_at) IS NOT NULL) AS arrived,
        countIf(coalesce(opened_at, clicked_at) IS NOT NULL) AS opened,
        countIf(clicked_at IS NOT NULL) AS clicked
    FROM notifications
    WHERE $__timeFilter(submitted_at) AND decodeURLComponent('${app:percentencode}') IN ('*', app) AND decodeURLComponent('${template:percentencode}') IN ('*', template)
)
ARRAY JOIN
    [('submitted', submitted), ('rendered', rendered), ('sent', sent), ('delivered', arrived), ('opened', opened),
    ('clicked', clicked)] AS each
