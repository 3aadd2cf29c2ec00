//! Reads the bytes of a submission, JSON or MessagePack, into a JSON value.
//!
//! Guarantee: both formats go through the same visitor and are equally strict. An object may not hold a field twice
//! (which value would count?), nesting ends at [`MAX_DEPTH`], and nothing may follow the value. Declared lengths are not
//! trusted: memory grows only with the bytes that are there.
//!
//! Pure, so a crash changes nothing.

use std::fmt;

use chasqui_schemas::notification::Json;
use rmp_serde::decode::Error as MessagePackError;
use serde::{
    Deserialize,
    de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor},
};
use serde_json::{Map, Number, Value, map::Entry, value::RawValue};

use crate::violations::clip;

/// Maximum depth of nesting. It is half of what the envelope between stages can carry, which adds levels of its own.
const MAX_DEPTH: usize = 64;

/// The fields of a submission, or what is wrong with the bytes, in words.
pub(crate) fn fields(content_type: Option<&str>, bytes: &[u8]) -> Result<Map<String, Value>, String> {
    let content_type = content_type.unwrap_or_default();
    let media_type = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let value = match media_type.as_str() {
        "" | "application/json" => json(bytes),
        "application/msgpack" | "application/x-msgpack" => message_pack(bytes),
        _ => Err(format!(
            "the Content-Type `{}` is not supported; use application/json or application/msgpack",
            clip(content_type, 64)
        )),
    }?;
    match value {
        Value::Object(fields) => Ok(fields),
        other => Err(format!("must be an object, not {}", kind(&other))),
    }
}

/// `data` as it stands in a submission that [`fields`] has read, where it holds numbers whose digits a value does not
/// keep: `100.00`, or more digits than a float has. None where the value says the same, and for MessagePack.
pub(crate) fn digits(data: &Map<String, Value>, bytes: &[u8]) -> Option<Json> {
    #[derive(Deserialize)]
    struct Fields<'a> {
        #[serde(borrow)]
        data: &'a RawValue,
    }
    if !data.values().any(has_fraction) {
        return None;
    }
    let Fields { data } = serde_json::from_slice(bytes).ok()?;
    Some(Json::compact(data.get()))
}

fn has_fraction(value: &Value) -> bool {
    match value {
        Value::Number(number) => number.is_f64(),
        Value::Array(items) => items.iter().any(has_fraction),
        Value::Object(fields) => fields.values().any(has_fraction),
        Value::Null | Value::Bool(_) | Value::String(_) => false,
    }
}

/// What a value is, in words.
pub(crate) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

fn json(bytes: &[u8]) -> Result<Value, String> {
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let value = Strict { depth: 0 }.deserialize(&mut reader);
    value.and_then(|value| reader.end().map(|()| value)).map_err(|error| format!("not JSON: {error}"))
}

fn message_pack(bytes: &[u8]) -> Result<Value, String> {
    let mut reader = rmp_serde::Deserializer::from_read_ref(bytes);
    let value = Strict { depth: 0 }.deserialize(&mut reader).map_err(|error| {
        let what = match &error {
            MessagePackError::InvalidMarkerRead(_) | MessagePackError::InvalidDataRead(_) => {
                "it ends in the middle of a value".to_owned()
            }
            MessagePackError::Utf8Error(_) => "a text is not UTF-8".to_owned(),
            other => other.to_string(),
        };
        format!("not MessagePack: {what}")
    })?;
    // The reader does not expose its position. Reading another value fails in this way only at the end of the bytes.
    match <()>::deserialize(&mut reader) {
        Err(MessagePackError::InvalidMarkerRead(_)) => Ok(value),
        _ => Err("not MessagePack: bytes follow the value".to_owned()),
    }
}

/// Reads a JSON value; `depth` containers are around it.
#[derive(Clone, Copy)]
struct Strict {
    depth: usize,
}

impl Strict {
    fn inside<E: Error>(self) -> Result<Strict, E> {
        if self.depth == MAX_DEPTH {
            return Err(E::custom(format_args!("nested deeper than {MAX_DEPTH} levels")));
        }
        Ok(Strict { depth: self.depth + 1 })
    }
}

impl<'de> DeserializeSeed<'de> for Strict {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<Value, D::Error> {
        reader.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value that JSON has")
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("NaN and infinity are not accepted"))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E: Error>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_bytes<E: Error>(self, _: &[u8]) -> Result<Value, E> {
        Err(E::custom("binary values are not accepted; send text"))
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, _: D) -> Result<Value, D::Error> {
        Err(D::Error::custom("extension types are not accepted; send times and ids as text"))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let inside = self.inside()?;
        let mut list = Vec::new();
        while let Some(item) = items.next_element_seed(inside)? {
            list.push(item);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Value, A::Error> {
        let inside = self.inside()?;
        let mut object = Map::new();
        while let Some(name) = fields.next_key_seed(Name)? {
            let value = fields.next_value_seed(inside)?;
            match object.entry(name) {
                Entry::Vacant(place) => place.insert(value),
                Entry::Occupied(first) => {
                    let name = clip(first.key(), 64);
                    return Err(A::Error::custom(format_args!("the field `{name}` is there twice")));
                }
            };
        }
        Ok(Value::Object(object))
    }
}

/// Reads a field's name, which must be text: MessagePack would also allow bytes and numbers.
struct Name;

impl<'de> DeserializeSeed<'de> for Name {
    type Value = String;

    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<String, D::Error> {
        reader.deserialize_any(self)
    }
}

impl Visitor<'_> for Name {
    type Value = String;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text as the name of a field")
    }

    fn visit_str<E: Error>(self, name: &str) -> Result<String, E> {
        Ok(name.to_owned())
    }

    fn visit_string<E: Error>(self, name: String) -> Result<String, E> {
        Ok(name)
    }
}
