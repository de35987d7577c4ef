//! From the configuration to a running edge, and to its end.
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use proto_core::Config;
use proto_core::config::{LinkConfig, StreamConfig};
use proto_core::edge::{DialectChoice, EdgeConfig as Core, Reconnect};
use runtime_tokio::edge::{self, Running, Settings};
use runtime_tokio::metrics::Metrics;
use runtime_tokio::uplink::CloudAddresses;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tunnel_common::config::{ConfigError, Dialect, EdgeConfig, memory_bytes};
use tunnel_common::exit::Exit;
use tunnel_common::ready::Notify;

use crate::args::Cli;
use crate::files::{self, Files};

/// How long streams and the links may take to end at a second signal.
const PATIENCE: Duration = Duration::from_secs(5);
/// Threads for names to be looked up on.
const LOOKUPS_MAX: usize = 4;

/// Why there is no edge.
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
    config: EdgeConfig,
    cli: &Cli,
    env: &dyn Fn(&str) -> Option<String>,
) -> Result<Exit, Error> {
    let notify = Notify::from_env(env)?;
    let metrics = Arc::new(Metrics::new("edge"));
    let given = cli.args.common.config.clone();
    let (file, overrides) = (given.clone(), cli.args.overrides());
    let reload = move || {
        EdgeConfig::load(given.as_deref(), &overrides, &|name| {
            std::env::var(name).ok()
        })
    };
    let default = || Some(PathBuf::from(EdgeConfig::FILE)).filter(|file| file.exists());
    let files = Files::load(&config, file.or_else(default), reload, &metrics)?;
    let settings = settings(&config, &files, metrics)?;
    let runtime = runtime_tokio::lanes::runtime()
        .max_blocking_threads(LOOKUPS_MAX)
        .build()?;
    runtime.block_on(serve(settings, &notify))
}

async fn serve(settings: Settings, notify: &Notify) -> Result<Exit, Error> {
    let (mut terminate, mut interrupt) = (
        signal(SignalKind::terminate())?,
        signal(SignalKind::interrupt())?,
    );
    let mut running = edge::start(settings).await?;
    notify.ready(&status(&mut running));
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        "tunnel-edge is running"
    );
    loop {
        tokio::select! {
            _ = next_end(&mut terminate, &mut interrupt) => break,
            changed = running.linked.changed() => match changed {
                Ok(()) => notify.status(&status(&mut running)),
                Err(_) => return Err(io::Error::other("the edge's driver has ended").into()),
            },
        }
    }
    notify.stopping();
    let streams = running.streams().await;
    notify.status(&format!("draining streams={streams}"));
    tracing::info!(
        streams,
        "tunnel-edge takes nothing new, and ends with its last stream"
    );
    running.drain();
    tokio::select! {
        () = running.ended() => Ok(Exit::Done),
        number = next_end(&mut terminate, &mut interrupt) => {
            tracing::info!("tunnel-edge ends now");
            running.shut_down(PATIENCE).await;
            Ok(Exit::Signal(number))
        }
    }
}

/// The number of the next signal that ends a process.
async fn next_end(terminate: &mut Signal, interrupt: &mut Signal) -> u8 {
    tokio::select! {
        _ = terminate.recv() => 15,
        _ = interrupt.recv() => 2,
    }
}

fn status(running: &mut Running) -> String {
    let link = if *running.linked.borrow_and_update() {
        "up"
    } else {
        "down"
    };
    match running.admin {
        Some(admin) => format!("admin={admin} link={link}"),
        None => format!("link={link}"),
    }
}

fn settings(
    config: &EdgeConfig,
    files: &Files,
    metrics: Arc<Metrics>,
) -> Result<Settings, ConfigError> {
    let targets = files.targets.borrow().clone();
    Ok(Settings {
        edge: Core {
            node: files::node(config)?,
            addresses: config.cloud.addresses.len(),
            targets,
            reconnect: Reconnect {
                min: config.reconnect.min,
                max: config.reconnect.max,
                reset_after: config.reconnect.reset_after,
            },
            dialect: match config.cloud.dialect {
                Dialect::Auto => DialectChoice::Auto,
                Dialect::Base => DialectChoice::Base,
                Dialect::V1 => DialectChoice::V1,
            },
            limits: Config {
                streams: streams(config),
                links: links(config),
            },
        },
        buffers_bytes_max: config
            .streams
            .buffers_bytes_max
            .resolve(memory_bytes(), EdgeConfig::BUFFERS_BYTES_CAP),
        cloud: CloudAddresses {
            addresses: config
                .cloud
                .addresses
                .iter()
                .map(ToString::to_string)
                .collect(),
            server_name: Some(config.cloud.server_name.clone()).filter(|name| !name.is_empty()),
        },
        tls: files.tls.clone(),
        bearer: files.bearer.clone(),
        targets: files.targets.clone(),
        admin: config.admin.listen,
        admin_socket: Some(config.admin.socket.clone()).filter(|path| !path.as_os_str().is_empty()),
        metrics,
    })
}

fn streams(config: &EdgeConfig) -> StreamConfig {
    let streams = &config.streams;
    StreamConfig {
        window_bytes_min: streams.window_bytes_min.into(),
        window_bytes_max: streams.window_bytes_max.into(),
        resume: streams.resume,
        idle_timeout: streams.idle_timeout,
        grace: streams.grace,
        dial_timeout: config.targets.dial_timeout,
        base_buffer_bytes_max: streams.base_buffer_bytes_max.into(),
        base_stuck_timeout: streams.base_stuck_timeout,
        ..StreamConfig::default()
    }
}

fn links(config: &EdgeConfig) -> LinkConfig {
    let heartbeat = &config.heartbeat;
    LinkConfig {
        heartbeat_interval: heartbeat.interval,
        heartbeat_probe: heartbeat.probe,
        heartbeat_missed: heartbeat.missed,
        heartbeat_jitter: heartbeat.jitter,
        drain_max: config.drain.max,
        ..LinkConfig::default()
    }
}
