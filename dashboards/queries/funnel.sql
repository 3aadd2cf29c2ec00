-- Of the notifications that were submitted, how many got how far?
-- Each step counts the notifications that got there or further. Opened and clicked mean by anybody; a click counts as an
-- open, even where the pixel was blocked.
SELECT
    each.1 AS step,
    each.2 AS notifications,
    round(notifications / nullIf(submitted, 0), 4) AS of_submitted
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
    WHERE submitted_at >= now() - INTERVAL 7 DAY
)
ARRAY JOIN
    [('1 submitted', submitted), ('2 rendered', rendered), ('3 sent', sent), ('4 delivered', arrived),
    ('5 opened', opened), ('6 clicked', clicked)] AS each
ORDER BY step;
