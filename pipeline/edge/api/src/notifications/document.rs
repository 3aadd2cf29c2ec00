//! A submission as it comes over HTTP: the document, with a lane in it, and perhaps without an id.
//!
//! Guarantee: what is published is the document byte for byte, digits of numbers included, but for the members `lane`, which
//! names the queue, `id`, and `test` under a key for tests. What cannot be taken apart is left as it is, for the checks to say what is wrong.
//!
//! Pure, so a crash changes nothing.

use std::fmt;

use bytes::Bytes;
use chasqui_schemas::Lane;
use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
};
use serde_json::value::RawValue;
use uuid::Uuid;

/// A document, taken apart.
pub(crate) struct Document {
    /// The lane that it names; `Err` where that is none.
    pub(crate) lane: Result<Lane, ()>,
    /// What is checked and published.
    pub(crate) payload: Bytes,
}

/// Takes a document apart. It gets `id` where it has none; `test` makes it one that ends in the sandbox, whatever it says.
pub(crate) fn read(body: &[u8], id: Uuid, test: bool) -> Document {
    let Ok(Members(mut members)) = serde_json::from_slice::<Members<'_>>(body) else {
        return Document { lane: Ok(Lane::Normal), payload: Bytes::copy_from_slice(body) };
    };
    let mut lane = Ok(Lane::Normal);
    // Two of them are left in, and refused as what they are.
    if members.iter().filter(|(name, _)| name == "lane").count() == 1 {
        members.retain(|(name, value)| {
            if name == "lane" {
                lane = serde_json::from_str::<Option<Lane>>(value.get())
                    .map(|lane| lane.unwrap_or(Lane::Normal))
                    .map_err(|_| ());
            }
            name != "lane"
        });
    }
    members.retain(|(name, value)| (name != "id" || value.get() != "null") && (name != "test" || !test));
    let mut payload = String::with_capacity(body.len() + 64);
    payload.push('{');
    for (name, value) in &members {
        if payload.len() > 1 {
            payload.push(',');
        }
        // A text always serialises.
        payload += &serde_json::to_string(name).unwrap_or_default();
        payload.push(':');
        payload += value.get();
    }
    let mut more = Vec::new();
    if members.iter().all(|(name, _)| name != "id") {
        more.push(format!("\"id\":\"{id}\""));
    }
    if test {
        more.push("\"test\":true".to_owned());
    }
    for member in more {
        payload += if payload.len() > 1 { "," } else { "" };
        payload += &member;
    }
    payload.push('}');
    Document { lane, payload: payload.into() }
}

/// The members of an object in their order, repeats included, with values as they are written.
struct Members<'a>(Vec<(String, &'a RawValue)>);

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(reader: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members<'de>, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }
        reader.deserialize_map(Object)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: Uuid = Uuid::from_u128(7);

    fn taken(body: &str) -> (Result<Lane, ()>, String) {
        let Document { lane, payload } = read(body.as_bytes(), ID, false);
        (lane, String::from_utf8(payload.to_vec()).unwrap())
    }

    #[test]
    fn under_a_key_for_tests_all_is_a_test() {
        for body in [r#"{"id":"x"}"#, r#"{"id":"x","test":false}"#, r#"{"test":true,"id":"x","test":null}"#] {
            assert_eq!(&read(body.as_bytes(), ID, true).payload[..], br#"{"id":"x","test":true}"#, "{body}");
        }
        assert_eq!(&read(b"{}", ID, true).payload[..], br#"{"id":"00000000-0000-0000-0000-000000000007","test":true}"#);
    }

    #[test]
    fn the_lane_is_taken_out_and_an_id_put_in_and_nothing_else_is_touched() {
        let id = r#""id":"00000000-0000-0000-0000-000000000007""#;
        for (body, lane, payload) in [
            (
                r#"{"data": {"x": 1.50, "x": 2}, "lane": "high"}"#,
                Ok(Lane::High),
                format!(r#"{{"data":{{"x": 1.50, "x": 2}},{id}}}"#),
            ),
            (r#"{"a\"b": 1}"#, Ok(Lane::Normal), format!(r#"{{"a\"b":1,{id}}}"#)),
            (r#"{"id": "x", "lane": null}"#, Ok(Lane::Normal), r#"{"id":"x"}"#.to_owned()),
            (r#"{"id": null}"#, Ok(Lane::Normal), format!("{{{id}}}")),
            (r#"{"id": 1, "id": 2}"#, Ok(Lane::Normal), r#"{"id":1,"id":2}"#.to_owned()),
            (r#"{"lane": "fast"}"#, Err(()), format!("{{{id}}}")),
            (r#"{"lane": 7}"#, Err(()), format!("{{{id}}}")),
            (
                r#"{"lane": "high", "lane": "bulk"}"#,
                Ok(Lane::Normal),
                format!(r#"{{"lane":"high","lane":"bulk",{id}}}"#),
            ),
            ("[1]", Ok(Lane::Normal), "[1]".to_owned()),
            ("{", Ok(Lane::Normal), "{".to_owned()),
            ("", Ok(Lane::Normal), String::new()),
        ] {
            assert_eq!(taken(body), (lane, payload), "{body}");
        }
    }
}
