//! The files that an edge reads, now and whenever they change.
use std::path::{Path, PathBuf};
use std::sync::Arc;

use proto_core::auth::EdgeBearer;
use proto_core::name::NodeName;
use proto_core::target::Targets;
use runtime_shared::metrics::Metrics;
use rustls::ClientConfig;
use tokio::sync::watch;
use tunnel_common::config::{ConfigError, EdgeConfig};
use tunnel_common::secrets::{Checked, read_secret};
use tunnel_common::tls::{ALPN_H2, ClientFiles};
use tunnel_common::watch::{Pace, Watcher, load as load_first};

/// What came of the files, as it changes.
pub(crate) struct Files {
    pub(crate) tls: watch::Receiver<Arc<ClientConfig>>,
    pub(crate) bearer: watch::Receiver<Option<EdgeBearer>>,
    pub(crate) targets: watch::Receiver<Targets>,
    /// Watched for as long as these are kept.
    _watcher: Watcher,
}

/// Reads everything once.
pub(crate) fn check(config: &EdgeConfig) -> Result<(), ConfigError> {
    let node = node(config)?;
    targets(config)?;
    let warnings = [
        client_files(config).load(&[ALPN_H2])?.warnings,
        load_bearer(&config.node.token_file, &node)?.warnings,
    ];
    for warning in warnings.iter().flatten() {
        eprintln!("tunnel-edge: {warning}");
    }
    Ok(())
}

/// The node's name.
pub(crate) fn node(config: &EdgeConfig) -> Result<NodeName, ConfigError> {
    NodeName::parse(&config.node.name)
        .map_err(|error| ConfigError::of_file(Path::new("node.name"), error))
}

impl Files {
    /// `reload` reads the configuration itself once more: of that, only the targets are taken over.
    pub(crate) fn load(
        config: &EdgeConfig,
        config_file: Option<PathBuf>,
        reload: impl Fn() -> Result<EdgeConfig, ConfigError> + Send + 'static,
        metrics: &Arc<Metrics>,
    ) -> Result<Files, ConfigError> {
        let watcher = Watcher::start(Pace::default())?;
        let client = client_files(config);
        let tls = follow(&watcher, "tls", client.paths(), metrics, move || {
            client.load(&[ALPN_H2])
        })?;
        let (file, node) = (config.node.token_file.clone(), node(config)?);
        let bearer = follow(&watcher, "token", paths(&file), metrics, move || {
            load_bearer(&file, &node)
        })?;
        let targets = follow(
            &watcher,
            "config",
            config_file.into_iter().collect(),
            metrics,
            move || {
                Ok(Checked {
                    value: targets(&reload()?)?,
                    warnings: Vec::new(),
                })
            },
        )?;
        Ok(Files {
            tls,
            bearer,
            targets,
            _watcher: watcher,
        })
    }
}

/// A value that follows its files.
fn follow<T: Send + Sync + 'static>(
    watcher: &Watcher,
    what: &'static str,
    files: Vec<PathBuf>,
    metrics: &Arc<Metrics>,
    load: impl Fn() -> Result<Checked<T>, ConfigError> + Send + 'static,
) -> Result<watch::Receiver<T>, ConfigError> {
    let (first, loaded) = load_first(what, files, load)?;
    let (sender, receiver) = watch::channel(first);
    let metrics = metrics.clone();
    watcher.follow(loaded, move |read| {
        metrics.reloaded(what, if read.is_ok() { "ok" } else { "failed" });
        if let Ok(value) = read {
            sender.send_replace(value);
        }
    });
    Ok(receiver)
}

fn client_files(config: &EdgeConfig) -> ClientFiles {
    ClientFiles {
        ca: config.cloud.ca.clone(),
        cert: config.cloud.cert.clone(),
        key: config.cloud.key.clone(),
    }
}

fn load_bearer(file: &Path, node: &NodeName) -> Result<Checked<Option<EdgeBearer>>, ConfigError> {
    if file.as_os_str().is_empty() {
        return Ok(Checked {
            value: None,
            warnings: Vec::new(),
        });
    }
    let token = read_secret(file)?;
    let bearer = EdgeBearer::new(node.clone(), token.value)
        .map_err(|error| ConfigError::of_file(file, error))?;
    Ok(Checked {
        value: Some(bearer),
        warnings: token.warnings,
    })
}

fn targets(config: &EdgeConfig) -> Result<Targets, ConfigError> {
    let map = config
        .targets
        .map
        .iter()
        .map(|(port, target)| (port.0, target));
    Targets::parse(&config.targets.allow, map)
        .map_err(|error| ConfigError::of_file(Path::new("targets"), error))
}

fn paths(file: &Path) -> Vec<PathBuf> {
    if file.as_os_str().is_empty() {
        Vec::new()
    } else {
        vec![file.to_owned()]
    }
}
