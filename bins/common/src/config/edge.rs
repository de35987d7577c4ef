//! `edge.toml`.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use proto_core::name::NodeName;
use proto_core::target::TargetsError;
use serde::{Deserialize, Serialize};

use super::load::{Loaded, load};
use super::values::{HostPort, Port, duration, listen_or_none};
use super::{ConfigError, Heartbeat, Log, Mistake, Overrides, Places, Streams};

/// Everything that tunnel-edge can be told.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EdgeConfig {
    /// Who this is.
    pub node: Node,
    /// Where to connect to.
    pub cloud: CloudAddress,
    /// How to come back.
    pub reconnect: Reconnect,
    /// What may be dialed.
    pub targets: Targets,
    /// Leaving in order.
    pub drain: EdgeDrain,
    /// Streams and their buffers.
    pub streams: Streams,
    /// When a silent link is dead.
    pub heartbeat: Heartbeat,
    /// The listener for operators.
    pub admin: EdgeAdmin,
    /// Logs and audit records.
    pub log: Log,
}

/// Who this is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Node {
    /// The node's name.
    pub name: String,
    /// The file that holds its token; empty: it shows a certificate.
    pub token_file: PathBuf,
}

impl Default for Node {
    fn default() -> Self {
        Self {
            name: "$NODE_NAME".to_owned(),
            token_file: "/etc/tunnel/token".into(),
        }
    }
}

/// What the cloud speaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Dialect {
    /// Version 1 if the cloud says so, else base.
    #[default]
    Auto,
    /// Base only, as SuperEdge's cloud.
    Base,
    /// Version 1 only.
    V1,
}

/// Where to connect to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CloudAddress {
    /// The cloud's gRPC addresses, tried in turn.
    pub addresses: Vec<HostPort>,
    /// The name that its certificate must have; empty: the address's host.
    pub server_name: String,
    /// The CA of its certificate, PEM.
    pub ca: PathBuf,
    /// This node's certificate, PEM; empty: it logs in by token.
    pub cert: PathBuf,
    /// Its private key, PEM.
    pub key: PathBuf,
    /// What the cloud speaks.
    pub dialect: Dialect,
}

impl Default for CloudAddress {
    fn default() -> Self {
        Self {
            addresses: Vec::new(),
            server_name: String::new(),
            ca: "/etc/tunnel/tls/ca.crt".into(),
            cert: PathBuf::new(),
            key: PathBuf::new(),
            dialect: Dialect::Auto,
        }
    }
}

/// How to come back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Reconnect {
    /// The first wait.
    #[serde(with = "duration")]
    pub min: Duration,
    /// The longest wait.
    #[serde(with = "duration")]
    pub max: Duration,
    /// A link that held for so long starts over at `min`.
    #[serde(with = "duration")]
    pub reset_after: Duration,
}

impl Default for Reconnect {
    fn default() -> Self {
        Self {
            min: Duration::from_millis(100),
            max: Duration::from_secs(10),
            reset_after: Duration::from_secs(10),
        }
    }
}

/// What may be dialed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Targets {
    /// The targets, `host:port` or `host:*`.
    pub allow: Vec<String>,
    /// Where a port's service really listens; what it names is allowed.
    pub map: BTreeMap<Port, String>,
    /// How long a dial may take.
    #[serde(with = "duration")]
    pub dial_timeout: Duration,
}

impl Default for Targets {
    fn default() -> Self {
        Self {
            allow: vec!["127.0.0.1:22".to_owned()],
            map: BTreeMap::new(),
            dial_timeout: Duration::from_millis(4_500),
        }
    }
}

impl Targets {
    /// These as the core takes them. After [`EdgeConfig::load`] every entry is fine.
    pub fn parse(&self) -> Result<proto_core::target::Targets, TargetsError> {
        proto_core::target::Targets::parse(
            &self.allow,
            self.map.iter().map(|(port, to)| (port.0, to)),
        )
    }

    fn check(&self, places: &Places) -> Vec<Mistake> {
        let mut found = Vec::new();
        for (index, entry) in self.allow.iter().enumerate() {
            if let Err(error) = proto_core::target::Targets::parse([entry], [(22, "127.0.0.1:22")])
            {
                found.push(places.mistake(
                    &format!("targets.allow.{index}"),
                    format_args!("{error}: expected \"HOST:PORT\" or \"HOST:*\""),
                ));
            }
        }
        for (port, to) in &self.map {
            if let Err(error) = proto_core::target::Target::parse(to) {
                found.push(places.mistake(
                    &format!("targets.map.{}", port.0),
                    format_args!("\"{to}\": {error}: expected \"HOST:PORT\""),
                ));
            }
        }
        if self.dial_timeout.is_zero() {
            found.push(places.mistake("targets.dial_timeout", "expected more than 0"));
        }
        found
    }
}

/// Leaving in order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EdgeDrain {
    /// What is still open after so long ends.
    #[serde(with = "duration")]
    pub max: Duration,
}

impl Default for EdgeDrain {
    fn default() -> Self {
        Self {
            max: Duration::from_secs(300),
        }
    }
}

/// The listener for operators.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EdgeAdmin {
    /// Its address; `None`: there is none.
    #[serde(with = "listen_or_none")]
    pub listen: Option<SocketAddr>,
    /// A Unix socket with the same pages; empty: there is none.
    pub socket: PathBuf,
}

impl Default for EdgeAdmin {
    fn default() -> Self {
        Self {
            listen: Some(SocketAddr::from(([127, 0, 0, 1], 6001))),
            socket: PathBuf::new(),
        }
    }
}

impl EdgeConfig {
    /// The file that is read when none is named.
    pub const FILE: &'static str = "/etc/tunnel/edge.toml";
    /// What `streams.buffers_bytes_max = "auto"` comes to at most.
    pub const BUFFERS_BYTES_CAP: u64 = 64 << 20;

    /// Reads `path`, else [`Self::FILE`] if there is one, puts environment and flags over it and checks everything.
    pub fn load(
        path: Option<&Path>,
        overrides: &Overrides,
        env: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Self, ConfigError> {
        let mut layers = Overrides::default();
        for (key, name) in [
            ("log.level", "RUST_LOG"),
            ("node.token_file", "TUNNEL_TOKEN_FILE"),
        ] {
            if let Some(value) = env(name).filter(|value| !value.is_empty()) {
                layers.set_from_variable(key, value, name);
            }
        }
        let settings: Vec<_> = layers
            .settings()
            .iter()
            .chain(overrides.settings())
            .cloned()
            .collect();
        let Loaded { mut value, places } =
            load::<Self>(path, Some(Path::new(Self::FILE)), &settings, env)?;
        if !places.given("node.name") {
            value.node.name = env("NODE_NAME")
                .filter(|name| !name.is_empty())
                .unwrap_or_else(host_name);
        }
        match value.check(&places) {
            found if found.is_empty() => Ok(value),
            found => Err(ConfigError::new(found)),
        }
    }

    fn check(&self, places: &Places) -> Vec<Mistake> {
        let mut found = Vec::new();
        if NodeName::parse(&self.node.name).is_err() {
            found.push(places.mistake(
                "node.name",
                format_args!(
                    "\"{}\" is no node's name: expected letters, digits, \"-\", \"_\" and \".\", 253 at most (set it, or NODE_NAME)",
                    self.node.name
                ),
            ));
        }
        let cloud = &self.cloud;
        if cloud.addresses.is_empty() {
            found.push(places.mistake("cloud.addresses", "nowhere to connect to: expected [\"HOST:PORT\"], the cloud's gRPC address (or --cloud HOST:PORT)"));
        }
        if cloud.ca.as_os_str().is_empty() {
            found.push(places.mistake("cloud.ca", "the cloud can't be told from an impostor without it: expected the path of its CA's PEM file"));
        }
        for (key, path, other) in [
            ("cloud.cert", &cloud.cert, &cloud.key),
            ("cloud.key", &cloud.key, &cloud.cert),
        ] {
            if path.as_os_str().is_empty() && !other.as_os_str().is_empty() {
                found.push(places.mistake(
                    key,
                    "a certificate needs its key and the reverse: expected both, or neither",
                ));
            }
        }
        if self.node.token_file.as_os_str().is_empty() && cloud.cert.as_os_str().is_empty() {
            found.push(places.mistake(
                "node.token_file",
                "expected a file with this node's token, or cloud.cert and cloud.key",
            ));
        }
        if self.reconnect.min.is_zero() {
            found.push(places.mistake("reconnect.min", "expected more than 0"));
        }
        if self.reconnect.max < self.reconnect.min {
            found.push(places.mistake("reconnect.max", "expected at least reconnect.min"));
        }
        found.extend(self.targets.check(places));
        found.extend(self.streams.check(places));
        found.extend(self.heartbeat.check(places));
        found.extend(self.log.check(places));
        found
    }
}

fn host_name() -> String {
    nix::unistd::gethostname()
        .ok()
        .and_then(|name| name.into_string().ok())
        .unwrap_or_default()
}
