//! A tree into values, with the key of what is wrong. serde's errors know none, and a wrapper that adds it to any format costs the
//! small edge 72 KB: this reads toml's values and nothing else.

use std::{fmt, slice};

use serde::de::{self, DeserializeOwned, DeserializeSeed, Deserializer, IntoDeserializer, Visitor};
use serde::forward_to_deserialize_any;
use toml::{Table, Value, map};

use super::source::join;

/// The values of a tree; else the first that is wrong.
pub(super) fn read<T: DeserializeOwned>(tree: Table) -> Result<T, Wrong> {
    T::deserialize(Keyed(&Value::Table(tree)))
}

/// A value that can't be used.
#[derive(Debug)]
pub(super) struct Wrong(Box<What>);

#[derive(Debug)]
struct What {
    key: String,
    message: String,
}

impl Wrong {
    /// The dotted key.
    pub(super) fn key(&self) -> &str {
        &self.0.key
    }

    /// What is wrong with it, in serde's words.
    pub(super) fn message(&self) -> &str {
        &self.0.message
    }

    /// It is in a table or list, under this key.
    fn under(mut self, key: &str) -> Wrong {
        self.0.key = match self.0.key.is_empty() {
            true => key.to_owned(),
            false => join(key, &self.0.key),
        };
        self
    }
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.key(), self.message())
    }
}

impl std::error::Error for Wrong {}

impl de::Error for Wrong {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Wrong(Box::new(What {
            key: String::new(),
            message: message.to_string(),
        }))
    }
}

struct Keyed<'a>(&'a Value);

impl<'de> Deserializer<'de> for Keyed<'_> {
    type Error = Wrong;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Wrong> {
        match self.0 {
            Value::String(text) => visitor.visit_str(text),
            Value::Integer(number) => visitor.visit_i64(*number),
            Value::Float(number) => visitor.visit_f64(*number),
            Value::Boolean(yes) => visitor.visit_bool(*yes),
            Value::Datetime(time) => visitor.visit_string(time.to_string()),
            Value::Array(items) => visitor.visit_seq(Items {
                items: items.iter(),
                index: 0,
            }),
            Value::Table(table) => visitor.visit_map(Entries {
                entries: table.iter(),
                value: None,
            }),
        }
    }

    // What is there is some.
    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Wrong> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Wrong> {
        visitor.visit_newtype_struct(self)
    }

    // Of those that are words.
    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Wrong> {
        match self.0 {
            Value::String(word) => visitor.visit_enum(word.as_str().into_deserializer()),
            _ => self.deserialize_any(visitor),
        }
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct seq tuple
        tuple_struct map struct identifier ignored_any
    }
}

struct Items<'a> {
    items: slice::Iter<'a, Value>,
    index: usize,
}

impl<'de> de::SeqAccess<'de> for Items<'_> {
    type Error = Wrong;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, Wrong> {
        let Some(item) = self.items.next() else {
            return Ok(None);
        };
        let index = self.index;
        self.index += 1;
        let read = seed.deserialize(Keyed(item));
        read.map(Some)
            .map_err(|wrong| wrong.under(&index.to_string()))
    }
}

struct Entries<'a> {
    entries: map::Iter<'a, String, Value>,
    /// Of the key that was read last.
    value: Option<(&'a str, &'a Value)>,
}

impl<'de> de::MapAccess<'de> for Entries<'_> {
    type Error = Wrong;

    fn next_key_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, Wrong> {
        let Some((key, value)) = self.entries.next() else {
            return Ok(None);
        };
        self.value = Some((key, value));
        let read = seed.deserialize(key.as_str().into_deserializer());
        read.map(Some).map_err(|wrong: Wrong| wrong.under(key))
    }

    fn next_value_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<T::Value, Wrong> {
        let Some((key, value)) = self.value.take() else {
            return Err(de::Error::custom("a value was asked for before its key"));
        };
        seed.deserialize(Keyed(value))
            .map_err(|wrong| wrong.under(key))
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize, PartialEq)]
    #[serde(deny_unknown_fields)]
    struct Inner {
        number: u16,
    }

    #[derive(Debug, Deserialize, PartialEq)]
    #[serde(rename_all = "lowercase")]
    enum Word {
        One,
    }

    #[derive(Debug, Default, Deserialize, PartialEq)]
    #[serde(deny_unknown_fields, default)]
    struct Outer {
        floats: Vec<f64>,
        inner: Vec<Inner>,
        large: Option<i64>,
        text: String,
        word: Option<Word>,
    }

    fn read(text: &str) -> Result<Outer, Wrong> {
        super::read(toml::from_str(text).expect("TOML"))
    }

    #[test]
    fn values_are_what_was_written() {
        let text = "floats = [1.0, -inf, 0.1]\ninner = [{ number = 1 }, { number = 0x10 }]\nlarge = -9223372036854775808\ntext = \"1\"\nword = \"one\"\n";
        let expected = Outer {
            floats: vec![1.0, f64::NEG_INFINITY, 0.1],
            inner: vec![Inner { number: 1 }, Inner { number: 16 }],
            large: Some(i64::MIN),
            text: "1".to_owned(),
            word: Some(Word::One),
        };
        assert_eq!(read(text).expect("read"), expected);
    }

    #[test]
    fn what_is_wrong_has_its_key() {
        for (text, key, words) in [
            ("large = \"x\"", "large", "invalid type"),
            ("text = 1", "text", "invalid type"),
            ("floats = [1.0, true]", "floats.1", "invalid type"),
            ("floats = 1.0", "floats", "expected a sequence"),
            (
                "word = \"two\"",
                "word",
                "unknown variant `two`, expected `one`",
            ),
            ("word = 2", "word", "invalid type"),
            (
                "inner = [{ number = 1 }, { number = 65536 }]",
                "inner.1.number",
                "expected u16",
            ),
            (
                "inner = [{ number = 1 }, {}]",
                "inner.1",
                "missing field `number`",
            ),
            (
                "inner = [{ number = 1, other = 2 }]",
                "inner.0.other",
                "unknown field `other`",
            ),
            ("other = 1", "other", "unknown field `other`"),
        ] {
            let wrong = read(text).expect_err(text);
            assert_eq!(wrong.key(), key, "{text}: {wrong}");
            assert!(wrong.message().contains(words), "{text}: {wrong}");
        }
    }
}
