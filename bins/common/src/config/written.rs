//! A configuration as a file that says the same.

use toml::{Table, Value};

use super::EdgeConfig;

impl EdgeConfig {
    /// The file: what differs from the defaults, a line for each table.
    pub fn text(&self) -> String {
        let (Ok(Value::Table(own)), Ok(default)) =
            (Value::try_from(self), Value::try_from(Self::default()))
        else {
            return String::new();
        };
        let mut text = String::new();
        for (name, value) in own {
            let Value::Table(mut keys) = value else {
                continue;
            };
            keys.retain(|key, value| {
                default.get(&name).and_then(|keys| keys.get(key)) != Some(value)
            });
            if !keys.is_empty() {
                text.push_str(&name);
                text.push_str(" = ");
                write_table(&keys, &mut text);
                text.push('\n');
            }
        }
        text
    }
}

fn write_table(keys: &Table, text: &mut String) {
    text.push_str("{ ");
    for (at, (key, value)) in keys.iter().enumerate() {
        if at > 0 {
            text.push_str(", ");
        }
        text.push_str(key);
        text.push_str(" = ");
        write_value(value, text);
    }
    text.push_str(" }");
}

fn write_value(value: &Value, text: &mut String) {
    match value {
        Value::Table(keys) => write_table(keys, text),
        Value::Array(items) => {
            text.push('[');
            for (at, item) in items.iter().enumerate() {
                if at > 0 {
                    text.push_str(", ");
                }
                write_value(item, text);
            }
            text.push(']');
        }
        Value::String(string) => {
            text.push('"');
            for character in string.chars() {
                match character {
                    // A dollar sign would name a variable.
                    '$' => text.push_str("$$"),
                    '"' | '\\' => text.extend(['\\', character]),
                    c if c.is_control() => text.push_str(&format!("\\u{:04X}", u32::from(c))),
                    c => text.push(c),
                }
            }
            text.push('"');
        }
        Value::Integer(number) => text.push_str(&number.to_string()),
        Value::Float(number) => text.push_str(&format!("{number:?}")),
        Value::Boolean(is_so) => text.push_str(if *is_so { "true" } else { "false" }),
        Value::Datetime(time) => text.push_str(&time.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Overrides;
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        let mut flags = Overrides::default();
        for (key, value) in [
            ("node.name", "node-A"),
            ("cloud.addresses", "a:1,[::1]:2"),
            ("cloud.ca", "/a \"quoted\\ $$FILE"),
            ("targets.allow", "127.0.0.1:22,localhost:*"),
            ("targets.map.80", "127.0.0.1:8080"),
            ("heartbeat.jitter", "0.5"),
            ("heartbeat.missed", "5"),
            ("heartbeat.interval", "30s"),
            ("streams.resume", "false"),
            ("admin.listen", ""),
        ] {
            flags.set(key, value, "--set");
        }
        let config = EdgeConfig::load(Some("/dev/null".as_ref()), &flags, &|_| None).expect("load");
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("edge.toml");
        std::fs::write(&path, config.text()).expect("write");
        let again = EdgeConfig::load(Some(&path), &Overrides::default(), &|_| None);
        assert_eq!(again.expect("load"), config, "{}", config.text());
        assert_eq!(config.text().lines().count(), 6, "{}", config.text());
    }
}
