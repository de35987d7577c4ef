//! What both ends have in their files.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::values::{Size, duration};
use super::{Mistake, Places};

/// Streams and their buffers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Streams {
    /// Whether a stream outlives its link.
    pub resume: bool,
    /// How long a detached stream is kept.
    #[serde(with = "duration")]
    pub grace: Duration,
    /// A stream without a byte for so long is closed; zero is never.
    #[serde(with = "duration")]
    pub idle_timeout: Duration,
    /// A stream's first window in each direction.
    pub window_bytes_min: u32,
    /// What a window may grow to.
    pub window_bytes_max: u32,
    /// All buffers of the process.
    pub buffers_bytes_max: Size,
    /// A relay's room for one stream.
    pub relay_bytes_max: u32,
    /// A base stream's receive buffer.
    pub base_buffer_bytes_max: u32,
    /// How long a full base buffer may hold up its link.
    #[serde(with = "duration")]
    pub base_stuck_timeout: Duration,
}

impl Default for Streams {
    fn default() -> Self {
        Self {
            resume: true,
            grace: Duration::from_secs(300),
            idle_timeout: Duration::ZERO,
            window_bytes_min: 65_536,
            window_bytes_max: 16_777_216,
            buffers_bytes_max: Size::Auto,
            relay_bytes_max: 16_777_216,
            base_buffer_bytes_max: 1_048_576,
            base_stuck_timeout: Duration::from_secs(10),
        }
    }
}

/// The least window there is: what early data may take.
const WINDOW_BYTES_LEAST: u32 = 4_096;

impl Streams {
    pub(super) fn check(&self, places: &Places) -> Vec<Mistake> {
        let mut found = Vec::new();
        for (key, bytes) in [
            ("streams.window_bytes_min", self.window_bytes_min),
            ("streams.relay_bytes_max", self.relay_bytes_max),
            ("streams.base_buffer_bytes_max", self.base_buffer_bytes_max),
        ] {
            if bytes < WINDOW_BYTES_LEAST {
                found.push(places.mistake(
                    key,
                    format_args!("{bytes} is too little: expected at least {WINDOW_BYTES_LEAST}"),
                ));
            }
        }
        if self.window_bytes_max < self.window_bytes_min {
            found.push(places.mistake(
                "streams.window_bytes_max",
                format_args!(
                    "{} is below window_bytes_min ({})",
                    self.window_bytes_max, self.window_bytes_min
                ),
            ));
        }
        if let Size::Bytes(bytes) = self.buffers_bytes_max
            && bytes < 2 * u64::from(self.window_bytes_min)
        {
            found.push(places.mistake(
                "streams.buffers_bytes_max",
                format_args!("{bytes} holds not even one stream: expected \"auto\" or at least twice window_bytes_min"),
            ));
        }
        if self.base_stuck_timeout.is_zero() {
            found.push(places.mistake("streams.base_stuck_timeout", "expected more than 0"));
        }
        found
    }
}

/// When a silent link is dead.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Heartbeat {
    /// Silence until the first probe.
    #[serde(with = "duration")]
    pub interval: Duration,
    /// Time between probes.
    #[serde(with = "duration")]
    pub probe: Duration,
    /// Unanswered probes until the link is dead.
    pub missed: u32,
    /// The share of the interval that is drawn at random, downwards.
    pub jitter: f64,
}

impl Default for Heartbeat {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(10),
            probe: Duration::from_millis(1_500),
            missed: 3,
            jitter: 0.1,
        }
    }
}

impl Heartbeat {
    pub(super) fn check(&self, places: &Places) -> Vec<Mistake> {
        let mut found = Vec::new();
        for (key, value) in [
            ("heartbeat.interval", self.interval),
            ("heartbeat.probe", self.probe),
        ] {
            if value < Duration::from_millis(10) {
                found.push(places.mistake(key, "expected at least 10ms"));
            }
        }
        if !(1..=100).contains(&self.missed) {
            found.push(places.mistake("heartbeat.missed", "expected 1 to 100"));
        }
        if !(0.0..=0.9).contains(&self.jitter) {
            found.push(places.mistake("heartbeat.jitter", "expected 0 to 0.9"));
        }
        found
    }
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// Where audit records go.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub enum Audit {
    /// Nowhere.
    Off,
    /// Standard output.
    #[default]
    Stdout,
    /// A file, appended to.
    File(PathBuf),
}

impl From<String> for Audit {
    fn from(text: String) -> Self {
        match text.as_str() {
            "off" | "" => Self::Off,
            "stdout" => Self::Stdout,
            _ => Self::File(text.into()),
        }
    }
}

impl From<Audit> for String {
    fn from(audit: Audit) -> Self {
        match audit {
            Audit::Off => "off".to_owned(),
            Audit::Stdout => "stdout".to_owned(),
            Audit::File(path) => path.display().to_string(),
        }
    }
}

/// Logs and audit records.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    /// A level, or directives as in `RUST_LOG`.
    pub level: String,
    /// How lines look.
    pub format: LogFormat,
    /// Where audit records go.
    pub audit: Audit,
}

impl Default for Log {
    fn default() -> Self {
        Self {
            level: "info".to_owned(),
            format: LogFormat::Text,
            audit: Audit::Stdout,
        }
    }
}

impl Log {
    pub(super) fn check(&self, places: &Places) -> Vec<Mistake> {
        let mut found = Vec::new();
        if !is_filter(&self.level) {
            found.push(places.mistake(
                "log.level",
                format_args!(
                    "\"{}\" is no level: expected error, warn, info, debug, trace, or directives such as \"info,runtime_shared=debug\"",
                    self.level
                ),
            ));
        }
        if let Audit::File(path) = &self.audit
            && !path.is_absolute()
        {
            found.push(places.mistake(
                "log.audit",
                "expected off, stdout or the absolute path of a file",
            ));
        }
        found
    }
}

/// True for a level or directives. A lone word that is no level would count as a target's name; here it is a typing error.
fn is_filter(text: &str) -> bool {
    let is_known = |part: &str| {
        part.contains('=')
            || matches!(
                part.to_ascii_lowercase().as_str(),
                "off" | "error" | "warn" | "info" | "debug" | "trace"
            )
    };
    text.split(',').all(|part| is_known(part.trim()))
        && text.parse::<tracing_subscriber::filter::Targets>().is_ok()
}
