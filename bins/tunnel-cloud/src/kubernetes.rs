//! The API server's client, from this replica's files.
use std::path::Path;
use std::sync::Arc;

use proto_core::auth::Secret;
use runtime_tokio::kubernetes::{Client, Settings};
use runtime_tokio::metrics::Metrics;
use tunnel_common::config::{CloudConfig, ConfigError};
use tunnel_common::secrets::{Checked, read_secret};
use tunnel_common::tls::{ALPN_HTTP1, ClientFiles};
use tunnel_common::watch::{Pace, Watcher};

use crate::files::follow;

/// A way to the API server.
pub(crate) struct Kubernetes {
    pub(crate) client: Client,
    /// Watched for as long as these are kept.
    _watcher: Watcher,
}

impl Kubernetes {
    /// If the configuration asks anything of it.
    pub(crate) fn load(
        config: &CloudConfig,
        metrics: &Arc<Metrics>,
    ) -> Result<Option<Kubernetes>, ConfigError> {
        config
            .asks_kubernetes()
            .then(|| Kubernetes::connect(config, metrics))
            .transpose()
    }

    /// Whatever the configuration asks.
    pub(crate) fn connect(
        config: &CloudConfig,
        metrics: &Arc<Metrics>,
    ) -> Result<Kubernetes, ConfigError> {
        let of = &config.kubernetes;
        let ca = files(config);
        let watcher = Watcher::start(Pace::default())?;
        let tls = follow(&watcher, "kubernetes-ca", ca.paths(), metrics, move || {
            ca.load(&[ALPN_HTTP1])
        })?;
        let file = of.token_file.clone();
        let paths = vec![file.clone()];
        let token = follow(&watcher, "kubernetes-token", paths, metrics, move || {
            load_token(&file)
        })?;
        let settings = Settings {
            server: of.server.clone(),
            tls,
            token,
        };
        let client = Client::new(settings).ok_or_else(|| {
            let text = "expected https://HOST:PORT";
            ConfigError::of_file(Path::new("kubernetes.server"), text)
        })?;
        Ok(Kubernetes {
            client,
            _watcher: watcher,
        })
    }
}

/// Reads everything once.
pub(crate) fn check(config: &CloudConfig) -> Result<Vec<String>, ConfigError> {
    if !config.asks_kubernetes() {
        return Ok(Vec::new());
    }
    load_token(&config.kubernetes.token_file)?;
    Ok(files(config).load(&[ALPN_HTTP1])?.warnings)
}

fn files(config: &CloudConfig) -> ClientFiles {
    ClientFiles {
        ca: config.kubernetes.ca.clone(),
        cert: Default::default(),
        key: Default::default(),
    }
}

/// Everybody in a Pod may read its token, and nobody else: that is nothing to warn of.
fn load_token(file: &Path) -> Result<Checked<Option<Secret>>, ConfigError> {
    let read = read_secret(file)?;
    Ok(Checked {
        value: Some(read.value),
        warnings: Vec::new(),
    })
}
