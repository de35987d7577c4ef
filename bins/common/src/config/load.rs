//! Layers into values: file, then environment, then flags, then serde, with a place for every mistake.

use std::io::ErrorKind;
use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;
use toml::Value;

use super::source::{Place, Places, Setting, Source};
use super::{ConfigError, Mistake, keyed};

/// How many mistakes are worth telling at once.
const MISTAKES_MAX: usize = 32;

/// A configuration and where its values came from.
#[derive(Debug)]
pub(crate) struct Loaded<T> {
    pub(crate) value: T,
    pub(crate) places: Places,
}

/// Reads the file, if there is one, and puts `settings` over it in order.
///
/// Without `path` the default file is read, and may be missing.
pub(super) fn load<T>(
    path: Option<&Path>,
    default_path: Option<&Path>,
    settings: &[Setting],
    env: &dyn Fn(&str) -> Option<String>,
) -> Result<Loaded<T>, ConfigError>
where
    T: DeserializeOwned + Serialize + Default,
{
    let mut source = match (path, default_path) {
        (Some(path), _) => read(path, true)?,
        (None, Some(path)) => read(path, false)?,
        (None, None) => Source::default(),
    };
    let mut mistakes = Vec::new();
    let shape = Value::try_from(T::default()).unwrap_or(Value::Boolean(false));
    for setting in settings {
        let result = typed(&shape, setting)
            .and_then(|value| source.set(&setting.key, value, &setting.place));
        mistakes.extend(result.err());
    }
    mistakes.extend(source.expand(env));
    deserialize(source, mistakes)
}

/// Reads a file that nothing is put over, and whose dollar signs are its own.
pub(crate) fn load_plain<T: DeserializeOwned>(path: &Path) -> Result<Loaded<T>, ConfigError> {
    deserialize(read(path, true)?, Vec::new())
}

fn deserialize<T: DeserializeOwned>(
    mut source: Source,
    mut mistakes: Vec<Mistake>,
) -> Result<Loaded<T>, ConfigError> {
    loop {
        match keyed::read(source.tree.clone()) {
            Ok(value) if mistakes.is_empty() => {
                return Ok(Loaded {
                    value,
                    places: source.places().clone(),
                });
            }
            Ok(_) => return Err(ConfigError::new(mistakes)),
            Err(wrong) => {
                // Without the wrong value the rest can be looked at too.
                mistakes.push(
                    source
                        .places()
                        .mistake(wrong.key(), explain(wrong.message())),
                );
                if mistakes.len() >= MISTAKES_MAX || !source.remove(wrong.key()) {
                    return Err(ConfigError::new(mistakes));
                }
            }
        }
    }
}

fn read(path: &Path, must_exist: bool) -> Result<Source, ConfigError> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound && !must_exist => {
            return Ok(Source::default());
        }
        Err(error) => {
            let place = Place::File {
                path: path.to_owned(),
                at: None,
            };
            return Err(Mistake {
                place,
                text: format!("can't be read: {error}"),
            }
            .into());
        }
    };
    Source::parse(path, &text)
}

/// The text of a flag as the kind of value that its key has by default.
fn typed(shape: &Value, setting: &Setting) -> Result<Value, Mistake> {
    let text = setting.value.as_str();
    let mut default = Some(shape);
    for part in setting.key.split('.') {
        default = match default {
            Some(Value::Table(table)) => table.get(part),
            Some(Value::Array(items)) if part.parse::<usize>().is_ok() => items.first(),
            _ => None,
        };
    }
    let as_toml = || {
        let wrapped = format!("value = {text}");
        let parsed: Option<toml::Table> = toml::from_str(&wrapped).ok();
        parsed.and_then(|mut table| table.remove("value"))
    };
    let refuse = |kind: &str| Mistake {
        place: setting.place.clone(),
        text: format!("{}: \"{text}\" is no {kind}", setting.key),
    };
    match default {
        Some(Value::Boolean(_)) => match text {
            "true" => Ok(Value::Boolean(true)),
            "false" => Ok(Value::Boolean(false)),
            _ => Err(refuse("switch: expected true or false")),
        },
        Some(Value::Integer(_)) => text
            .replace('_', "")
            .parse()
            .map(Value::Integer)
            .map_err(|_| refuse("whole number")),
        Some(Value::Float(_)) => text.parse().map(Value::Float).map_err(|_| refuse("number")),
        Some(Value::Array(_)) if text.trim_start().starts_with('[') => {
            as_toml().ok_or_else(|| refuse("TOML list"))
        }
        Some(Value::Array(_)) => Ok(Value::Array(
            text.split(',')
                .map(str::trim)
                .filter(|item| !item.is_empty())
                .map(|item| Value::String(item.to_owned()))
                .collect(),
        )),
        Some(Value::Table(_)) => as_toml()
            .filter(Value::is_table)
            .ok_or_else(|| refuse("TOML table: expected { key = value, … }")),
        _ => Ok(Value::String(text.to_owned())),
    }
}

/// serde's words in ours: types of Rust mean nothing to who writes the file.
fn explain(message: &str) -> String {
    let message = super::source::one_line(message);
    if let Some((_, expected)) = message.split_once("unknown field ") {
        let expected = expected
            .split_once(", ")
            .map_or("", |(_, expected)| expected);
        return format!("unknown key; {expected}");
    }
    let mut text = message.replace("unknown variant ", "unknown value ");
    for (rust, words) in [
        ("expected u16", "expected a whole number from 0 to 65535"),
        (
            "expected u32",
            "expected a whole number from 0 to 4294967295",
        ),
        ("expected u64", "expected a whole number, 0 or more"),
        ("expected f64", "expected a number"),
        ("expected a boolean", "expected true or false"),
        ("expected a sequence", "expected a list"),
        ("expected a map", "expected a table"),
        ("expected usize", "expected a whole number, 0 or more"),
    ] {
        text = text.replace(rust, words);
    }
    if let Some(at) = text.find("expected struct ") {
        text.truncate(at);
        text.push_str("expected a table");
    }
    text
}
