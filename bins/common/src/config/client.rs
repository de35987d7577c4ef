//! The operator's `config.toml`.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize, de};

use super::load::{Loaded, load};
use super::values::{HostPort, duration};
use super::{ConfigError, Mistake, Overrides, Places};

/// How the cloud is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// gRPC in TLS: sessions outlive links.
    Grpcs,
    /// CONNECT in TLS.
    Https,
    /// CONNECT in plaintext.
    Http,
}

impl Scheme {
    /// As in an address.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Grpcs => "grpcs",
            Self::Https => "https",
            Self::Http => "http",
        }
    }
}

/// Where the cloud is, `https://cloud:2222`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// How it is spoken to.
    pub scheme: Scheme,
    /// Its address.
    pub address: HostPort,
    /// Its other replicas' addresses, if there is none that leads to all of them. By gRPC only.
    pub others: Vec<HostPort>,
}

impl FromStr for Server {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let refuse = || {
            format!(
                "\"{text}\" is no server: expected grpcs://HOST:9000 (or grpcs://HOST:9000,HOST:9000), https://HOST:2222 (CONNECT in TLS) or http://HOST:2222"
            )
        };
        let (scheme, address) = text.split_once("://").ok_or_else(refuse)?;
        let scheme = match scheme {
            "grpcs" => Scheme::Grpcs,
            "https" => Scheme::Https,
            "http" => Scheme::Http,
            _ => return Err(refuse()),
        };
        let list = address.strip_suffix('/').unwrap_or(address).split(',');
        let mut addresses = list
            .map(str::parse)
            .collect::<Result<Vec<HostPort>, _>>()
            .map_err(|_| refuse())?;
        if addresses.len() > 1 && scheme != Scheme::Grpcs {
            return Err(refuse());
        }
        let address = addresses.remove(0);
        Ok(Self {
            scheme,
            address,
            others: addresses,
        })
    }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme.as_str(), self.address)?;
        self.others
            .iter()
            .try_for_each(|other| write!(f, ",{other}"))
    }
}

mod server_or_none {
    use super::*;

    pub(crate) fn serialize<S: serde::Serializer>(
        value: &Option<Server>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        match value {
            Some(server) => to.collect_str(server),
            None => to.serialize_str(""),
        }
    }

    pub(crate) fn deserialize<'de, D: de::Deserializer<'de>>(
        from: D,
    ) -> Result<Option<Server>, D::Error> {
        let text = String::deserialize(from)?;
        if text.is_empty() {
            return Ok(None);
        }
        text.parse().map(Some).map_err(de::Error::custom)
    }
}

/// Everything that the operator's command can be told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ClientConfig {
    /// Where the cloud is; `None`: not said.
    #[serde(with = "server_or_none")]
    pub server: Option<Server>,
    /// The CA of its certificate, PEM.
    pub ca: PathBuf,
    /// The name that its certificate must have; empty: the server's host.
    pub server_name: String,
    /// The user's certificate, PEM, instead of a password or token.
    pub cert: PathBuf,
    /// Its private key, PEM.
    pub key: PathBuf,
    /// The user's name.
    pub user: String,
    /// A file with the user's token.
    pub token_file: PathBuf,
    /// A file with the user's password.
    pub password_file: PathBuf,
    /// How long a session without a way is kept, by gRPC; zero: it ends with its link.
    #[serde(with = "duration")]
    pub grace: Duration,
}

impl Default for ClientConfig {
    fn default() -> Self {
        Self {
            server: None,
            ca: PathBuf::new(),
            server_name: String::new(),
            cert: PathBuf::new(),
            key: PathBuf::new(),
            user: String::new(),
            token_file: PathBuf::new(),
            password_file: PathBuf::new(),
            grace: Duration::from_secs(300),
        }
    }
}

impl ClientConfig {
    /// The file that is read when none is named: `$XDG_CONFIG_HOME/tunnel/config.toml`, else `~/.config/tunnel/config.toml`.
    pub fn file(env: &dyn Fn(&str) -> Option<String>) -> Option<PathBuf> {
        let set = |name: &str| {
            env(name)
                .filter(|value| !value.is_empty())
                .map(PathBuf::from)
        };
        let folder =
            set("XDG_CONFIG_HOME").or_else(|| set("HOME").map(|home| home.join(".config")))?;
        Some(folder.join("tunnel/config.toml"))
    }

    /// Reads `path`, else [`Self::file`] if there is one, puts environment and flags over it and checks everything.
    pub fn load(
        path: Option<&Path>,
        overrides: &Overrides,
        env: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Self, ConfigError> {
        let mut layers = Overrides::default();
        for (key, name) in [
            ("server", "TUNNEL_SERVER"),
            ("user", "TUNNEL_USER"),
            ("token_file", "TUNNEL_TOKEN_FILE"),
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
        let default = Self::file(env);
        let Loaded { mut value, places } = load::<Self>(path, default.as_deref(), &settings, env)?;
        if let Some(home) = env("HOME") {
            for path in [
                &mut value.ca,
                &mut value.cert,
                &mut value.key,
                &mut value.token_file,
                &mut value.password_file,
            ] {
                if let Ok(below) = path.strip_prefix("~") {
                    *path = Path::new(&home).join(below);
                }
            }
        }
        match value.check(&places) {
            found if found.is_empty() => Ok(value),
            found => Err(ConfigError::new(found)),
        }
    }

    fn check(&self, places: &Places) -> Vec<Mistake> {
        let mut found = Vec::new();
        let encrypted = self
            .server
            .as_ref()
            .is_some_and(|server| server.scheme != Scheme::Http);
        if encrypted && self.ca.as_os_str().is_empty() {
            found.push(places.mistake("ca", "the cloud can't be told from an impostor without it: expected the path of its CA's PEM file"));
        }
        for (key, path, other) in [
            ("cert", &self.cert, &self.key),
            ("key", &self.key, &self.cert),
        ] {
            if path.as_os_str().is_empty() && !other.as_os_str().is_empty() {
                found.push(places.mistake(
                    key,
                    "a certificate needs its key and the reverse: expected both, or neither",
                ));
            }
        }
        if self.user.contains([':', '\r', '\n']) {
            found.push(places.mistake("user", "expected a name without a colon or line break"));
        }
        if !self.password_file.as_os_str().is_empty() && self.user.is_empty() {
            found.push(places.mistake("user", "a password needs a user's name"));
        }
        found
    }
}
