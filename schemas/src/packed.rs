//! Long content travels packed: compressed once where it enters, and once where it is rendered.
//!
//! Seven queues lie between a producer and a provider, and each stores what passes to disk. Of an HTML mail they store a
//! fraction, and stages that only pass it on copy that fraction and read none of it.
//!
//! Guarantee: what is unpacked is what was packed. Hostile input costs no more memory than [`MAX_BYTES`].

use std::{borrow::Cow, fmt};

use bytes::Bytes;
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{MapAccess, Visitor, value::MapAccessDeserializer},
};

use crate::submission::Content;

/// Minimum bytes of a text that is worth packing.
const MIN_BYTES: usize = 2 * 1024;
/// Maximum bytes of anything unpacked: several times what a submission or a bundle may have.
pub const MAX_BYTES: usize = 8 * 1024 * 1024;

/// Bytes say that they are something packed, and it cannot be unpacked.
#[derive(Debug, thiserror::Error)]
#[error("packed content cannot be unpacked")]
pub struct Unreadable;

/// Content on its way between stages.
#[derive(Clone, PartialEq)]
pub struct PackedContent(Form);

#[derive(Clone, PartialEq)]
enum Form {
    Plain(Content),
    Packed(Bytes),
}

impl PackedContent {
    /// The content itself.
    ///
    /// # Errors
    /// What was packed is damaged.
    pub fn unpack(&self) -> Result<Cow<'_, Content>, Unreadable> {
        match &self.0 {
            Form::Plain(content) => Ok(Cow::Borrowed(content)),
            Form::Packed(bytes) => unpacked(bytes).map(Cow::Owned),
        }
    }
}

impl From<Content> for PackedContent {
    fn from(content: Content) -> Self {
        PackedContent(packed(&content).map_or(Form::Plain(content), |bytes| Form::Packed(bytes.into())))
    }
}

impl fmt::Debug for PackedContent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Form::Plain(content) => content.fmt(f),
            Form::Packed(bytes) => write!(f, "{} packed bytes", bytes.len()),
        }
    }
}

impl Serialize for PackedContent {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match &self.0 {
            Form::Packed(bytes) if !serializer.is_human_readable() => serializer.serialize_bytes(bytes),
            _ => self.unpack().map_err(serde::ser::Error::custom)?.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for PackedContent {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;

        impl<'de> Visitor<'de> for Either {
            type Value = PackedContent;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("content, as it is or packed")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<PackedContent, A::Error> {
                Content::deserialize(MapAccessDeserializer::new(map)).map(|plain| PackedContent(Form::Plain(plain)))
            }

            fn visit_bytes<E: serde::de::Error>(self, bytes: &[u8]) -> Result<PackedContent, E> {
                Ok(PackedContent(Form::Packed(Bytes::copy_from_slice(bytes))))
            }
        }

        deserializer.deserialize_any(Either)
    }
}

/// The content of a delivery: packed where it travels, and plain for those who work with it.
pub(crate) mod content {
    use super::{Content, Deserialize, Deserializer, PackedContent, Serialize, Serializer, packed};

    pub(crate) fn serialize<S: Serializer>(content: &Content, serializer: S) -> Result<S::Ok, S::Error> {
        match packed(content).filter(|_| !serializer.is_human_readable()) {
            Some(bytes) => serializer.serialize_bytes(&bytes),
            None => content.serialize(serializer),
        }
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Content, D::Error> {
        let content = PackedContent::deserialize(deserializer)?;
        Ok(content.unpack().map_err(serde::de::Error::custom)?.into_owned())
    }
}

/// `None` where it is short, or would not get shorter by a quarter.
fn packed(content: &Content) -> Option<Vec<u8>> {
    let texts = [&content.title, &content.body, &content.html, &content.url];
    let length = texts.into_iter().flatten().map(String::len).sum::<usize>();
    if length < MIN_BYTES {
        return None;
    }
    let plain = rmp_serde::to_vec_named(content).ok()?;
    Some(compress(&plain)).filter(|bytes| bytes.len() < plain.len() / 4 * 3)
}

fn unpacked(bytes: &[u8]) -> Result<Content, Unreadable> {
    rmp_serde::from_slice(&decompress(bytes)?).map_err(|_| Unreadable)
}

/// An LZ4 block after its uncompressed length.
pub(crate) fn compress(bytes: &[u8]) -> Vec<u8> {
    lz4_flex::block::compress_prepend_size(bytes)
}

pub(crate) fn decompress(bytes: &[u8]) -> Result<Vec<u8>, Unreadable> {
    if uncompressed_len(bytes).ok_or(Unreadable)? > MAX_BYTES {
        return Err(Unreadable);
    }
    lz4_flex::block::decompress_size_prepended(bytes).map_err(|_| Unreadable)
}

/// What a compressed block says of its length.
pub(crate) fn uncompressed_len(bytes: &[u8]) -> Option<usize> {
    usize::try_from(u32::from_le_bytes(*bytes.first_chunk()?)).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::envelope::{decode, encode};

    fn html(text: &str, times: usize) -> Content {
        let html = Some(format!("<p style=\"color:red\">{text}</p>").repeat(times));
        Content { title: Some(text.to_owned()), html, ..Content::default() }
    }

    proptest! {
        #[test]
        fn content_comes_out_as_it_went_in(text in ".{0,40}", times in 0usize..3_000) {
            let content = html(&text, times);
            let sent = encode(&PackedContent::from(content.clone())).unwrap();
            let received: PackedContent = decode(&sent).unwrap();
            prop_assert_eq!(received.unpack().unwrap().into_owned(), content.clone());
            prop_assert_eq!(received, PackedContent::from(content));
        }

        #[test]
        fn noise_is_unreadable_and_never_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..256)) {
            prop_assert!(PackedContent(Form::Packed(bytes.into())).unpack().is_err());
        }
    }

    #[test]
    fn a_mail_gets_shorter_and_a_declared_length_is_not_trusted() {
        let mail = html("hello", 1_000);
        assert!(encode(&PackedContent::from(mail.clone())).unwrap().len() < 2_000);
        assert_eq!(
            serde_json::to_value(PackedContent::from(mail.clone())).unwrap(),
            serde_json::to_value(&mail).unwrap()
        );
        let mut bomb = packed(&mail).unwrap();
        bomb[..4].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(unpacked(&bomb).is_err());
    }
}
