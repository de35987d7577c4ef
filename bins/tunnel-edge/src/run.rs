//! From the configuration to a running edge, and to its end.
use std::future::pending;
use std::io;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{Either, select};
use proto_core::Config;
use proto_core::config::{LinkConfig, StreamConfig};
use proto_core::edge::{DialectChoice, EdgeConfig as Core, Reconnect};
use runtime_shared::edge::Settings;
use runtime_shared::metrics::Metrics;
use runtime_shared::uplink::CloudAddresses;
use runtime_shared::{Runtime as _, within};
use tunnel_common::config::{ConfigError, Dialect, EdgeConfig, memory_bytes};
use tunnel_common::exit::Exit;
use tunnel_common::ready::Notify;

use crate::args::Cli;
use crate::files::{self, Files};
use crate::replace::{LINK_TIMEOUT, Predecessor, start_successor};
use crate::runtime::{self, Running, Runtime};
use crate::signals::{REPLACED, SUCCESSOR_WANTED, Signals};

/// How long streams and the links may take to end at a second signal.
const PATIENCE: Duration = Duration::from_secs(5);

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
    predecessor: Option<Predecessor>,
    env: &dyn Fn(&str) -> Option<String>,
) -> Result<Exit, Error> {
    let notify = Arc::new(Notify::from_env(env)?);
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
    runtime::block_on(serve(settings, notify, predecessor))?
}

async fn serve(
    settings: Settings,
    notify: Arc<Notify>,
    predecessor: Option<Predecessor>,
) -> Result<Exit, Error> {
    let mut signals = Signals::catch()?;
    let mut running = runtime::start(settings).await?;
    match predecessor {
        None => notify.ready(&status(&mut running)),
        Some(predecessor) => {
            let is_linked = {
                let linked = running.linked.wait_for(|is_up| *is_up);
                let linked = within::<Runtime, _>(LINK_TIMEOUT, linked);
                let (end, linked) = (pin!(signals.next()), pin!(linked));
                match select(end, linked).await {
                    Either::Left(_) => return Ok(Exit::Done),
                    Either::Right((linked, _)) => matches!(linked, Some(Ok(_))),
                }
            };
            if !is_linked {
                predecessor.give_up();
                return Ok(Exit::Failed);
            }
            notify.take_over(&status(&mut running));
            predecessor.leave();
        }
    }
    let alive = Runtime::spawn(stay_alive(notify.clone()));
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        "tunnel-edge is running"
    );
    let number = loop {
        let changed = {
            let (end, linked) = (pin!(signals.next()), pin!(running.linked.changed()));
            match select(end, linked).await {
                Either::Left((SUCCESSOR_WANTED, _)) => {
                    start_successor();
                    continue;
                }
                Either::Left((number, _)) => break number,
                Either::Right((changed, _)) => changed,
            }
        };
        match changed {
            Ok(()) => notify.status(&status(&mut running)),
            Err(_) => return Err(io::Error::other("the edge's driver has ended").into()),
        }
    };
    let streams = running.streams().await;
    if number == REPLACED {
        // Whoever waits at NOTIFY_SOCKET hears of the other from now on.
        drop(alive);
        running.hand_over();
    } else {
        notify.stopping();
        notify.status(&format!("draining streams={streams}"));
        running.drain();
    }
    tracing::info!(
        streams,
        "tunnel-edge takes nothing new, and ends with its last stream"
    );
    let number = loop {
        let (ended, next) = (pin!(running.ended()), pin!(signals.next()));
        match select(ended, next).await {
            Either::Left(_) => return Ok(Exit::Done),
            // It has nothing to hand over any more.
            Either::Right((SUCCESSOR_WANTED | REPLACED, _)) => {}
            Either::Right((number, _)) => break number,
        }
    };
    tracing::info!("tunnel-edge ends now");
    running.shut_down(PATIENCE).await;
    Ok(Exit::Signal(number))
}

/// Tells a watchdog that this thread still turns, which is the one that all of the edge is on.
async fn stay_alive(notify: Arc<Notify>) {
    let Some(interval) = notify.watchdog_interval() else {
        return;
    };
    loop {
        notify.alive();
        within::<Runtime, _>(interval / 2, pending::<()>()).await;
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
