//! The files that a replica reads, now and whenever they change.
use std::path::{Path, PathBuf};
use std::sync::Arc;

use proto_core::auth::{Secret, Tokens};
use runtime_tokio::metrics::Metrics;
use rustls::{ClientConfig, ServerConfig};
use tokio::sync::watch;
use tunnel_common::config::{CloudConfig, ConfigError};
use tunnel_common::secrets::{Checked, read_secret, read_tokens};
use tunnel_common::tls::{self, ALPN_H2, ClientFiles, ServerFiles, ServerTls};
use tunnel_common::users::{Logins, Users};
use tunnel_common::watch::{Pace, Watcher, load as load_first};

/// What came of the files, as it changes.
pub(crate) struct Files {
    pub(crate) grpc_tls: watch::Receiver<Arc<ServerConfig>>,
    pub(crate) connect_tls: watch::Receiver<Arc<ServerConfig>>,
    pub(crate) tokens: watch::Receiver<Arc<Tokens>>,
    pub(crate) peers_tls: watch::Receiver<Arc<ClientConfig>>,
    pub(crate) peers_token: watch::Receiver<Option<Secret>>,
    pub(crate) logins: Arc<Logins>,
    pub(crate) users_changed: watch::Receiver<()>,
    /// Watched for as long as these are kept.
    _watcher: Watcher,
}

/// Reads everything once.
pub(crate) fn check(config: &CloudConfig) -> Result<(), ConfigError> {
    let warnings = [
        ServerFiles::from(config).load()?.warnings,
        load_tokens(&config.tokens.file, config.tokens.allow_default)?.warnings,
        load_users(&config.users.file)?.warnings,
        load_peers(config)?.warnings,
        load_token(&config.peers.token_file)?.warnings,
        crate::kubernetes::check(config)?,
    ];
    for warning in warnings.iter().flatten() {
        eprintln!("tunnel-cloud: {warning}");
    }
    Ok(())
}

impl Files {
    pub(crate) fn load(config: &CloudConfig, metrics: &Arc<Metrics>) -> Result<Files, ConfigError> {
        let watcher = Watcher::start(Pace::default())?;
        let server = ServerFiles::from(config);
        let (tls, loaded) = load_first("tls", server.paths(), move || server.load())?;
        let (grpc, grpc_tls) = watch::channel(tls.grpc);
        let (connect, connect_tls) = watch::channel(tls.connect);
        let counted = metrics.clone();
        watcher.follow(loaded, move |read: Result<ServerTls, ConfigError>| {
            count(&counted, "tls", &read);
            if let Ok(tls) = read {
                grpc.send_replace(tls.grpc);
                connect.send_replace(tls.connect);
            }
        });

        let (file, allow_default) = (config.tokens.file.clone(), config.tokens.allow_default);
        let tokens = follow(&watcher, "tokens", paths(&file), metrics, move || {
            load_tokens(&file, allow_default).map(|read| read.map(Arc::new))
        })?;

        let file = config.users.file.clone();
        let (users, loaded) = load_first("users", paths(&file), move || load_users(&file))?;
        let logins =
            Logins::new(users).map_err(|error| ConfigError::of_file(&config.users.file, error))?;
        let logins = Arc::new(logins);
        let (changed, users_changed) = watch::channel(());
        let (replaced, counted) = (logins.clone(), metrics.clone());
        watcher.follow(loaded, move |read| {
            count(&counted, "users", &read);
            if let Ok(users) = read {
                replaced.replace(users);
                changed.send_replace(());
            }
        });

        let peers_tls = peers_tls(config, &watcher, metrics)?;
        let peers_token = peers_token(config, &watcher, metrics)?;
        Ok(Files {
            peers_tls,
            peers_token,
            grpc_tls,
            connect_tls,
            tokens,
            logins,
            users_changed,
            _watcher: watcher,
        })
    }
}

/// TLS towards the other replicas. One that is alone trusts nobody.
fn peers_tls(
    config: &CloudConfig,
    watcher: &Watcher,
    metrics: &Arc<Metrics>,
) -> Result<watch::Receiver<Arc<ClientConfig>>, ConfigError> {
    let files = match config.peers.is_set() {
        true => ClientFiles::of_peers(config).paths(),
        false => Vec::new(),
    };
    let of = config.clone();
    follow(watcher, "peers-tls", files, metrics, move || {
        load_peers(&of)
    })
}

/// A value that is made of files, now and whenever they change.
pub(crate) fn follow<T: Send + Sync + 'static>(
    watcher: &Watcher,
    what: &'static str,
    files: Vec<PathBuf>,
    metrics: &Arc<Metrics>,
    load: impl Fn() -> Result<Checked<T>, ConfigError> + Send + 'static,
) -> Result<watch::Receiver<T>, ConfigError> {
    let (first, loaded) = load_first(what, files, load)?;
    let (sender, receiver) = watch::channel(first);
    let counted = metrics.clone();
    watcher.follow(loaded, move |read| {
        count(&counted, what, &read);
        if let Ok(value) = read {
            sender.send_replace(value);
        }
    });
    Ok(receiver)
}

fn load_peers(config: &CloudConfig) -> Result<Checked<Arc<ClientConfig>>, ConfigError> {
    match config.peers.is_set() {
        true => ClientFiles::of_peers(config).load(&[ALPN_H2]),
        false => Ok(Checked {
            value: tls::trusting_nobody(),
            warnings: Vec::new(),
        }),
    }
}

/// The cluster's token, if it has one.
fn peers_token(
    config: &CloudConfig,
    watcher: &Watcher,
    metrics: &Arc<Metrics>,
) -> Result<watch::Receiver<Option<Secret>>, ConfigError> {
    let file = config.peers.token_file.clone();
    follow(watcher, "peers-token", paths(&file), metrics, move || {
        load_token(&file)
    })
}

fn load_token(file: &Path) -> Result<Checked<Option<Secret>>, ConfigError> {
    if file.as_os_str().is_empty() {
        return Ok(Checked {
            value: None,
            warnings: Vec::new(),
        });
    }
    read_secret(file).map(|read| read.map(Some))
}

fn count<T>(metrics: &Metrics, file: &'static str, read: &Result<T, ConfigError>) {
    metrics.reloaded(file, if read.is_ok() { "ok" } else { "failed" });
}

fn load_tokens(file: &Path, allow_default: bool) -> Result<Checked<Tokens>, ConfigError> {
    if file.as_os_str().is_empty() {
        return Ok(Checked {
            value: Tokens::default(),
            warnings: Vec::new(),
        });
    }
    read_tokens(file, allow_default)
}

fn load_users(file: &Path) -> Result<Checked<Users>, ConfigError> {
    if file.as_os_str().is_empty() || !file.exists() {
        return Ok(Checked {
            value: Users::default(),
            warnings: Vec::new(),
        });
    }
    Users::read(file)
}

fn paths(file: &Path) -> Vec<PathBuf> {
    if file.as_os_str().is_empty() {
        Vec::new()
    } else {
        vec![file.to_owned()]
    }
}
