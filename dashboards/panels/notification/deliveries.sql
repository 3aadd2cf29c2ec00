SELECT toString(channel) AS channel, provider, lane, state, reason, stage, toUInt32(attempts) AS attempts, sent_at,
    delivered_at, bounced_at, opened_at, opened_human_at, clicked_at, unsubscribed_at, complained_at,
    toString(template) AS template, toString(variant) AS variant, toString(locale) AS locale, toString(delivery_id) AS delivery_id
FROM deliveries
WHERE notification_id = toUUIDOrZero(replaceAll(lower(if(decodeURLComponent('${trace_id:percentencode}') = '', decodeURLComponent('${id:percentencode}'), decodeURLComponent('${trace_id:percentencode}'))), '-', ''))
ORDER BY first_at
LIMIT 1000
