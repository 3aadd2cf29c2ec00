-- Which users got most?
-- By user id; what was sent to addresses without a user is not here. `opened_human` leaves machines out.
SELECT
    user,
    count() AS notifications,
    sum(n.deliveries_sent) AS deliveries_sent,
    countIf(state = 'suppressed') AS suppressed,
    countIf(opened_human_at IS NOT NULL) AS opened_human,
    countIf(clicked_at IS NOT NULL) AS clicked
FROM notifications AS n
WHERE submitted_at >= now() - INTERVAL 7 DAY AND user != ''
GROUP BY user
ORDER BY deliveries_sent DESC, notifications DESC, user
LIMIT 100;
