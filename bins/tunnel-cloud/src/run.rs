//! From the configuration to a running replica, and to its end.
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use proto_core::Config;
use proto_core::cloud::CloudConfig as Limits;
use proto_core::config::{LinkConfig, StreamConfig};
use proto_core::connect;
use runtime_tokio::cloud::{
    self, ConnectListener, Drain, PeersSettings, Running, Settings, TlsMode,
};
use runtime_tokio::metrics::Metrics;
use runtime_tokio::registry::Registry;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tunnel_common::config::{
    self, Auth, CloudConfig, ConfigError, HostPort, RegistryKind, memory_bytes,
};
use tunnel_common::exit::Exit;
use tunnel_common::ready::Notify;

use crate::directory::Users;
use crate::files::Files;
use crate::judge::{self, Judge};
use crate::kubernetes::Kubernetes;
use crate::registry;

/// How long streams and links may take to end after SIGTERM.
const PATIENCE: Duration = Duration::from_secs(5);

/// Why there is no replica.
pub(crate) enum Error {
    Config(ConfigError),
    Failed(io::Error),
}

impl From<ConfigError> for Error {
    fn from(error: ConfigError) -> Error {
        Error::Config(error)
    }
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Error {
        Error::Failed(error)
    }
}

pub(crate) fn run(
    config: CloudConfig,
    env: &dyn Fn(&str) -> Option<String>,
) -> Result<Exit, Error> {
    let notify = Notify::from_env(env)?;
    let metrics = Arc::new(Metrics::new("cloud"));
    let files = Files::load(&config, &metrics)?;
    let name = env("POD_NAME")
        .or_else(|| env("HOSTNAME"))
        .filter(|name| !name.is_empty());
    let kubernetes = Kubernetes::load(&config, &metrics)?;
    let name = name.unwrap_or_else(|| "tunnel-cloud".to_owned());
    // Listeners and handshakes, and what is asked of Kubernetes; what moves bytes has threads of its own.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let kind = registry::Kind {
        config: &config,
        name: &name,
        kubernetes: kubernetes.as_ref().map(|kubernetes| &kubernetes.client),
        runtime: runtime.handle(),
        metrics: &metrics,
    };
    let registry = kind.start()?;
    let settings = settings(
        &config,
        &files,
        name,
        registry.clone(),
        kubernetes.as_ref(),
        metrics,
    );
    let served = runtime.block_on(serve(settings, &*registry, &notify));
    drop(kubernetes);
    served
}

async fn serve(
    settings: Settings,
    registry: &dyn Registry,
    notify: &Notify,
) -> Result<Exit, Error> {
    let mut ends = Ends::catch()?;
    let running = cloud::start(settings).await?;
    notify.ready(&status(&running));
    tracing::info!(
        addresses = status(&running),
        version = env!("CARGO_PKG_VERSION"),
        "tunnel-cloud is ready"
    );
    ends.next().await;
    notify.stopping();
    tracing::info!("tunnel-cloud is leaving");
    tokio::select! {
        () = running.drain() => {}
        number = ends.next() => {
            tracing::info!("tunnel-cloud ends at once");
            return Ok(Exit::Signal(number));
        }
    }
    tracing::info!("tunnel-cloud is stopping");
    let end = async {
        running.shut_down(PATIENCE).await;
        registry.leave().await;
    };
    tokio::select! {
        () = end => Ok(Exit::Done),
        number = ends.next() => Ok(Exit::Signal(number)),
    }
}

/// The signals that end a process.
struct Ends {
    terminate: Signal,
    interrupt: Signal,
}

impl Ends {
    fn catch() -> io::Result<Ends> {
        Ok(Ends {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// The next one's number.
    async fn next(&mut self) -> u8 {
        tokio::select! {
            _ = self.terminate.recv() => 15,
            _ = self.interrupt.recv() => 2,
        }
    }
}

fn status(running: &Running) -> String {
    let connect: Vec<String> = running.connect.iter().map(SocketAddr::to_string).collect();
    let mut status = format!("grpc={} connect={}", running.grpc, connect.join(","));
    if let Some(admin) = running.admin {
        status.push_str(&format!(" admin={admin}"));
    }
    status
}

/// Who knows the tokens that are in no file, if anybody does.
fn judge(config: &CloudConfig, api: &Kubernetes, metrics: &Arc<Metrics>) -> Option<Judge> {
    let kubernetes = &config.kubernetes;
    let reviews = kubernetes.token_review || kubernetes.subject_access_review;
    reviews.then(|| {
        Judge::new(judge::Settings {
            client: api.client.clone(),
            edges: kubernetes.token_review,
            operators: kubernetes.subject_access_review,
            audience: kubernetes.audience.clone(),
            cache: kubernetes.cache,
            service_account: kubernetes.service_account.clone(),
            namespace: config.registry.namespace.clone(),
            ports: kubernetes.ports.clone(),
            reviews_per_second_max: config.grpc.links_per_second_max,
            metrics: metrics.clone(),
        })
    })
}

fn peers(config: &CloudConfig, files: &Files) -> PeersSettings {
    let peers = &config.peers;
    PeersSettings {
        addresses: peers.addresses.iter().map(HostPort::to_string).collect(),
        dns: peers
            .dns(config.grpc.listen.port())
            .ok()
            .flatten()
            .map(|name| name.to_string()),
        tls: files.peers_tls.clone(),
        token: files.peers_token.clone(),
    }
}

fn settings(
    config: &CloudConfig,
    files: &Files,
    name: String,
    registry: Arc<dyn Registry>,
    kubernetes: Option<&Kubernetes>,
    metrics: Arc<Metrics>,
) -> Settings {
    let limits = &config.limits;
    Settings {
        limits: Config {
            streams: streams(config),
            links: links(config),
        },
        cloud: Limits {
            links_max: config.grpc.links_max as usize,
            links_per_second_max: config.grpc.links_per_second_max,
            connects_max: limits.connects_max as usize,
            node_wait: limits.node_wait,
            registry: config.registry.kind != RegistryKind::Memory,
            connect: connect::Limits {
                header_bytes_max: limits.header_bytes_max as usize,
                header_timeout: limits.header_timeout,
            },
        },
        buffers_bytes_max: config
            .streams
            .buffers_bytes_max
            .resolve(memory_bytes(), CloudConfig::BUFFERS_BYTES_CAP),
        grpc: config.grpc.listen,
        connect: config.connect.iter().map(listener).collect(),
        admin: config.admin.listen,
        grpc_tls: files.grpc_tls.clone(),
        connect_tls: files.connect_tls.clone(),
        tokens: files.tokens.clone(),
        directory: Arc::new(Users::new(
            files.logins.clone(),
            kubernetes.and_then(|api| judge(config, api, &metrics)),
        )),
        users_changed: files.users_changed.clone(),
        peers: peers(config, files),
        registry,
        drain: Drain {
            jitter: config.drain.jitter,
            max: config.drain.max,
        },
        lanes: std::thread::available_parallelism().map_or(1, usize::from),
        name,
        metrics,
    }
}

fn listener(connect: &config::Connect) -> ConnectListener {
    ConnectListener {
        listen: connect.listen,
        tls: match connect.tls() {
            config::TlsMode::Off => TlsMode::Off,
            config::TlsMode::Optional => TlsMode::Optional,
            config::TlsMode::Required => TlsMode::Required,
        },
        users_only: connect.auth() == Auth::Users,
        resume: connect.resume,
    }
}

fn streams(config: &CloudConfig) -> StreamConfig {
    let streams = &config.streams;
    StreamConfig {
        window_bytes_min: streams.window_bytes_min.into(),
        window_bytes_max: streams.window_bytes_max.into(),
        resume: streams.resume,
        idle_timeout: streams.idle_timeout,
        grace: streams.grace,
        answer_timeout: config.limits.answer_timeout,
        node_wait: config.limits.node_wait,
        relay_bytes_max: streams.relay_bytes_max.into(),
        base_buffer_bytes_max: streams.base_buffer_bytes_max.into(),
        base_stuck_timeout: streams.base_stuck_timeout,
        ..StreamConfig::default()
    }
}

fn links(config: &CloudConfig) -> LinkConfig {
    let (limits, heartbeat) = (&config.limits, &config.heartbeat);
    LinkConfig {
        heartbeat_interval: heartbeat.interval,
        heartbeat_probe: heartbeat.probe,
        heartbeat_missed: heartbeat.missed,
        heartbeat_jitter: heartbeat.jitter,
        message_bytes_max: limits.message_bytes_max as usize,
        streams_per_link_max: limits.streams_per_link_max as usize,
        pending_per_node_max: limits.pending_per_node_max as usize,
        ..LinkConfig::default()
    }
}
