//! What fills in the chart: its own values, under the user's files, under flags. A key that the chart doesn't have is refused.

use serde_json::{Map, Value};

/// A YAML text that is a mapping, or empty.
pub(super) fn parse(name: &str, text: &str) -> Result<Value, String> {
    let value: Value = serde_saphyr::from_str(text).map_err(|error| format!("{name}: {error}"))?;
    match value {
        Value::Null => Ok(Value::Object(Map::new())),
        Value::Object(_) => Ok(value),
        other => Err(format!("{name}: expected keys and values, found {other}")),
    }
}

/// `a.b=value`, as the mapping that it stands for.
pub(super) fn assignment(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err(format!("{text:?}: expected KEY=VALUE")),
    }
}

/// One value at the end of a path of keys.
pub(super) fn at(path: &str, value: Value) -> Value {
    path.rsplit('.').fold(value, |value, key| {
        Value::Object(Map::from_iter([(key.to_owned(), value)]))
    })
}

/// Puts `over` over `under`: mappings key by key, everything else as a whole. `name` is where `over` comes from.
pub(super) fn merge(name: &str, under: &mut Value, over: Value) -> Result<(), String> {
    merge_at(under, over, &mut Vec::new()).map_err(|what| format!("{name}: {what}"))
}

fn merge_at(under: &mut Value, over: Value, path: &mut Vec<String>) -> Result<(), String> {
    match (under, over) {
        (Value::Object(under), Value::Object(over)) => {
            // What is empty in the chart takes any keys: labels, selectors and the like. So do quantities of resources.
            let is_open = under.is_empty() || is_free(path);
            for (key, value) in over {
                path.push(key.clone());
                match under.get_mut(&key) {
                    Some(known) => merge_at(known, value, path)?,
                    None if is_open => drop(under.insert(key, value)),
                    None => return Err(format!("the chart has no {}", path.join("."))),
                }
                path.pop();
            }
            Ok(())
        }
        (Value::Object(_), Value::Null) => Ok(()),
        (Value::Object(_), other) => Err(format!(
            "{}: expected keys and values, found {other}",
            path.join(".")
        )),
        (under, over) => {
            *under = over;
            Ok(())
        }
    }
}

/// Mappings whose keys are the user's own, although the chart has some of them.
fn is_free(path: &[String]) -> bool {
    const FREE: [&str; 4] = ["resources", "affinity", "nodeSelector", "dashboardLabels"];
    path.iter().any(|key| FREE.contains(&key.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_user_s_values_go_over_the_chart_s() {
        let mut values = json!({"cloud": {"replicas": 3, "labels": {}, "list": [1, 2]}, "x": ""});
        for over in [
            parse("a", "cloud: {replicas: 5, labels: {a: b}, list: [3]}").expect("YAML"),
            at("x", "text".into()),
            parse("empty", "# nothing\n").expect("YAML"),
        ] {
            merge("file", &mut values, over).expect("merges");
        }
        assert_eq!(
            values,
            json!({"cloud": {"replicas": 5, "labels": {"a": "b"}, "list": [3]}, "x": "text"})
        );
    }

    #[test]
    fn what_the_chart_has_not_is_named() {
        let mut values = json!({"cloud": {"replicas": 3}});
        let said = merge("mine.yaml", &mut values, json!({"cloud": {"replica": 5}}));
        assert_eq!(
            said,
            Err("mine.yaml: the chart has no cloud.replica".to_owned())
        );
        let said = merge("mine.yaml", &mut values, json!({"cloud": 7}));
        assert!(said.is_err_and(|what| what.contains("cloud: expected keys")));
        assert!(parse("mine.yaml", "[1, 2]").is_err() && parse("mine.yaml", "a: [").is_err());
        assert!(assignment("=x").is_err() && assignment("x").is_err());
    }
}
