//! The data of a notification as a template sees and prints it: as its producer wrote it in JSON.
//!
//! Guarantee: a number prints with its own digits (`100.00`, and twenty-two of them), `true` prints `true`, a list or an
//! object prints as JSON. A null is absent: `default` replaces it, and where it is required it is an error. Calculating
//! and comparing work on numbers as everywhere.
//!
//! Pure, so a crash changes nothing.

use std::{collections::BTreeMap, fmt};

use chasqui_schemas::notification::Json;
use minijinja::{
    Error, ErrorKind, Output, State, escape_formatter,
    value::{Value, ValueKind},
};
use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};

/// Maximum depth to which a list or an object prints: more than `data` may have, and less than a thread's stack holds.
const MAX_DEPTH: usize = 100;

/// The variables of a notification.
pub(crate) struct Data {
    pub(crate) variables: Value,
    pub(crate) numbers: Numbers,
}

/// How numbers were written whose digits a float does not keep, by the float's bits. Of two ways to write the same
/// number the last counts for both.
#[derive(Debug, Clone, Default)]
pub(crate) struct Numbers(BTreeMap<u64, String>);

impl Data {
    /// Reads `data`, an object.
    pub(crate) fn new(data: &Json) -> Result<Self, serde_json::Error> {
        let text = data.as_str();
        let mut written = numbers(text);
        let mut numbers = Numbers::default();
        let mut reader = serde_json::Deserializer::from_str(text);
        let read = Read { written: &mut written, numbers: &mut numbers };
        let variables = read.deserialize(&mut reader)?;
        reader.end()?;
        Ok(Data { variables, numbers })
    }
}

/// The numbers of a JSON text, in the order in which they stand there.
fn numbers(text: &str) -> impl Iterator<Item = &str> {
    let bytes = text.as_bytes();
    let mut at = 0;
    std::iter::from_fn(move || {
        while let Some(byte) = bytes.get(at) {
            match byte {
                b'"' => {
                    at += 1;
                    while let Some(byte) = bytes.get(at).filter(|byte| **byte != b'"') {
                        at += if *byte == b'\\' { 2 } else { 1 };
                    }
                    at += 1;
                }
                b'-' | b'0'..=b'9' => {
                    let from = at;
                    let is_part = |byte: &u8| matches!(byte, b'0'..=b'9' | b'+' | b'-' | b'.' | b'e' | b'E');
                    at += bytes[from..].iter().take_while(|byte| is_part(byte)).count();
                    return text.get(from..at);
                }
                _ => at += 1,
            }
        }
        None
    })
}

/// Reads a value; `written` goes on with the value's numbers.
struct Read<'a, I> {
    written: &'a mut I,
    numbers: &'a mut Numbers,
}

impl<'a, I: Iterator<Item = &'a str>> Read<'_, I> {
    fn again(&mut self) -> Read<'_, I> {
        Read { written: self.written, numbers: self.numbers }
    }

    /// The next number, which the reader has seen as `read`.
    fn number(self, read: f64) -> Value {
        let text = self.written.next().unwrap_or_default();
        if let Ok(whole) = text.parse::<i128>().map(Value::from)
            && whole.to_string() == text
        {
            return whole;
        }
        let read: f64 = text.parse().unwrap_or(read);
        let value = Value::from(read);
        if value.to_string() != text {
            self.numbers.0.insert(read.to_bits(), text.to_owned());
        }
        value
    }
}

impl<'de, 'a, I: Iterator<Item = &'a str>> DeserializeSeed<'de> for Read<'_, I> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<Value, D::Error> {
        reader.deserialize_any(self)
    }
}

impl<'de, 'a, I: Iterator<Item = &'a str>> Visitor<'de> for Read<'_, I> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::UNDEFINED)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(self.number(value as f64))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(self.number(value as f64))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(self.number(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element_seed(self.again())? {
            list.push(item);
        }
        Ok(list.into())
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut fields: A) -> Result<Value, A::Error> {
        let mut object = BTreeMap::new();
        while let Some(name) = fields.next_key::<String>()? {
            let value = fields.next_value_seed(self.again())?;
            if !value.is_undefined() {
                object.insert(name, value);
            }
        }
        Ok(object.into())
    }
}

impl Numbers {
    /// Whether every number of the data prints by itself as it was written.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Prints a value: the engine's formatter.
    pub(crate) fn print(&self, out: &mut Output, state: &mut State, value: &Value) -> Result<(), Error> {
        match value.kind() {
            ValueKind::Bool | ValueKind::Number | ValueKind::Map | ValueKind::Seq | ValueKind::Iterable => {
                let mut text = String::new();
                self.write(&mut text, value, 0)?;
                escape_formatter(out, state, &Value::from(text))
            }
            _ => escape_formatter(out, state, value),
        }
    }

    fn write(&self, out: &mut String, value: &Value, depth: usize) -> Result<(), Error> {
        if depth > MAX_DEPTH {
            return Err(Error::new(ErrorKind::InvalidOperation, "a value is nested too deeply to be printed"));
        }
        let inner = depth + 1;
        match value.kind() {
            ValueKind::Undefined | ValueKind::None => out.push_str("null"),
            ValueKind::Bool => out.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => {
                let written = f64::try_from(value.clone()).ok().and_then(|float| self.0.get(&float.to_bits()));
                match written.filter(|_| !value.is_integer()) {
                    Some(written) => out.push_str(written),
                    None => out.push_str(&value.to_string()),
                }
            }
            ValueKind::Map => {
                out.push('{');
                for (n, name) in value.try_iter()?.enumerate() {
                    out.push_str(if n == 0 { "" } else { "," });
                    quote(out, &name.to_string());
                    out.push(':');
                    self.write(out, &value.get_item(&name)?, inner)?;
                }
                out.push('}');
            }
            ValueKind::Seq | ValueKind::Iterable => {
                out.push('[');
                for (n, item) in value.try_iter()?.enumerate() {
                    out.push_str(if n == 0 { "" } else { "," });
                    self.write(out, &item, inner)?;
                }
                out.push(']');
            }
            _ => quote(out, &value.to_string()),
        }
        Ok(())
    }
}

fn quote(out: &mut String, text: &str) {
    // A text always serialises.
    out.push_str(&serde_json::to_string(text).unwrap_or_default());
}

#[cfg(test)]
mod tests {
    use minijinja::{Environment, UndefinedBehavior};
    use proptest::prelude::*;

    use super::*;

    fn render(template: &str, data: &str) -> Result<String, Error> {
        let data: Json = serde_json::from_value(serde_json::Value::String(data.to_owned())).unwrap();
        let Data { variables, numbers } = Data::new(&data).unwrap();
        let mut environment = Environment::new();
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        environment.set_formatter(move |out, state, value| numbers.print(out, state, value));
        environment.render_str(template, variables)
    }

    #[test]
    fn a_value_prints_as_it_was_written() {
        for written in [
            "100.00",
            "0.10",
            "1e3",
            "1E+3",
            "-0.0",
            "9400000000000000000001",
            "340282366920938463463374607431768211455",
            "0.1234567890123456789",
            "3",
            "-7",
            "2.5",
            "true",
            "false",
            "[1,2.50,true]",
            r#"{"a":{"b":[1.0,"x\"y"]}}"#,
        ] {
            assert_eq!(render("{{ x }}", &format!(r#"{{"x":{written}}}"#)).unwrap(), written);
        }
        assert_eq!(
            render("{{ x[1].y }} {{ s }}", r#"{"s": "12.0 \" 3.00", "x": [0, {"y": 9.990}]}"#).unwrap(),
            "9.990 12.0 \" 3.00"
        );
    }

    #[test]
    fn a_null_is_absent() {
        let data = r#"{"name": null, "list": [1, null], "o": {"a": null}}"#;
        assert_eq!(render("{{ name|default('there') }}{{ o.a is defined }}", data).unwrap(), "therefalse");
        for required in ["{{ name }}", "{{ list[1] }}", "{{ o.a }}", "{% for x in list %}{{ x }}{% endfor %}"] {
            assert!(render(required, data).is_err(), "{required}");
        }
    }

    #[test]
    fn numbers_calculate_and_compare() {
        let data = r#"{"price": 100.50, "count": 3, "big": 9400000000000000000001}"#;
        assert_eq!(render("{% if price > 100 %}{{ price }} x {{ count * 2 }}{% endif %}", data).unwrap(), "100.50 x 6");
        assert_eq!(render("{{ price + 1 }} {{ big + 1 }}", data).unwrap(), "101.5 9400000000000000000002");
    }

    #[test]
    fn what_is_nested_too_deeply_does_not_print() {
        let template =
            "{% set ns = namespace(x=[]) %}{% for i in range(500) %}{% set ns.x = [ns.x] %}{% endfor %}{{ ns.x }}";
        assert!(render(template, "{}").is_err());
    }

    proptest! {
        #[test]
        fn every_number_prints_with_its_digits(text in "-?(0|[1-9][0-9]{0,30})(\\.[0-9]{1,20})?([eE][+-]?[0-9]{1,2})?") {
            prop_assert_eq!(render("{{ x.y }}", &format!(r#"{{"x": {{"y": {text}}}}}"#)).unwrap(), text);
        }
    }
}
