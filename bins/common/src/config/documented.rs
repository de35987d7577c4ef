//! docs/configuration.md says what the code does: every key, and its default.

use std::collections::BTreeMap;

use serde::Serialize;
use toml::Value;

use super::*;

const TEXT: &str = include_str!("../../../../docs/configuration.md");

/// Keys whose default is worked out at load, so that there is none to compare.
const WITHOUT_DEFAULT: [&str; 2] = ["connect.tls", "connect.auth"];

#[test]
fn every_key_of_the_cloud_is_documented_with_its_default() {
    compare(&CloudConfig::default(), &["cloud.toml", "Both ends"]);
}

#[test]
fn every_key_of_the_edge_is_documented_with_its_default() {
    compare(&EdgeConfig::default(), &["edge.toml", "Both ends"]);
}

#[test]
fn every_key_of_the_operator_is_documented_with_its_default() {
    compare(
        &BTreeMap::from([("tunnel", ClientConfig::default())]),
        &["config.toml"],
    );
}

#[test]
fn every_example_loads() {
    let env = |name: &str| (name == "HOME").then(|| "/home/ann".to_owned());
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("example.toml");
    let mut flags = Overrides::default();
    for (chapter, is_cloud) in [("cloud.toml", true), ("edge.toml", false)] {
        std::fs::write(&path, example(chapter)).expect("write");
        if is_cloud {
            // The example's users file isn't on this machine.
            flags.set("users.file", path.display().to_string(), "--set");
            CloudConfig::load(Some(&path), &flags, &env).expect(chapter);
        } else {
            EdgeConfig::load(Some(&path), &Overrides::default(), &env).expect(chapter);
        }
    }
    std::fs::write(&path, example("config.toml")).expect("write");
    let config = ClientConfig::load(Some(&path), &Overrides::default(), &env).expect("config.toml");
    assert_eq!(
        config.ca,
        std::path::Path::new("/home/ann/.config/tunnel/ca.crt")
    );
}

fn compare(defaults: &impl Serialize, chapters: &[&str]) {
    let mut documented = BTreeMap::new();
    for chapter in chapters {
        documented.append(&mut rows(chapter));
    }
    let Value::Table(sections) = Value::try_from(defaults).expect("serialises") else {
        panic!("a table")
    };
    for (section, keys) in &sections {
        let keys = match keys {
            Value::Array(items) => items.first().expect("an entry by default"),
            keys => keys,
        };
        for (key, default) in keys.as_table().expect("a table of keys") {
            let key = format!("{section}.{key}");
            let told = documented
                .remove(&key)
                .unwrap_or_else(|| panic!("{key} is not documented"));
            let told: toml::Table = toml::from_str(&format!("v = {told}"))
                .unwrap_or_else(|e| panic!("{key}: {told}: {e}"));
            assert_eq!(&told["v"], default, "{key}");
        }
    }
    let left: Vec<_> = documented
        .keys()
        .filter(|key| !WITHOUT_DEFAULT.contains(&key.as_str()))
        .collect();
    assert!(left.is_empty(), "documented, but not there: {left:?}");
}

/// `section.key` and the default's text, from the tables of a chapter.
fn rows(chapter: &str) -> BTreeMap<String, String> {
    let mut section = "";
    let mut found = BTreeMap::new();
    for line in text_of(chapter).lines() {
        if let Some(heading) = line.strip_prefix("### ") {
            section = heading;
        }
        let Some(cells) = line.strip_prefix("| `") else {
            continue;
        };
        let Some((key, rest)) = cells.split_once("` | ") else {
            continue;
        };
        let default = rest.split(" | ").next().unwrap_or("").trim_matches('`');
        found.insert(format!("{section}.{key}"), default.to_owned());
    }
    assert!(!found.is_empty(), "{chapter} has no tables");
    found
}

fn example(chapter: &str) -> &'static str {
    let (_, rest) = text_of(chapter)
        .split_once("```toml\n")
        .expect("an example");
    rest.split_once("```").expect("its end").0
}

fn text_of(chapter: &str) -> &'static str {
    let (_, rest) = TEXT
        .split_once(&format!("\n## {chapter}\n"))
        .expect(chapter);
    rest.split("\n## ").next().unwrap_or("")
}
