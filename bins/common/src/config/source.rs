//! Where each value of the configuration came from: file, environment or flag, merged into one tree that remembers
//! the place of every key, so that a mistake can be named by its line.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use toml::Value;
use toml::de::{DeTable, DeValue};

use super::{ConfigError, Mistake};

/// Where a value was written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Place {
    /// In a file.
    File {
        /// The file.
        path: PathBuf,
        /// Line and column, both from 1, where they are known.
        at: Option<(usize, usize)>,
    },
    /// On the command line; the flag as typed.
    Flag(String),
    /// In the environment; the variable's name.
    Variable(String),
    /// Nowhere: the default.
    #[default]
    Default,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File {
                path,
                at: Some((line, column)),
            } => {
                write!(f, "{}:{line}:{column}", path.display())
            }
            Self::File { path, at: None } => write!(f, "{}", path.display()),
            Self::Flag(flag) => write!(f, "{flag}"),
            Self::Variable(name) => write!(f, "environment {name}"),
            Self::Default => write!(f, "default"),
        }
    }
}

/// One value from outside the file: a flag's or the environment's.
#[derive(Clone, Debug)]
pub struct Setting {
    /// The dotted key, `grpc.listen` or `connect.0.tls`.
    pub key: String,
    /// The value as typed; its type follows from the key.
    pub value: String,
    /// Where it was given.
    pub place: Place,
}

/// Flags' values, in the order given; a later one wins.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    settings: Vec<Setting>,
}

impl Overrides {
    /// Whether nothing was given.
    pub fn is_empty(&self) -> bool {
        self.settings.is_empty()
    }

    /// Adds one value, given by `flag`.
    pub fn set(&mut self, key: impl Into<String>, value: impl Into<String>, flag: &str) {
        self.settings.push(Setting {
            key: key.into(),
            value: value.into(),
            place: Place::Flag(flag.to_owned()),
        });
    }

    /// Adds one value, given by the environment variable `name`.
    pub fn set_from_variable(&mut self, key: &str, value: String, name: &str) {
        self.settings.push(Setting {
            key: key.to_owned(),
            value,
            place: Place::Variable(name.to_owned()),
        });
    }

    /// The values in order.
    pub(super) fn settings(&self) -> &[Setting] {
        &self.settings
    }
}

/// The merged tree and the place of every key in it.
#[derive(Debug, Default)]
pub(super) struct Source {
    pub(super) tree: toml::Table,
    places: Places,
}

/// The place of every key that was given.
#[derive(Clone, Debug, Default)]
pub struct Places {
    by_key: BTreeMap<String, Place>,
    file: Option<PathBuf>,
}

impl Places {
    /// Where `key` was given; for one that wasn't, where the table around it stands, else the file.
    pub fn of(&self, key: &str) -> Place {
        let mut part = key;
        loop {
            if let Some(place) = self.by_key.get(part) {
                return place.clone();
            }
            match part.rsplit_once('.') {
                Some((parent, _)) => part = parent,
                None => break,
            }
        }
        match &self.file {
            Some(path) => Place::File {
                path: path.clone(),
                at: None,
            },
            None => Place::Default,
        }
    }

    /// True if `key` itself was given anywhere.
    pub fn given(&self, key: &str) -> bool {
        self.by_key.contains_key(key)
    }

    /// A mistake at `key`.
    pub fn mistake(&self, key: &str, text: impl fmt::Display) -> Mistake {
        Mistake {
            place: self.of(key),
            text: format!("{key}: {text}"),
        }
    }
}

impl Source {
    /// Reads the text of `path`.
    pub(super) fn parse(path: &Path, text: &str) -> Result<Self, ConfigError> {
        let (document, errors) = DeTable::parse_recoverable(text);
        if !errors.is_empty() {
            let place = |e: &toml::de::Error| Place::File {
                path: path.to_owned(),
                at: e.span().map(|span| line_column(text, span.start)),
            };
            return Err(ConfigError::new(
                errors
                    .iter()
                    .map(|e| Mistake {
                        place: place(e),
                        text: one_line(e.message()),
                    })
                    .collect(),
            ));
        }
        let mut source = Self::default();
        source.places.file = Some(path.to_owned());
        let mut walk = Walk {
            path,
            text,
            places: &mut source.places.by_key,
        };
        source.tree = walk.table(document.get_ref(), "");
        Ok(source)
    }

    /// Puts one value over what is there.
    pub(super) fn set(&mut self, key: &str, value: Value, place: &Place) -> Result<(), Mistake> {
        let refuse = |text: &str| Mistake {
            place: place.clone(),
            text: format!("{key}: {text}"),
        };
        let mut parts = key.split('.').peekable();
        let Some(first) = parts.next().filter(|part| !part.is_empty()) else {
            return Err(refuse(
                "expected KEY=VALUE, such as grpc.listen=127.0.0.1:9000",
            ));
        };
        if parts.peek().is_none() {
            self.tree.insert(first.to_owned(), value);
        } else {
            let mut at = self
                .tree
                .entry(first.to_owned())
                .or_insert_with(|| empty_for(parts.peek()));
            while let Some(part) = parts.next() {
                let next = || empty_for(parts.clone().next().as_ref());
                at = match at {
                    Value::Array(items) => {
                        let index: usize = part
                            .parse()
                            .map_err(|_| refuse("expected a list's index, from 0"))?;
                        match index.cmp(&items.len()) {
                            std::cmp::Ordering::Less => {}
                            std::cmp::Ordering::Equal => items.push(next()),
                            std::cmp::Ordering::Greater => {
                                return Err(refuse("leaves a gap in the list"));
                            }
                        }
                        items
                            .get_mut(index)
                            .ok_or_else(|| refuse("no such entry"))?
                    }
                    Value::Table(table) => table.entry(part.to_owned()).or_insert_with(next),
                    _ => return Err(refuse("there is no table of that name")),
                };
            }
            *at = value;
        }
        self.places.by_key.insert(key.to_owned(), place.clone());
        Ok(())
    }

    /// Takes the value at `key` out; false if there is none.
    pub(super) fn remove(&mut self, key: &str) -> bool {
        let (parent, last) = match key.rsplit_once('.') {
            Some((parent, last)) => (parent, last),
            None => return self.tree.remove(key).is_some(),
        };
        let mut parts = parent.split('.');
        let Some(mut at) = parts.next().and_then(|part| self.tree.get_mut(part)) else {
            return false;
        };
        for part in parts {
            let inner = match at {
                Value::Array(items) => part
                    .parse::<usize>()
                    .ok()
                    .and_then(|index| items.get_mut(index)),
                Value::Table(table) => table.get_mut(part),
                _ => None,
            };
            let Some(inner) = inner else { return false };
            at = inner;
        }
        match at {
            Value::Table(table) => table.remove(last).is_some(),
            // Taking an element out would move the others' places; the list goes as a whole.
            Value::Array(_) => self.remove(parent),
            _ => false,
        }
    }

    /// Replaces `$NAME` in every string by the environment's value.
    pub(super) fn expand(&mut self, env: &dyn Fn(&str) -> Option<String>) -> Vec<Mistake> {
        let mut mistakes = Vec::new();
        for (key, value) in self.tree.iter_mut() {
            expand_value(value, key, env, &self.places, &mut mistakes);
        }
        mistakes
    }

    pub(super) fn places(&self) -> &Places {
        &self.places
    }
}

fn expand_value(
    value: &mut Value,
    key: &str,
    env: &dyn Fn(&str) -> Option<String>,
    places: &Places,
    mistakes: &mut Vec<Mistake>,
) {
    match value {
        Value::String(text) => match expand_text(text, env) {
            Ok(Some(expanded)) => *text = expanded,
            Ok(None) => {}
            Err(name) => mistakes.push(places.mistake(
                key,
                format_args!("the environment has no {name} (a literal dollar sign is written $$)"),
            )),
        },
        Value::Array(items) => {
            for (index, item) in items.iter_mut().enumerate() {
                expand_value(item, &format!("{key}.{index}"), env, places, mistakes);
            }
        }
        Value::Table(table) => {
            for (inner, item) in table.iter_mut() {
                expand_value(item, &format!("{key}.{inner}"), env, places, mistakes);
            }
        }
        _ => {}
    }
}

/// `None` if there is nothing to replace; the name of a variable that isn't set as the error.
fn expand_text(text: &str, env: &dyn Fn(&str) -> Option<String>) -> Result<Option<String>, String> {
    if !text.contains('$') {
        return Ok(None);
    }
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('$') {
        out.push_str(before);
        if let Some(after) = after.strip_prefix('$') {
            out.push('$');
            rest = after;
            continue;
        }
        let end = after
            .find(|c: char| !(c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_'))
            .unwrap_or(after.len());
        let (name, tail) = after.split_at(end);
        if name.is_empty() {
            out.push('$');
        } else {
            out.push_str(
                &env(name)
                    .filter(|value| !value.is_empty())
                    .ok_or_else(|| name.to_owned())?,
            );
        }
        rest = tail;
    }
    out.push_str(rest);
    Ok(Some(out))
}

/// What holds the next part of a key: a new list starts at 0, and no table of ours has a key 0.
fn empty_for(next: Option<&&str>) -> Value {
    match next {
        Some(&"0") => Value::Array(Vec::new()),
        Some(_) => Value::Table(toml::Table::new()),
        None => Value::String(String::new()),
    }
}

struct Walk<'a> {
    path: &'a Path,
    text: &'a str,
    places: &'a mut BTreeMap<String, Place>,
}

impl Walk<'_> {
    fn table(&mut self, table: &DeTable<'_>, prefix: &str) -> toml::Table {
        let mut out = toml::Table::new();
        for (key, value) in table {
            let full = join(prefix, key.get_ref());
            self.note(&full, key.span().start);
            out.insert(
                key.get_ref().to_string(),
                self.value(value.get_ref(), &full),
            );
        }
        out
    }

    fn value(&mut self, value: &DeValue<'_>, key: &str) -> Value {
        match value {
            DeValue::String(text) => Value::String(text.to_string()),
            DeValue::Integer(number) => {
                match i64::from_str_radix(number.as_str(), number.radix()) {
                    Ok(number) => Value::Integer(number),
                    // Kept as text: the key's own type then says what it expects.
                    Err(_) => Value::String(number.as_str().to_owned()),
                }
            }
            DeValue::Float(number) => Value::Float(number.as_str().parse().unwrap_or(f64::NAN)),
            DeValue::Boolean(yes) => Value::Boolean(*yes),
            DeValue::Datetime(time) => Value::String(time.to_string()),
            DeValue::Array(items) => {
                let mut out = Vec::new();
                for (index, item) in items.iter().enumerate() {
                    let full = format!("{key}.{index}");
                    self.note(&full, item.span().start);
                    out.push(self.value(item.get_ref(), &full));
                }
                Value::Array(out)
            }
            DeValue::Table(table) => Value::Table(self.table(table, key)),
        }
    }

    fn note(&mut self, key: &str, offset: usize) {
        let at = Some(line_column(self.text, offset));
        self.places.insert(
            key.to_owned(),
            Place::File {
                path: self.path.to_owned(),
                at,
            },
        );
    }
}

pub(super) fn join(prefix: &str, key: &str) -> String {
    if prefix.is_empty() {
        key.to_owned()
    } else {
        format!("{prefix}.{key}")
    }
}

/// Line and column of a byte offset, both from 1, the column in characters.
fn line_column(text: &str, offset: usize) -> (usize, usize) {
    let mut end = offset.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let before = &text[..end];
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or("").chars().count() + 1;
    (line, column)
}

pub(super) fn one_line(text: &str) -> String {
    text.split('\n')
        .map(str::trim)
        .filter(|part| !part.is_empty())
        .collect::<Vec<_>>()
        .join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_replaced_anywhere_in_a_string() {
        let env = |name: &str| (name == "POD_IP").then(|| "10.0.0.7".to_owned());
        assert_eq!(
            expand_text("$POD_IP:9000", &env),
            Ok(Some("10.0.0.7:9000".to_owned()))
        );
        assert_eq!(expand_text("a$$b$", &env), Ok(Some("a$b$".to_owned())));
        assert_eq!(expand_text("plain", &env), Ok(None));
        assert_eq!(expand_text("$NODE_NAME", &env), Err("NODE_NAME".to_owned()));
    }

    #[test]
    fn every_key_has_its_place() {
        let source = Source::parse(Path::new("f.toml"), "a = 1\n[b]\nc = [\"x\",\n  \"y\"]\n")
            .expect("valid");
        let at = |key: &str| source.places().of(key).to_string();
        assert_eq!(at("a"), "f.toml:1:1");
        assert_eq!(at("b.c"), "f.toml:3:1");
        assert_eq!(at("b.c.1"), "f.toml:4:3");
        assert_eq!(at("b.missing"), "f.toml:2:2");
        assert_eq!(at("z"), "f.toml");
    }

    #[test]
    fn flags_reach_into_lists_and_tables_that_were_not_there() {
        let mut source = Source::default();
        let place = Place::Flag("--set".to_owned());
        source
            .set("connect.0.listen", Value::String("x".into()), &place)
            .expect("set");
        source
            .set("connect.1.listen", Value::String("y".into()), &place)
            .expect("set");
        source
            .set("grpc.listen", Value::String("z".into()), &place)
            .expect("set");
        assert_eq!(source.tree["connect"][1]["listen"].as_str(), Some("y"));
        assert_eq!(source.tree["grpc"]["listen"].as_str(), Some("z"));
        assert!(
            source
                .set("connect.5.listen", Value::Boolean(true), &place)
                .is_err()
        );
        assert!(
            source
                .set("grpc.listen.deep", Value::Boolean(true), &place)
                .is_err()
        );
        assert!(source.remove("connect.0.listen"));
        assert!(source.tree["connect"][0].get("listen").is_none());
    }
}
