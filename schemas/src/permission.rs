//! What each role of Chasqui's own processes may publish and read on the broker. `chasqui apps nats-config` writes it into
//! the accounts of nats-server, tests run every role with exactly this, and `docs/reference/permissions.md` lists it.
//!
//! These lists keep a process, or who has stolen its key, from what it does not need. They are no wall between processes
//! of one account: JetStream answers to any reply subject with the server's own rights. That wall is the account, and
//! each app has its own.

use crate::{
    Lane, Stage,
    app::AppRecord,
    bucket::SECRETS,
    record::{Bucket, Contacts, Owners, Preferences, Record, Suppression},
    stream, subject,
};

crate::vocabulary! {
    /// What a process of ours does, as far as its rights on the broker go. A process that does several things has the
    /// rights of all.
    pub enum Role "role" {
        Stages = "stages": "Runs stages.",
        Services = "services": "Runs the services deferred, receipts, owners, writer, exporter and monitor.",
        Gateway = "gateway": "Runs the gateway, and nothing else.",
        Operator = "operator": "Runs `chasqui migrate` and every other command.",
    }
}

impl Role {
    /// The subjects that it publishes on; requests to JetStream are among them. Of what it subscribes to, see
    /// [`subscribes`].
    pub fn publishes(self) -> Vec<String> {
        match self {
            Role::Stages => stages(),
            Role::Services => services(),
            Role::Gateway => gateway(),
            // Whoever makes streams and consumers can let the server store and deliver whatever there is.
            Role::Operator => ["$JS.API.>", "$JS.ACK.>", "$JS.FC.>", "$KV.>", subject::ALL].map(str::to_owned).to_vec(),
        }
    }
}

/// What every role subscribes to: answers to its own requests. `inbox` is the prefix of a connection's reply subjects.
pub fn subscribes(inbox: &str) -> String {
    format!("{inbox}.>")
}

fn stages() -> Vec<String> {
    let mut subjects = vec![look_at_streams()];
    for name in stream::of_stages() {
        subjects.extend(pull(name));
        subjects.push(purge(name));
    }
    subjects.extend(queues());
    subjects.extend(shares());
    for own in [subject::TRACES, subject::DEAD, subject::REJECTED, subject::DEFERRED, subject::LEDGER] {
        subjects.push(own.to_owned());
    }
    subjects.extend([subject::ATTEMPTS, subject::ENDED, subject::TAKEN_OVER, subject::INBOX].map(str::to_owned));
    subjects.extend([subject::GIVEN_BACK, subject::NEWEST].map(str::to_owned));
    subjects.push(format!("$JS.API.STREAM.MSG.GET.{}", stream::NEWEST));
    // Some providers know at once that a message has arrived.
    subjects.push(subject::RECEIPTS.to_owned());
    // Send looks whether an inbox holds a delivery already.
    subjects.extend([
        format!("$JS.API.DIRECT.GET.{}", stream::INBOX),
        format!("$JS.API.DIRECT.GET.{}.{}", stream::INBOX, subject::INBOX),
    ]);
    subjects.extend([stream::LEDGER, stream::ATTEMPTS].into_iter().flat_map(read_claims));
    for bucket in Bucket::ALL.iter().map(|bucket| bucket.as_str()).chain([Owners::BUCKET]) {
        subjects.push(read(bucket));
        subjects.extend(watch(bucket));
    }
    subjects.push(read(SECRETS));
    // Devices that are gone and addresses that bounce.
    subjects.extend([Contacts::BUCKET, Suppression::BUCKET].map(write));
    subjects
}

fn services() -> Vec<String> {
    let mut subjects = vec![look_at_streams(), "$JS.API.CONSUMER.INFO.*.*".to_owned()];
    // The monitor asks for the age of the oldest message of each queue.
    let queued = stream::of_stages().chain([stream::TRACES, stream::RECEIPTS, stream::DEFERRED, stream::CONTACTS]);
    subjects.extend(queued.map(|name| format!("$JS.API.DIRECT.GET.{name}")));
    for name in [stream::TRACES, stream::RECEIPTS, stream::DEFERRED] {
        subjects.extend(pull(name));
    }
    subjects.extend(shares());
    subjects.extend([purge(stream::TRACES), purge(stream::RECEIPTS)]);
    // What was deferred returns to its queue, and a submission to the first.
    subjects.extend(Lane::ALL.map(|lane| subject::pattern(Stage::Validate, lane, None)));
    subjects.extend(queues());
    subjects.extend(
        [subject::TRACES, subject::DEAD_TRACE, subject::DEAD_RECEIPT, subject::DEAD_DEFERRED].map(str::to_owned),
    );
    // The writer fetches a message of which ClickHouse refuses a row.
    subjects.push(format!("$JS.API.STREAM.MSG.GET.{}", stream::TRACES));
    // Receipts tell ids of ours by the secret.
    subjects.push(read(SECRETS));
    // Whose an address is, from the contacts.
    subjects.extend(pull(stream::CONTACTS));
    subjects.extend([Contacts::BUCKET, Owners::BUCKET].map(read));
    // A device that another user registered since leaves the contacts of the one before.
    subjects.extend([Owners::BUCKET, Contacts::BUCKET].map(write));
    // Opt-outs.
    for bucket in [Preferences::BUCKET, Suppression::BUCKET] {
        subjects.push(read(bucket));
        subjects.push(write(bucket));
    }
    subjects
}

fn gateway() -> Vec<String> {
    let mut subjects = vec![look_at_streams(), subject::RECEIPTS.to_owned(), subject::LEDGER.to_owned()];
    // What it takes over HTTP, it publishes for the app whose key was shown.
    subjects.extend(Lane::ALL.map(|lane| subject::pattern(Stage::Validate, lane, None)));
    // It claims callbacks that must not count twice and the keys of requests, and tells ids of ours by the secret.
    subjects.extend([stream::LEDGER, stream::ATTEMPTS].into_iter().flat_map(read_claims));
    subjects.push(read(SECRETS));
    // Whose key it is that a request shows.
    subjects.push(read(AppRecord::BUCKET));
    subjects.extend(watch(AppRecord::BUCKET));
    subjects
}

/// The queues between stages.
fn queues() -> impl Iterator<Item = String> {
    let later = Stage::ALL.into_iter().filter(|stage| *stage != Stage::Validate);
    later.flat_map(|stage| Lane::ALL.map(|lane| subject::pattern(stage, lane, None)))
}

/// Counting what each app has in the streams that apps share: a consumer of our own, of headers.
fn shares() -> impl Iterator<Item = String> {
    [stream::DEAD, stream::DEFERRED].into_iter().flat_map(|name| {
        [
            format!("$JS.API.CONSUMER.CREATE.{name}.>"),
            format!("$JS.API.CONSUMER.CREATE.{name}"),
            format!("$JS.API.CONSUMER.MSG.NEXT.{name}.*"),
        ]
    })
}

fn look_at_streams() -> String {
    "$JS.API.STREAM.INFO.*".to_owned()
}

/// Taking messages from the consumers of a stream, and acknowledging them. A server may be set to name its domain and
/// account in the subject of an acknowledgement, before the stream.
fn pull(stream: &str) -> [String; 4] {
    [
        format!("$JS.API.CONSUMER.INFO.{stream}.*"),
        format!("$JS.API.CONSUMER.MSG.NEXT.{stream}.*"),
        format!("$JS.ACK.{stream}.>"),
        format!("$JS.ACK.*.*.{stream}.>"),
    ]
}

fn purge(stream: &str) -> String {
    format!("$JS.API.STREAM.PURGE.{stream}")
}

fn read_claims(stream: &str) -> [String; 2] {
    [format!("$JS.API.DIRECT.GET.{stream}"), format!("$JS.API.STREAM.MSG.GET.{stream}")]
}

fn read(bucket: &str) -> String {
    format!("$JS.API.DIRECT.GET.KV_{bucket}.$KV.{bucket}.>")
}

/// A watch is a consumer that the server delivers to our inbox. The client library lets the server choose its name.
fn watch(bucket: &str) -> [String; 4] {
    [
        format!("$JS.API.CONSUMER.CREATE.KV_{bucket}"),
        format!("$JS.API.CONSUMER.INFO.KV_{bucket}.*"),
        format!("$JS.API.CONSUMER.DELETE.KV_{bucket}.*"),
        format!("$JS.FC.KV_{bucket}.>"),
    ]
}

fn write(bucket: &str) -> String {
    format!("$KV.{bucket}.>")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_operator_may_change_streams_or_templates_and_no_role_reads_the_inboxes_of_others() {
        for role in Role::ALL {
            let publishes = role.publishes();
            let may = |subject: &str| publishes.iter().any(|allowed| allowed.starts_with(subject));
            assert_eq!(may("$JS.API.>"), role == Role::Operator, "{role}");
            assert!(!may("$JS.API.STREAM.DELETE") && !may("$KV.secrets") && !may("$KV.templates"), "{role}");
            assert!(!publishes.contains(&">".to_owned()), "{role}");
        }
        let gateway = Role::Gateway.publishes();
        assert!(
            !gateway.iter().any(|subject| subject.contains("contacts") || subject.contains("MSG.NEXT")),
            "{gateway:?}"
        );
    }
}
