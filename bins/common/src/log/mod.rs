//! Logs to standard error, as text or JSON; audit records wherever the configuration says. Whatever becomes of either, the tunnel
//! goes on: what can't be written is counted, and said once it can.

mod audit;
mod patient;

use std::io::IsTerminal;
use std::path::Path;
use std::sync::Arc;

use serde_json::{Map, Value};
use tracing::Level;
use tracing::field::{Field, Visit};
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{filter::Targets, fmt};

use crate::config::{ConfigError, Log, LogFormat};
use audit::AuditLayer;
use patient::Lines;

/// The target of audit records: `tracing::info!(target: "audit", topic, …)`. A log's level doesn't hold for them.
pub const AUDIT: &str = "audit";

/// Makes tracing's events go where `log` says, for the rest of the process.
pub fn init(log: &Log, env: &dyn Fn(&str) -> Option<String>) -> Result<(), ConfigError> {
    let refuse = |text: &dyn std::fmt::Display| ConfigError::of_file(Path::new("log"), text);
    // The transport's own words are for those who ask for them by name: "debug,h2=debug".
    let mut levels = match log.level.contains("debug") || log.level.contains("trace") {
        true => format!("h2=info,rustls=info,{}", log.level),
        false => log.level.clone(),
    };
    // Audit records have their own place. Said by directives and not by a function, as these are asked once a call site:
    // a function would be asked for each of h2's spans, several a message.
    levels.push_str(",audit=off");
    let levels: Targets = levels.parse().map_err(|error| refuse(&error))?;
    let is_plain = env("NO_COLOR").is_some_and(|value| !value.is_empty());
    let (lines, format) = (Arc::default(), log.format);
    let lines = move || Lines::new(std::io::stderr(), Arc::clone(&lines), format);
    let text = (log.format == LogFormat::Text).then(|| {
        fmt::layer()
            .with_writer(lines.clone())
            .with_ansi(!is_plain && std::io::stderr().is_terminal())
    });
    let json = (log.format == LogFormat::Json).then(|| {
        fmt::layer()
            .with_writer(lines.clone())
            .json()
            .flatten_event(true)
            .with_ansi(false)
    });
    // Only layers that are there: for an absent one the registry would make every span of every library.
    let mut layers = Vec::new();
    if let Some(lines) = text.map(Layer::boxed).or(json.map(Layer::boxed)) {
        layers.push(lines.with_filter(levels).boxed());
    }
    let (audit, trouble) = AuditLayer::open(&log.audit)?;
    if let Some(audit) = audit {
        let only = Targets::new().with_target(AUDIT, Level::INFO);
        layers.push(audit.with_filter(only).boxed());
    }
    tracing_subscriber::registry()
        .with(layers)
        .try_init()
        .map_err(|error| refuse(&error))?;
    if let Some(error) = trouble {
        audit::warn(&error);
    }
    Ok(())
}

struct Fields(Map<String, Value>);

impl Fields {
    fn put(&mut self, field: &Field, value: Value) {
        self.0.insert(field.name().to_owned(), value);
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        self.put(field, Value::String(format!("{value:?}")));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, Value::String(value.to_owned()));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value.into());
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Audit;

    #[test]
    fn an_audit_record_is_one_object_a_line_whatever_the_level() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("audit.log");
        let log = Log {
            level: "error".to_owned(),
            format: LogFormat::Json,
            audit: Audit::File(path.clone()),
        };
        init(&log, &|_| None).expect("the only one in this process");
        tracing::info!(target: "audit", topic = "t\n1", bytes_to_edge = 7u64, node = %"node-A");
        tracing::info!("not an audit record");
        let text = std::fs::read_to_string(&path).expect("file");
        assert_eq!(text.lines().count(), 1, "{text}");
        let record: Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(record["topic"], "t\n1");
        assert_eq!(record["bytes_to_edge"], 7);
        assert_eq!(record["node"], "node-A");
        assert!(record["time"].is_string());
        let nowhere = Log {
            audit: Audit::File("/nowhere/audit.log".into()),
            ..log
        };
        assert!(
            init(&nowhere, &|_| None)
                .expect_err("no folder")
                .to_string()
                .starts_with("/nowhere/audit.log: ")
        );
    }
}
