//! Logs to standard error, as text or JSON; audit records wherever the configuration says.

use std::io::{IsTerminal, Write};
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use serde_json::{Map, Value};
use tracing::Level;
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{filter::Targets, fmt};

use crate::config::{Audit, ConfigError, Log, LogFormat};

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
    let text = (log.format == LogFormat::Text).then(|| {
        fmt::layer()
            .with_writer(std::io::stderr)
            .with_ansi(!is_plain && std::io::stderr().is_terminal())
    });
    let json = (log.format == LogFormat::Json).then(|| {
        fmt::layer()
            .with_writer(std::io::stderr)
            .json()
            .flatten_event(true)
            .with_ansi(false)
    });
    // Only layers that are there: for an absent one the registry would make every span of every library.
    let mut layers = Vec::new();
    if let Some(lines) = text.map(Layer::boxed).or(json.map(Layer::boxed)) {
        layers.push(lines.with_filter(levels).boxed());
    }
    if let Some(audit) = AuditLayer::open(&log.audit)? {
        let only = Targets::new().with_target(AUDIT, Level::INFO);
        layers.push(audit.with_filter(only).boxed());
    }
    tracing_subscriber::registry()
        .with(layers)
        .try_init()
        .map_err(|error| refuse(&error))
}

/// Writes each event as one JSON object a line.
struct AuditLayer {
    to: Mutex<Box<dyn Write + Send>>,
}

impl AuditLayer {
    fn open(audit: &Audit) -> Result<Option<Self>, ConfigError> {
        let to: Box<dyn Write + Send> = match audit {
            Audit::Off => return Ok(None),
            Audit::Stdout => Box::new(std::io::stdout()),
            Audit::File(path) => Box::new(append(path).map_err(|error| {
                ConfigError::of_file(
                    path,
                    format_args!("can't be written to (log.audit): {error}"),
                )
            })?),
        };
        Ok(Some(Self { to: Mutex::new(to) }))
    }
}

fn append(path: &Path) -> std::io::Result<std::fs::File> {
    use std::os::unix::fs::OpenOptionsExt;
    std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(path)
}

impl<S: Subscriber> Layer<S> for AuditLayer {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut fields = Fields(Map::new());
        let now = humantime::format_rfc3339_millis(SystemTime::now()).to_string();
        fields.0.insert("time".to_owned(), Value::String(now));
        event.record(&mut fields);
        let mut line = Value::Object(fields.0).to_string();
        line.push('\n');
        let mut to = self.to.lock().unwrap_or_else(PoisonError::into_inner);
        // In one piece, so that a line is whole. What can't be written (a full disk, a closed pipe) must not end the tunnel.
        let _ = to.write_all(line.as_bytes()).and_then(|()| to.flush());
    }
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
