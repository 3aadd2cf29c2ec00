//! Ids: every id is derived from its input, so that a step that is done again makes the same ids.
//!
//! Ids are visible in ClickHouse and in links. The recipient enters them only as a hash with a secret: [`crate::pepper`],
//! which also makes the ids of deliveries, so that one that comes back can be told from one that somebody made up.
//!
//! [RFC 9562](https://www.rfc-editor.org/rfc/rfc9562) UUIDv7 for what should sort by time, UUIDv8 for pure hashes.

use jiff::Timestamp;
use sha2::{Digest, Sha256};
use uuid::{Builder, Uuid};

use crate::Channel;

/// SHA-256 over length-prefixed parts, so that `["ab", "c"]` and `["a", "bc"]` differ.
fn digest(parts: &[&[u8]]) -> [u8; 32] {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    hash.finalize().into()
}

fn first<const N: usize>(digest: &[u8; 32]) -> [u8; N] {
    std::array::from_fn(|i| digest[i])
}

/// A UUIDv7 with the time of `at` and 74 bits of hash.
fn at_time(at: Timestamp, parts: &[&[u8]]) -> Uuid {
    let millis = u64::try_from(at.as_millisecond()).unwrap_or(0);
    Builder::from_unix_timestamp_millis(millis, &first(&digest(parts))).into_uuid()
}

/// The request id of a submission that has none, derived from where JetStream stored it. The subject names the lane, and
/// so the stream. The time is exact to the nanosecond, because a stream that was deleted and created again begins with
/// sequence 1 again.
pub fn request(subject: &str, stored_at: Timestamp, stream_sequence: u64) -> Uuid {
    let (nanoseconds, sequence) = (stored_at.as_nanosecond().to_le_bytes(), stream_sequence.to_le_bytes());
    at_time(stored_at, &[b"request", subject.as_bytes(), &nanoseconds, &sequence])
}

/// The request id of a submission that came over HTTP under an `Idempotency-Key` and names none itself: the same for a
/// repeat, even where nobody can be asked whether it is one.
pub fn idempotent(app: &str, idempotency_key: &str) -> Uuid {
    Builder::from_custom_bytes(first(&digest(&[b"idempotent", app.as_bytes(), idempotency_key.as_bytes()]))).into_uuid()
}

/// The trace of a request as a whole: where a rejection or a fan-out is recorded.
pub fn request_trace(stored_at: Timestamp, request_id: Uuid) -> Uuid {
    at_time(stored_at, &[b"request-trace", request_id.as_bytes()])
}

/// One recipient's notification; also its trace id. `recipient` is [`crate::Pepper::recipient`].
pub fn notification(stored_at: Timestamp, request_id: Uuid, recipient: &str) -> Uuid {
    at_time(stored_at, &[b"notification", request_id.as_bytes(), recipient.as_bytes()])
}

/// The first half of a delivery's id: which endpoint of the notification it goes to. [`crate::Pepper::delivery`] adds the
/// other half; `endpoint` is [`crate::delivery::Endpoint::id`].
pub(crate) fn place(notification_id: Uuid, channel: Channel, endpoint: &str) -> [u8; 8] {
    let digest = digest(&[b"delivery", notification_id.as_bytes(), channel.as_str().as_bytes(), endpoint.as_bytes()]);
    let id = Builder::from_custom_bytes(first(&digest)).into_uuid();
    std::array::from_fn(|i| id.as_bytes()[i])
}

/// A span; `step` is a stage's name or a receipt's identity. Never zero, which OpenTelemetry forbids.
pub fn span(trace_id: Uuid, step: &str, delivery_id: Option<Uuid>, attempt: u32) -> u64 {
    let delivery = delivery_id.unwrap_or_default();
    let digest = digest(&[b"span", trace_id.as_bytes(), step.as_bytes(), delivery.as_bytes(), &attempt.to_le_bytes()]);
    u64::from_be_bytes(first(&digest)).max(1)
}

/// The message id of a bundle: of its only message, or a hash of those of its messages.
pub fn bundle(message_ids: &[&str]) -> String {
    match message_ids {
        [only] => (*only).to_owned(),
        several => claim(several),
    }
}

/// The message id of a claim: 128 bits, short because the server keeps it in memory for the whole window.
pub fn claim(parts: &[&str]) -> String {
    let parts: Vec<&[u8]> = parts.iter().map(|part| part.as_bytes()).collect();
    crate::hex::encode(first::<16>(&digest(&parts)))
}

/// A number in `[0, 1)` derived from `parts`, for jitter and weighted choice that are the same when a step is repeated.
pub fn fraction(parts: &[&str]) -> f64 {
    let parts: Vec<&[u8]> = parts.iter().map(|part| part.as_bytes()).collect();
    // 53 bits are what an f64 can hold exactly.
    (u64::from_be_bytes(first(&digest(&parts))) >> 11) as f64 / (1u64 << 53) as f64
}

/// The time inside a UUIDv7, in milliseconds since 1970: when the submission was stored.
///
/// It decides the partition of every row about the notification, so it depends on nothing but the id. An id of another
/// version, which Chasqui never makes, has the time 0: its rows are in the oldest partition, which is dropped first.
pub fn embedded_ms(id: Uuid) -> i64 {
    match id.get_version_num() {
        7 => i64::try_from(id.as_u128() >> 80).unwrap_or(0),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::Pepper;

    proptest! {
        #[test]
        fn ids_derived_twice_are_equal(millis in 0i64..4_000_000_000_000, seq: u64, user in ".*", endpoint in ".*") {
            let at = Timestamp::from_millisecond(millis).unwrap();
            let derive = || {
                let request = request("subject", at, seq);
                let notification = notification(at, request, &user);
                let delivery = Pepper::new(b"ours").delivery("shop", notification, Channel::Push, &endpoint);
                (request, notification, delivery, span(notification, "send", Some(delivery), 1))
            };
            prop_assert_eq!(derive(), derive());
        }

        #[test]
        fn ids_carry_their_time(millis in 0i64..4_000_000_000_000, seq: u64) {
            let id = request("subject", Timestamp::from_millisecond(millis).unwrap(), seq);
            let (seconds, nanos) = id.get_timestamp().unwrap().to_unix();
            prop_assert_eq!(seconds as i64 * 1000 + i64::from(nanos) / 1_000_000, millis);
        }

        #[test]
        fn different_recipients_have_different_ids(a in ".*", b in ".*") {
            prop_assume!(a != b);
            let request = Uuid::nil();
            prop_assert_ne!(notification(Timestamp::UNIX_EPOCH, request, &a), notification(Timestamp::UNIX_EPOCH, request, &b));
        }

        #[test]
        fn a_fraction_is_below_one(text in ".*") {
            prop_assert!((0.0..1.0).contains(&fraction(&[&text])));
        }
    }

    #[test]
    fn submissions_that_two_lanes_store_in_one_millisecond_under_one_sequence_are_two() {
        let at = |nanos: i128| Timestamp::from_nanosecond(1_800_000_000_000_000_000 + nanos).unwrap();
        assert_ne!(request("bulk", at(1), 7), request("high", at(1), 7));
        assert_ne!(request("bulk", at(1), 7), request("bulk", at(2), 7));
        assert_ne!(request("bulk", at(1), 7), request("bulk", at(1), 8));
        assert_eq!(request("bulk", at(1), 7), request("bulk", at(1), 7));
    }
}
