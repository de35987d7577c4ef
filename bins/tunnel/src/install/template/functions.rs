//! What templates may call: Go's own and Helm's functions, those that the chart uses.

use serde_json::Value;
use sha2::{Digest, Sha256};

use super::is_true;

pub(super) fn call(name: &str, arguments: &[Value]) -> Result<Value, String> {
    match (name, arguments) {
        ("quote", [value]) => Ok(json(&Value::String(text(value)?)).into()),
        ("toJson", [value]) => Ok(json(value).into()),
        ("toYaml", [value]) => Ok(yaml(value).into()),
        ("indent", [Value::Number(by), Value::String(text)]) => Ok(indented(by, text)?.into()),
        ("nindent", [Value::Number(by), Value::String(text)]) => {
            Ok(format!("\n{}", indented(by, text)?).into())
        }
        ("default", [other, value]) => Ok(if is_true(value) { value } else { other }.clone()),
        ("required", [Value::String(_), value]) if is_true(value) => Ok(value.clone()),
        ("required" | "fail", [Value::String(what), ..]) => Err(what.clone()),
        ("sha256sum", [Value::String(text)]) => {
            let sum = Sha256::digest(text.as_bytes());
            let hex: String = sum.iter().map(|byte| format!("{byte:02x}")).collect();
            Ok(hex.into())
        }
        ("add", numbers) => {
            let mut sum = 0i64;
            for number in numbers {
                let number = number.as_i64();
                let number = number.ok_or_else(|| format!("add takes numbers: {numbers:?}"))?;
                sum = sum.saturating_add(number);
            }
            Ok(sum.into())
        }
        ("eq", [one, others @ ..]) => Ok(others.contains(one).into()),
        ("ne", [one, other]) => Ok((one != other).into()),
        ("not", [value]) => Ok((!is_true(value)).into()),
        ("and", [.., last]) => Ok(arguments
            .iter()
            .find(|value| !is_true(value))
            .unwrap_or(last)
            .clone()),
        ("or", [.., last]) => Ok(arguments
            .iter()
            .find(|value| is_true(value))
            .unwrap_or(last)
            .clone()),
        ("list", items) => Ok(Value::Array(items.to_vec())),
        ("concat", lists) => {
            let mut all = Vec::new();
            for list in lists {
                let list = list.as_array();
                all.extend(list.ok_or("concat takes lists")?.iter().cloned());
            }
            Ok(Value::Array(all))
        }
        ("printf", [Value::String(format), values @ ..]) => {
            let mut pieces = format.split("%s");
            let mut out = pieces.next().unwrap_or_default().to_owned();
            for (piece, value) in pieces.zip(values) {
                out.push_str(&text(value)?);
                out.push_str(piece);
            }
            Ok(out.into())
        }
        _ => Err(format!(
            "{name} is no function here, or takes other values than {}",
            json(&Value::Array(arguments.to_vec()))
        )),
    }
}

/// How a value is printed.
pub(super) fn text(value: &Value) -> Result<String, String> {
    match value {
        Value::Null => Ok(String::new()),
        Value::Bool(is) => Ok(is.to_string()),
        Value::Number(number) => Ok(number.to_string()),
        Value::String(text) => Ok(text.clone()),
        Value::Array(_) | Value::Object(_) => Err(format!("{} is no text", json(value))),
    }
}

fn json(value: &Value) -> String {
    value.to_string()
}

/// The outer level in lines, what is in it in JSON, which is YAML too.
fn yaml(value: &Value) -> String {
    let lines: Vec<String> = match value {
        Value::Object(map) if !map.is_empty() => map
            .iter()
            .map(|(key, value)| format!("{}: {}", json(&key.as_str().into()), json(value)))
            .collect(),
        Value::Array(list) if !list.is_empty() => list
            .iter()
            .map(|value| format!("- {}", json(value)))
            .collect(),
        other => return json(other),
    };
    lines.join("\n")
}

fn indented(by: &serde_json::Number, text: &str) -> Result<String, String> {
    let by = by.as_u64().filter(|by| *by < 100);
    let by = usize::try_from(by.ok_or("too far to the right")?).map_err(|e| e.to_string())?;
    let blanks = " ".repeat(by);
    Ok(format!(
        "{blanks}{}",
        text.replace('\n', &format!("\n{blanks}"))
    ))
}
