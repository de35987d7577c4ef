//! `cloud.toml`.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::kubernetes::Kubernetes;
use super::load::{Loaded, load};
use super::values::{HostPort, duration, listen, listen_or_none};
use super::{ConfigError, Heartbeat, Log, Mistake, Overrides, Places, Streams};

/// Everything that tunnel-cloud can be told.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CloudConfig {
    /// The listener for edges.
    pub grpc: Grpc,
    /// The listeners for CONNECT.
    pub connect: Vec<Connect>,
    /// Limits on what is admitted.
    pub limits: Limits,
    /// Edges' tokens.
    pub tokens: TokensFile,
    /// Users of the CONNECT port.
    pub users: UsersFile,
    /// Streams and their buffers.
    pub streams: Streams,
    /// When a silent link is dead.
    pub heartbeat: Heartbeat,
    /// Which replica holds a node.
    pub registry: Registry,
    /// The other replicas.
    pub peers: Peers,
    /// Leaving in order.
    pub drain: Drain,
    /// The cluster's API server, and as a judge of credentials.
    pub kubernetes: Kubernetes,
    /// The listener for operators.
    pub admin: CloudAdmin,
    /// Logs and audit records.
    pub log: Log,
}

/// The listener for edges.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Grpc {
    /// Its address.
    #[serde(with = "listen")]
    pub listen: SocketAddr,
    /// Certificate chain, PEM; CONNECT with TLS uses it too.
    pub cert: PathBuf,
    /// Its private key, PEM.
    pub key: PathBuf,
    /// The CA of client certificates, PEM; empty: none are asked for.
    pub client_ca: PathBuf,
    /// Links at once.
    pub links_max: u32,
    /// New links a second.
    pub links_per_second_max: u32,
}

impl Default for Grpc {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([0, 0, 0, 0], 9000)),
            cert: "/etc/tunnel/tls/tls.crt".into(),
            key: "/etc/tunnel/tls/tls.key".into(),
            client_ca: PathBuf::new(),
            links_max: 20_000,
            links_per_second_max: 200,
        }
    }
}

/// Whether a CONNECT listener speaks TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TlsMode {
    /// Never.
    Off,
    /// If the client's first byte says so.
    Optional,
    /// Always.
    Required,
}

/// Who may use a CONNECT listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Auth {
    /// Those in the users file.
    Users,
    /// Whoever reaches it.
    None,
}

/// A listener for CONNECT.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Connect {
    /// Its address.
    #[serde(with = "listen")]
    pub listen: SocketAddr,
    /// Whether it speaks TLS; never `None` after loading.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<TlsMode>,
    /// Who may use it; never `None` after loading.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub auth: Option<Auth>,
    /// Whether the streams that are asked for here may outlive their links.
    pub resume: bool,
}

impl Default for Connect {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 2222)),
            tls: None,
            auth: None,
            resume: true,
        }
    }
}

impl Connect {
    /// Whether it speaks TLS: optionally on loopback, else always, unless the file says otherwise.
    pub fn tls(&self) -> TlsMode {
        self.tls.unwrap_or(if self.listen.ip().is_loopback() {
            TlsMode::Optional
        } else {
            TlsMode::Required
        })
    }

    /// Who may use it: users, unless [`CloudConfig::load`] found loopback without a users file, or the file says otherwise.
    pub fn auth(&self) -> Auth {
        self.auth.unwrap_or(Auth::Users)
    }
}

/// Limits on what is admitted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// A CONNECT request's header.
    pub header_bytes_max: u32,
    /// How long it may take to arrive.
    #[serde(with = "duration")]
    pub header_timeout: Duration,
    /// How long the edge may take to answer.
    #[serde(with = "duration")]
    pub answer_timeout: Duration,
    /// How long a CONNECT waits for a node that was just here.
    #[serde(with = "duration")]
    pub node_wait: Duration,
    /// One message of a link.
    pub message_bytes_max: u32,
    /// Streams of one link.
    pub streams_per_link_max: u32,
    /// CONNECTs of one node that wait for an answer.
    pub pending_per_node_max: u32,
    /// Connections of all CONNECT listeners.
    pub connects_max: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            header_bytes_max: 8_192,
            header_timeout: Duration::from_secs(10),
            answer_timeout: Duration::from_secs(5),
            node_wait: Duration::from_secs(3),
            message_bytes_max: 262_144,
            streams_per_link_max: 1_024,
            pending_per_node_max: 128,
            connects_max: 10_000,
        }
    }
}

/// Edges' tokens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TokensFile {
    /// `node:token` a line; empty: edges need certificates.
    pub file: PathBuf,
    /// Whether a line `default:token` lets any node in.
    pub allow_default: bool,
}

impl Default for TokensFile {
    fn default() -> Self {
        Self {
            file: "/etc/tunnel/tokens".into(),
            allow_default: false,
        }
    }
}

/// Users of the CONNECT port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct UsersFile {
    /// `[[user]]` tables; empty: none.
    pub file: PathBuf,
}

impl Default for UsersFile {
    fn default() -> Self {
        Self {
            file: "/etc/tunnel/users.toml".into(),
        }
    }
}

/// Which kind of registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RegistryKind {
    /// One replica's own memory.
    Memory,
    /// EndpointSlices, by way of the API server.
    EndpointSlice,
    /// A hosts file or ConfigMap.
    Hosts,
}

/// Which replica holds a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Registry {
    /// Which kind; for a Pod that knows its address and has a token `endpointslice`, filled in at load.
    pub kind: RegistryKind,
    /// This replica's own address.
    pub address: String,
    /// `hosts`: the file; empty: the ConfigMap.
    pub hosts_file: PathBuf,
    /// `hosts` without a file: the ConfigMap.
    pub configmap: String,
    /// `endpointslice`: the headless Service.
    pub service: String,
    /// The namespace of these.
    pub namespace: String,
    /// Who answers look-ups; empty: the system's resolver.
    pub dns_server: String,
    /// The cluster's DNS zone.
    pub dns_zone: String,
}

impl Default for Registry {
    fn default() -> Self {
        Self {
            kind: RegistryKind::Memory,
            address: "$POD_IP".to_owned(),
            hosts_file: PathBuf::new(),
            configmap: "tunnel-nodes".to_owned(),
            service: "tunnel-nodes".to_owned(),
            namespace: "$POD_NAMESPACE".to_owned(),
            dns_server: String::new(),
            dns_zone: "cluster.local".to_owned(),
        }
    }
}

/// The other replicas.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Peers {
    /// Their gRPC addresses.
    pub addresses: Vec<HostPort>,
    /// A DNS name whose addresses they are.
    pub dns: String,
    /// The CA of their certificates.
    pub ca: PathBuf,
    /// This replica's certificate towards them.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// The cluster's peer token, instead of certificates.
    pub token_file: PathBuf,
}

/// Leaving in order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Drain {
    /// Links are asked to leave spread over so long.
    #[serde(with = "duration")]
    pub jitter: Duration,
    /// What is still here after so long ends.
    #[serde(with = "duration")]
    pub max: Duration,
}

impl Default for Drain {
    fn default() -> Self {
        Self {
            jitter: Duration::from_secs(5),
            max: Duration::from_secs(300),
        }
    }
}

/// The listener for operators.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CloudAdmin {
    /// Its address; `None`: there is none.
    #[serde(with = "listen_or_none")]
    pub listen: Option<SocketAddr>,
}

impl Default for CloudAdmin {
    fn default() -> Self {
        Self {
            listen: Some(SocketAddr::from(([127, 0, 0, 1], 6000))),
        }
    }
}

impl Default for CloudConfig {
    fn default() -> Self {
        Self {
            grpc: Grpc::default(),
            connect: vec![Connect::default()],
            limits: Limits::default(),
            tokens: TokensFile::default(),
            users: UsersFile::default(),
            streams: Streams::default(),
            heartbeat: Heartbeat::default(),
            registry: Registry::default(),
            peers: Peers::default(),
            drain: Drain::default(),
            kubernetes: Kubernetes::default(),
            admin: CloudAdmin::default(),
            log: Log::default(),
        }
    }
}

impl CloudConfig {
    /// The file that is read when none is named.
    pub const FILE: &'static str = "/etc/tunnel/cloud.toml";
    /// What `streams.buffers_bytes_max = "auto"` comes to at most.
    pub const BUFFERS_BYTES_CAP: u64 = 1 << 30;

    /// Reads `path`, else [`Self::FILE`] if there is one, puts environment and flags over it and checks everything.
    pub fn load(
        path: Option<&Path>,
        overrides: &Overrides,
        env: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Self, ConfigError> {
        let mut layers = Overrides::default();
        if let Some(level) = env("RUST_LOG").filter(|value| !value.is_empty()) {
            layers.set_from_variable("log.level", level, "RUST_LOG");
        }
        let settings: Vec<_> = layers
            .settings()
            .iter()
            .chain(overrides.settings())
            .cloned()
            .collect();
        let Loaded { mut value, places } =
            load::<Self>(path, Some(Path::new(Self::FILE)), &settings, env)?;
        value.resolve(&places, env);
        match value.check(&places) {
            found if found.is_empty() => Ok(value),
            found => Err(ConfigError::new(found)),
        }
    }

    /// Fills in what depends on the machine.
    fn resolve(&mut self, places: &Places, env: &dyn Fn(&str) -> Option<String>) {
        for (key, field, name) in [
            ("registry.address", &mut self.registry.address, "POD_IP"),
            (
                "registry.namespace",
                &mut self.registry.namespace,
                "POD_NAMESPACE",
            ),
        ] {
            if !places.given(key) {
                *field = env(name).unwrap_or_default();
            }
        }
        self.kubernetes.resolve(places, env);
        let is_replica = self.registry.address.parse::<IpAddr>().is_ok();
        // A Pod without a token is to ask nothing.
        let may_ask = Kubernetes::is_in_cluster(env) && self.kubernetes.token_file.exists();
        if !places.given("registry.kind") && is_replica && may_ask {
            self.registry.kind = RegistryKind::EndpointSlice;
        }
        let users_exist = !self.users.file.as_os_str().is_empty() && self.users.file.exists();
        for connect in &mut self.connect {
            connect.tls = Some(connect.tls());
            if connect.auth.is_none()
                && connect.listen.ip().is_loopback()
                && !users_exist
                && !places.given("users.file")
                && !self.kubernetes.subject_access_review
            {
                connect.auth = Some(Auth::None);
            }
            connect.auth = Some(connect.auth());
        }
    }

    fn check(&self, places: &Places) -> Vec<Mistake> {
        let mut found = Vec::new();
        for (key, path) in [("grpc.cert", &self.grpc.cert), ("grpc.key", &self.grpc.key)] {
            if path.as_os_str().is_empty() {
                found.push(places.mistake(
                    key,
                    "edges and CONNECT with TLS need it: expected the path of a PEM file",
                ));
            }
        }
        if self.tokens.file.as_os_str().is_empty()
            && self.grpc.client_ca.as_os_str().is_empty()
            && !self.kubernetes.token_review
        {
            found.push(places.mistake(
                "tokens.file",
                "no edge could log in: expected a tokens file, grpc.client_ca for certificates, or kubernetes.token_review",
            ));
        }
        self.check_connect(places, &mut found);
        self.check_limits(places, &mut found);
        self.check_cluster(places, &mut found);
        self.check_kubernetes(places, &mut found);
        found.extend(self.streams.check(places));
        found.extend(self.heartbeat.check(places));
        found.extend(self.log.check(places));
        found
    }

    fn check_connect(&self, places: &Places, found: &mut Vec<Mistake>) {
        let users_exist = !self.users.file.as_os_str().is_empty() && self.users.file.exists();
        let needs_users = self
            .connect
            .iter()
            .position(|connect| connect.auth() == Auth::Users);
        if let Some(index) = needs_users
            && !users_exist
            && !self.kubernetes.subject_access_review
        {
            let key = if places.given("users.file") {
                "users.file".to_owned()
            } else {
                format!("connect.{index}.auth")
            };
            let listen = self
                .connect
                .get(index)
                .map(|connect| connect.listen.to_string())
                .unwrap_or_default();
            found.push(places.mistake(
                &key,
                format_args!(
                    "the listener on {listen} asks for users, but \"{}\" isn't there: write that file (docs/configuration.md, tunnel-cloud hash-password), or say auth = \"none\"",
                    self.users.file.display()
                ),
            ));
        }
        for (index, connect) in self.connect.iter().enumerate() {
            let same =
                |other: &Connect| other.listen == connect.listen && connect.listen.port() != 0;
            if self.connect.iter().take(index).any(same) {
                found.push(places.mistake(
                    &format!("connect.{index}.listen"),
                    format_args!("{} is listened on twice", connect.listen),
                ));
            }
        }
    }

    fn check_limits(&self, places: &Places, found: &mut Vec<Mistake>) {
        let limits = &self.limits;
        for (key, value, least, most) in [
            (
                "limits.header_bytes_max",
                limits.header_bytes_max,
                256,
                1 << 20,
            ),
            (
                "limits.message_bytes_max",
                limits.message_bytes_max,
                16_384,
                4 << 20,
            ),
            (
                "limits.streams_per_link_max",
                limits.streams_per_link_max,
                1,
                1 << 20,
            ),
            (
                "limits.pending_per_node_max",
                limits.pending_per_node_max,
                1,
                1 << 20,
            ),
            ("limits.connects_max", limits.connects_max, 1, 1 << 24),
            ("grpc.links_max", self.grpc.links_max, 1, 1 << 24),
            (
                "grpc.links_per_second_max",
                self.grpc.links_per_second_max,
                1,
                1 << 24,
            ),
        ] {
            if !(least..=most).contains(&value) {
                found.push(places.mistake(
                    key,
                    format_args!("{value} is out of range: expected {least} to {most}"),
                ));
            }
        }
        for (key, value) in [
            ("limits.header_timeout", limits.header_timeout),
            ("limits.answer_timeout", limits.answer_timeout),
        ] {
            if value.is_zero() {
                found.push(places.mistake(key, "expected more than 0"));
            }
        }
    }
}
