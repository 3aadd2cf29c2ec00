//! The envelope between stages: MessagePack, `[version, body]`, body as a map by field name.
//!
//! Under load one JetStream message carries many envelopes: a *bundle*, a MessagePack array of `bin`, each of them one
//! whole envelope. What the server does per message (store, fsync, deliver, acknowledge) is then done once for all of
//! them. A single envelope travels as it is. A long bundle is compressed: an LZ4 block in a MessagePack extension, since
//! notifications of one submission have much in common.
//!
//! Guarantee: a reader accepts its own version and the one before, so that processes can be upgraded one by one. It
//! recognises a later version, so that the message can wait for a newer process.
//! Hostile input costs no memory: declared lengths are not trusted, nesting is bounded.

use bytes::Bytes;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::packed;

/// The version that this build writes. A field that older readers may ignore needs no new version.
pub const VERSION: u16 = 1;
/// Minimum bytes of a bundle that is compressed: below it costs more time than it saves.
const COMPRESSED_BYTES: usize = 16 * 1024;
/// The MessagePack extension of a compressed bundle.
const COMPRESSED: i8 = 1;
/// Deepest nesting of a body; `data` may itself be nested this deep less a few levels.
const MAX_DEPTH: usize = 128;

/// Why bytes are not an envelope.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// Written by a newer build.
    #[error("envelope version {found} is newer than this build's {VERSION}: upgrade this process")]
    Newer {
        /// The version found.
        found: u16,
    },
    /// Too old, or not an envelope at all.
    #[error("not an envelope of version {} to {VERSION}", VERSION.saturating_sub(1))]
    NotAnEnvelope(#[source] Option<rmp_serde::decode::Error>),
}

/// Writes an envelope.
///
/// # Errors
/// Fails only on values that MessagePack cannot hold; none of this crate's types has any.
pub fn encode<T: Serialize>(body: &T) -> Result<Vec<u8>, rmp_serde::encode::Error> {
    // Most fit, so that nothing is copied while it grows.
    let mut bytes = Vec::with_capacity(1_024);
    let mut writer = rmp_serde::Serializer::new(&mut bytes).with_struct_map();
    (VERSION, body).serialize(&mut writer)?;
    Ok(bytes)
}

/// Reads an envelope.
///
/// # Errors
/// See [`DecodeError`].
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, DecodeError> {
    match version(bytes) {
        Some(found) if found > VERSION => return Err(DecodeError::Newer { found }),
        Some(found) if found + 1 >= VERSION => {}
        _ => return Err(DecodeError::NotAnEnvelope(None)),
    }
    let mut reader = rmp_serde::Deserializer::from_read_ref(bytes);
    reader.set_max_depth(MAX_DEPTH);
    let (_, body) = <(u16, T)>::deserialize(&mut reader).map_err(|e| DecodeError::NotAnEnvelope(Some(e)))?;
    Ok(body)
}

/// One message of several envelopes, or the only one as it is.
///
/// # Errors
/// As [`encode`].
pub fn bundle(envelopes: &[&[u8]]) -> Result<Vec<u8>, rmp_serde::encode::Error> {
    if let [only] = envelopes {
        return Ok(only.to_vec());
    }
    // Beside the array's head, each has its marker and length.
    const HEAD: usize = 5;
    let mut bytes = Vec::with_capacity(HEAD + envelopes.iter().map(|each| each.len() + HEAD).sum::<usize>());
    let envelopes: Vec<_> = envelopes.iter().map(|each| serde_bytes::Bytes::new(each)).collect();
    rmp_serde::encode::write(&mut bytes, &envelopes)?;
    if bytes.len() < COMPRESSED_BYTES {
        return Ok(bytes);
    }
    let block = packed::compress(&bytes);
    let mut compressed = Vec::with_capacity(HEAD + 1 + block.len());
    rmp::encode::write_ext_meta(&mut compressed, block.len() as u32, COMPRESSED)?;
    compressed.extend(block);
    Ok(compressed)
}

/// How many bytes a message holds once it is unbundled, for those who bound what they hold.
pub fn unbundled_len(message: &[u8]) -> usize {
    compressed(message).and_then(packed::uncompressed_len).map_or(message.len(), |bytes| bytes.min(packed::MAX_BYTES))
}

/// The block of a compressed bundle.
fn compressed(mut message: &[u8]) -> Option<&[u8]> {
    let meta = rmp::decode::read_ext_meta(&mut message).ok()?;
    (meta.typeid == COMPRESSED && meta.size as usize == message.len()).then_some(message)
}

/// The envelopes of a message: those of a bundle, or the message itself. A message that is neither is returned as it is,
/// and [`decode`] refuses it.
pub fn unbundle(message: &Bytes) -> Vec<Bytes> {
    if let Some(block) = compressed(message) {
        return packed::decompress(block).map_or_else(|_| vec![message.clone()], |bundle| apart(&bundle.into()));
    }
    apart(message)
}

fn apart(message: &Bytes) -> Vec<Bytes> {
    if version(message).is_none()
        && let Ok(envelopes) = rmp_serde::from_slice::<Vec<&serde_bytes::Bytes>>(message)
        && !envelopes.is_empty()
    {
        return envelopes.into_iter().map(|each| message.slice_ref(each)).collect();
    }
    vec![message.clone()]
}

/// The version of an envelope, read without its body: a two-element array that begins with an integer.
fn version(bytes: &[u8]) -> Option<u16> {
    const ARRAY_OF_TWO: u8 = 0x92;
    match *bytes {
        [ARRAY_OF_TWO, small @ 0..=0x7f, ..] => Some(u16::from(small)),
        [ARRAY_OF_TWO, 0xcc, byte, ..] => Some(u16::from(byte)),
        [ARRAY_OF_TWO, 0xcd, high, low, ..] => Some(u16::from_be_bytes([high, low])),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use jiff::Timestamp;
    use proptest::prelude::*;
    use serde_json::json;
    use uuid::Uuid;

    use super::*;
    use crate::{
        Channel, Delivery, Lane, Notification,
        delivery::{Address, Endpoint},
        notification::{Message, Recipient, Request},
        record::{Category, Contacts, Platform},
        sample,
        submission::Content,
    };

    fn notification(user: String, key: String, at: i64, text: Option<String>, number: f64) -> Notification {
        let at = Timestamp::from_microsecond(at).unwrap();
        Notification {
            id: Uuid::now_v7(),
            lane: Lane::High,
            submitted_at: at,
            recipient: match &text {
                Some(mail) => Recipient::Inline(Contacts { emails: vec![mail.clone()], ..Contacts::default() }),
                None => Recipient::User(user.clone()),
            },
            request: Arc::new(Request {
                idempotency_key: key,
                message: Message::Template {
                    key: "order".into(),
                    data: json!({"n": number, "s": user, "deep": [{"a": null}]}).as_object().unwrap().into(),
                },
                channels: Some(vec![Channel::Push]),
                expires_at: Some(at),
                locale: text,
                ..sample::request()
            }),
            pass: 3,
            policy: Some(Category::default()),
            endpoints: vec![Endpoint {
                id: "phone".into(),
                address: Address::Device { platform: Platform::Ios, token: "t".into(), registered_at: Some(at) },
            }],
            ..sample::notification()
        }
    }

    proptest! {
        #[test]
        fn a_notification_round_trips(user in ".*", key in ".*", at in 0i64..4_000_000_000_000_000, text: Option<String>, number in -1e15..1e15f64) {
            let original = notification(user, key, at, text, number);
            prop_assert_eq!(decode::<Notification>(&encode(&original).unwrap()).unwrap(), original);
        }

        #[test]
        fn a_delivery_round_trips(token in ".*", body in ".*", attempt: u32) {
            let original = Delivery {
                id: Uuid::now_v7(), notification_id: Uuid::now_v7(), request_id: Uuid::now_v7(),
                locale: "ko-KR".into(), lane: Lane::Bulk, category_lane: Some(Lane::Critical), user: None,
                endpoint: Endpoint { id: token.clone(), address: Address::Mailbox(token) },
                content: Content { body: Some(body), ..Content::default() }, sms_segments: 2, attempt,
                ..sample::delivery()
            };
            prop_assert_eq!(decode::<Delivery>(&encode(&original).unwrap()).unwrap(), original);
        }

        #[test]
        fn a_bundle_comes_apart_as_it_was_put_together(bodies in proptest::collection::vec(".{0,80}", 1..300)) {
            let envelopes: Vec<_> = bodies.iter().map(|body| encode(body).unwrap()).collect();
            let message = Bytes::from(bundle(&envelopes.iter().map(|each| &each[..]).collect::<Vec<_>>()).unwrap());
            prop_assert_eq!(unbundle(&message), envelopes);
        }

        #[test]
        fn noise_is_not_a_bundle_that_hides_anything(bytes in proptest::collection::vec(any::<u8>(), 0..256)) {
            let message = Bytes::from(bytes);
            let parts = unbundle(&message);
            prop_assert!(parts == [message.clone()] || parts.iter().map(Bytes::len).sum::<usize>() < message.len());
        }

        #[test]
        fn noise_is_an_error_and_never_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..256)) {
            prop_assert!(decode::<Notification>(&bytes).is_err());
        }
    }

    #[test]
    fn a_newer_version_is_told_from_garbage() {
        let mut bytes = encode(&1u8).unwrap();
        bytes[1] = 0x7f;
        assert!(matches!(decode::<u8>(&bytes), Err(DecodeError::Newer { found: 127 })));
        assert!(matches!(decode::<u8>(b"\xc1"), Err(DecodeError::NotAnEnvelope(None))));
    }

    #[test]
    fn the_version_before_is_still_read() {
        let mut bytes = encode(&7u8).unwrap();
        bytes[1] = (VERSION - 1) as u8;
        assert_eq!(decode::<u8>(&bytes).unwrap(), 7);
    }

    #[test]
    fn a_declared_length_is_not_trusted() {
        // An array that claims four thousand million elements, and a string that claims as many bytes.
        for bomb in [&[0x92, 1, 0xdd, 0xff, 0xff, 0xff, 0xff][..], &[0x92, 1, 0xdb, 0xff, 0xff, 0xff, 0xff]] {
            assert!(decode::<Vec<String>>(bomb).is_err());
            assert!(decode::<serde_json::Value>(bomb).is_err());
        }
    }

    #[test]
    fn nesting_is_bounded() {
        let mut bomb = vec![0x92, 1];
        bomb.extend(std::iter::repeat_n(0x91, 100_000));
        assert!(decode::<serde_json::Value>(&bomb).is_err());
    }
}
