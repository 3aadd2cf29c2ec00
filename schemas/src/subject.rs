//! Subjects: the addresses on the broker.

use crate::{
    Channel, Lane, ReceiptKind, Stage,
    bucket::{token, untoken},
};

/// Every subject of Chasqui except the inboxes.
pub const ALL: &str = "notify.>";
/// What nobody publishes, and no stream stores.
pub const NONE: &str = "notify.none";
/// Every trace batch.
pub const TRACES: &str = "notify.trace";
/// Every receipt, by kind and channel.
pub const RECEIPTS: &str = "notify.receipt.*.*";
/// Every dead letter, by stage.
pub const DEAD: &str = "notify.dead.*";
/// Dead letters of the trace stream: batches that do not decode.
pub const DEAD_TRACE: &str = "notify.dead.trace";
/// Dead letters of the receipts: those that cannot be read or name no notification.
pub const DEAD_RECEIPT: &str = "notify.dead.receipt";
/// Dead letters of what was deferred: messages that name no queue to return to, or that no queue takes.
pub const DEAD_DEFERRED: &str = "notify.dead.deferred";
/// Dead letters of services, which are no stages.
pub const DEAD_OF_SERVICES: [&str; 3] = [DEAD_TRACE, DEAD_RECEIPT, DEAD_DEFERRED];
/// The app of a submission whose subject names none: no name of an app looks like this.
pub const NO_APP: &str = "~";
/// The records of contacts, as the bucket's stream stores them.
pub const CONTACTS: &str = "$KV.contacts.>";
/// Every rejected submission, by app.
pub const REJECTED: &str = "notify.rejected.*";
/// Every claim in the dedupe ledger.
pub const LEDGER: &str = "notify.ledger";
/// Every record that a claim of an idempotency key was given back, by claim; in the same stream as [`LEDGER`].
pub const GIVEN_BACK: &str = "notify.ledger.given_back.*";
/// The newest of the notifications that replace one another, by their key.
pub const NEWEST: &str = "notify.newest.*";
/// Every claim that a provider attempt has begun.
pub const ATTEMPTS: &str = "notify.attempts";
/// Ends of attempts, many in a message, from the workers that began them; in the same stream as [`ATTEMPTS`].
pub const ENDED: &str = "notify.attempts.ended";
/// Ends of attempts, many in a message, from the workers that took them over; in the same stream as [`ATTEMPTS`].
pub const TAKEN_OVER: &str = "notify.attempts.taken_over";
/// Every message that waits for its time.
pub const DEFERRED: &str = "notify.deferred.*";
/// Deferred messages whose time has come, by lane; in the same stream as [`DEFERRED`], as JetStream schedules
/// require.
pub const DUE: &str = "notify.due.*";
/// Every in-app inbox, by app and user.
pub const INBOX: &str = "inbox.*.*";

/// Where a producer publishes: `notify.submit.<lane>.<app>`.
pub fn submit(lane: Lane, app: &str) -> String {
    format!("notify.submit.{lane}.{app}")
}

/// The lane and app of a submission's subject; `None` where it is not one.
pub fn parse_submit(subject: &str) -> Option<(Lane, &str)> {
    let (lane, app) = subject.strip_prefix("notify.submit.")?.split_once('.')?;
    Some((lane.parse().ok()?, app))
}

/// Where a stage's input is published. Only [`Stage::Send`] has a queue per channel, and none for what has no channel:
/// the subject is then one that no stream holds, so that publishing to it fails. The first stage's queue is the
/// producers' [`submit`].
pub fn queue(stage: Stage, lane: Lane, channel: Option<Channel>) -> String {
    match (stage, channel) {
        (Stage::Send, Some(channel)) => format!("notify.send.{lane}.{channel}"),
        _ => format!("notify.{stage}.{lane}"),
    }
}

/// Whether a subject is that of a [`queue`] between stages.
pub fn is_queue(subject: &str) -> bool {
    let is_lane = |lane: &str| lane.parse::<Lane>().is_ok();
    match subject.split('.').collect::<Vec<_>>()[..] {
        ["notify", "send", lane, channel] => is_lane(lane) && channel.parse::<Channel>().is_ok(),
        ["notify", stage, lane] => {
            let stage = stage.parse().is_ok_and(|stage| !matches!(stage, Stage::Validate | Stage::Send));
            stage && is_lane(lane)
        }
        _ => false,
    }
}

/// The subjects that a stage's stream for one lane stores; with a channel, those that the consumer of that channel
/// reads.
pub fn pattern(stage: Stage, lane: Lane, channel: Option<Channel>) -> String {
    match (stage, channel) {
        (Stage::Validate, _) => format!("notify.submit.{lane}.*"),
        (Stage::Send, Some(channel)) => format!("notify.send.{lane}.{channel}"),
        (Stage::Send, None) => format!("notify.send.{lane}.*"),
        _ => format!("notify.{stage}.{lane}"),
    }
}

/// The user whose contacts are written on a subject of [`CONTACTS`].
pub fn contacts_of(subject: &str) -> Option<String> {
    untoken(subject.strip_prefix(CONTACTS.trim_end_matches('>'))?)
}

/// Where a dead letter of a stage is kept.
pub fn dead(stage: Stage) -> String {
    format!("notify.dead.{stage}")
}

/// Where a producer can listen for its rejected submissions.
pub fn rejected(app: &str) -> String {
    format!("notify.rejected.{app}")
}

/// The app of a rejected submission's subject; `None` where it is not one.
pub fn parse_rejected(subject: &str) -> Option<&str> {
    subject.strip_prefix("notify.rejected.")
}

/// Where a receipt is published.
pub fn receipt(kind: ReceiptKind, channel: Channel) -> String {
    format!("notify.receipt.{kind}.{channel}")
}

/// The kind and channel of a receipt's subject; `None` where it is not one.
pub fn parse_receipt(subject: &str) -> Option<(ReceiptKind, Channel)> {
    let (kind, channel) = subject.strip_prefix("notify.receipt.")?.split_once('.')?;
    Some((kind.parse().ok()?, channel.parse().ok()?))
}

/// Where it is recorded that a claim was given back.
pub fn given_back(claim: &str) -> String {
    format!("notify.ledger.given_back.{claim}")
}

/// Where the newest notification of a [`crate::collapse::Collapse::key`] is on record.
pub fn newest(key: &str) -> String {
    format!("notify.newest.{key}")
}

/// Where one deferred message waits. JetStream keeps one schedule per subject, so the subject holds the message's id.
pub fn deferred(message_id: &str) -> String {
    format!("notify.deferred.{}", token(message_id))
}

/// Where JetStream publishes a deferred message when its time has come.
pub fn due(lane: Lane) -> String {
    format!("notify.due.{lane}")
}

/// A user's in-app inbox.
pub fn inbox(app: &str, user: &str) -> String {
    format!("inbox.{app}.{}", token(user))
}

/// A user's inboxes, of every app.
pub fn inboxes(user: &str) -> String {
    format!("inbox.*.{}", token(user))
}

/// The in-app inboxes of all users of an app.
pub fn app_inboxes(app: &str) -> String {
    format!("inbox.{app}.*")
}

/// Whether a text can be an app's name: one subject token of at most 64 letters, digits, `-` and `_`.
pub fn is_app(app: &str) -> bool {
    (1..=64).contains(&app.len()) && app.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_submission_subject_names_lane_and_app() {
        assert_eq!(parse_submit(&submit(Lane::Bulk, "shop")), Some((Lane::Bulk, "shop")));
        assert_eq!(parse_submit("notify.submit.urgent.shop"), None);
        assert_eq!(parse_submit("notify.enrich.bulk"), None);
    }

    #[test]
    fn the_subjects_of_receipts_and_rejections_are_read_as_they_are_written() {
        for (kind, channel) in ReceiptKind::ALL.into_iter().flat_map(|kind| Channel::ALL.map(|channel| (kind, channel)))
        {
            assert_eq!(parse_receipt(&receipt(kind, channel)), Some((kind, channel)));
        }
        assert_eq!(parse_rejected(&rejected("shop")), Some("shop"));
        assert_eq!(parse_rejected(&dead(Stage::Send)), None);
    }

    #[test]
    fn only_queues_between_stages_are_queues() {
        for stage in Stage::ALL {
            let channels = if stage == Stage::Send { Channel::ALL.map(Some).to_vec() } else { vec![None] };
            for channel in channels {
                let subject = queue(stage, Lane::High, channel);
                assert_eq!(is_queue(&subject), stage != Stage::Validate, "{subject}");
            }
        }
        for other in
            ["notify.send.high", "notify.enrich.high.sms", "notify.enrich.fast", "$KV.contacts.ada", "", "notify"]
        {
            assert!(!is_queue(other), "{other}");
        }
        assert!(!is_app(NO_APP));
    }

    #[test]
    fn an_inbox_is_one_token_whatever_the_user_is_called() {
        assert_eq!(inbox("shop", "ada.l@x"), "inbox.shop.ada=2El=40x");
    }
}
