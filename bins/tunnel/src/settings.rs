//! Where the server is and who asks: flags over the environment over the file.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use proto_core::auth::Secret;
use tunnel_common::config::{ClientConfig, Overrides, Scheme, Server as ServerAddress};
use tunnel_common::exit::report;
use tunnel_common::secrets::read_secret;
use tunnel_common::tls::{ALPN_H2, ALPN_HTTP1, ClientFiles, SERVER_NAME};

use crate::args::ServerArgs;
use crate::kube::Cluster;

/// The operator's settings.
pub(crate) struct Settings {
    config: ClientConfig,
    /// The cluster that the cloud is in, and is reached through.
    cluster: Option<Cluster>,
    /// What speaks for the user, by precedence.
    credential: Credential,
}

enum Credential {
    None,
    Token(Secret),
    Password { user: String, password: Secret },
}

/// How the server is spoken to.
pub(crate) enum Way {
    /// By a link of our own.
    Link(LinkServer),
    /// By CONNECT.
    Connect(Server),
}

/// The server's gRPC side, and who asks.
pub(crate) struct LinkServer {
    /// `host:port`, each a replica's or a balancer's.
    pub(crate) addresses: Vec<String>,
    /// The cluster that leads to them, instead of addresses.
    pub(crate) cluster: Option<Cluster>,
    /// The name in its certificate; `None`: its host.
    pub(crate) name: Option<String>,
    pub(crate) tls: Arc<rustls::ClientConfig>,
    pub(crate) token: Option<Secret>,
    /// How long a session without a way is kept.
    pub(crate) grace: Duration,
    pub(crate) url: String,
}

/// The server's CONNECT side, ready to be connected to.
pub(crate) struct Server {
    /// Its name or address.
    pub(crate) host: String,
    /// Its port.
    pub(crate) port: u16,
    /// The name in its certificate.
    pub(crate) name: String,
    /// `None`: plaintext.
    pub(crate) tls: Option<Arc<rustls::ClientConfig>>,
    url: String,
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.url)
    }
}

impl Settings {
    /// Reads the file and the environment, and puts the flags over them.
    pub(crate) fn load(args: &ServerArgs) -> Result<Self, String> {
        Self::load_from(args, &|name| std::env::var(name).ok())
    }

    fn load_from(args: &ServerArgs, env: &dyn Fn(&str) -> Option<String>) -> Result<Self, String> {
        let mut flags = Overrides::default();
        let mut set = |key: &str, value: Option<String>, flag: &str| {
            if let Some(value) = value {
                flags.set(key, value, flag);
            }
        };
        let text = |path: &Option<std::path::PathBuf>| {
            path.as_ref().map(|p| p.to_string_lossy().into_owned())
        };
        set("server", args.server.clone(), "--server");
        set("ca", text(&args.ca), "--ca");
        set("user", args.user.clone(), "--user");
        set(
            "password_file",
            text(&args.password_file),
            "--password-file",
        );
        set("token_file", text(&args.token_file), "--token-file");
        let config = ClientConfig::load(args.config.as_deref(), &flags, env)
            .map_err(|error| error.to_string())?;
        let credential = credential(args, &config, env)?;
        Ok(Self {
            config,
            cluster: Cluster::of(args),
            credential,
        })
    }

    /// Where the server is, and how it is spoken to.
    pub(crate) fn way(&self) -> Result<Way, String> {
        if let Some(cluster) = &self.cluster {
            return self.by_cluster(cluster).map(Way::Link);
        }
        let Some(server) = &self.config.server else {
            return Err("no server is set: use --server, TUNNEL_SERVER or server in ~/.config/tunnel/config.toml \
                        (grpcs://cloud.example.com:9000, say)"
                .to_owned());
        };
        let host = server.address.host.clone();
        let name = match self.config.server_name.as_str() {
            "" => host.clone(),
            name => name.to_owned(),
        };
        let tls = match server.scheme {
            Scheme::Grpcs => return self.link_server(server).map(Way::Link),
            Scheme::Https => Some(self.tls(ALPN_HTTP1)?),
            Scheme::Http => None,
        };
        Ok(Way::Connect(Server {
            name,
            host,
            port: server.address.port,
            tls,
            url: server.to_string(),
        }))
    }

    fn link_server(&self, server: &ServerAddress) -> Result<LinkServer, String> {
        Ok(LinkServer {
            addresses: std::iter::once(&server.address)
                .chain(&server.others)
                .map(ToString::to_string)
                .collect(),
            cluster: None,
            name: Some(self.config.server_name.clone()).filter(|name| !name.is_empty()),
            token: self.token(server)?,
            tls: self.tls(ALPN_H2)?,
            grace: self.config.grace,
            url: server.to_string(),
        })
    }

    /// Its certificate is checked as ever: the API server only carries what is said.
    fn by_cluster(&self, cluster: &Cluster) -> Result<LinkServer, String> {
        let name = match self.config.server_name.as_str() {
            "" => SERVER_NAME,
            name => name,
        };
        let token = self.token(cluster)?;
        let mut files = ClientFiles::from(&self.config);
        // Whoever may change that ConfigMap may change the cloud too.
        let fetched = match files.ca.as_os_str().is_empty() {
            true => Some(cluster.ca().and_then(|pem| kept(&pem))?),
            false => None,
        };
        if let Some(file) = &fetched {
            files.ca = file.path().to_owned();
        }
        Ok(LinkServer {
            addresses: Vec::new(),
            cluster: Some(cluster.clone()),
            name: Some(name.to_owned()),
            tls: loaded(&files, ALPN_H2)?,
            token,
            grace: self.config.grace,
            url: cluster.to_string(),
        })
    }

    /// What is shown on a link.
    fn token(&self, server: &dyn fmt::Display) -> Result<Option<Secret>, String> {
        match &self.credential {
            Credential::None => Ok(None),
            Credential::Token(token) => Ok(Some(token.clone())),
            Credential::Password { .. } => Err(format!(
                "{server}: by grpcs:// a user shows a token (token_file) or a certificate; passwords are for https://"
            )),
        }
    }

    /// The cluster, if it is there that replicas are to be asked.
    pub(crate) fn cluster(&self) -> Option<&Cluster> {
        self.cluster.as_ref()
    }

    fn tls(&self, alpn: &[u8]) -> Result<Arc<rustls::ClientConfig>, String> {
        loaded(&ClientFiles::from(&self.config), alpn)
    }

    /// The value of `Proxy-Authorization` (or `Authorization`), a secret; `None` without credentials.
    pub(crate) fn authorization(&self) -> Option<String> {
        match &self.credential {
            Credential::None => None,
            Credential::Token(token) => Some(format!("Bearer {}", token.expose())),
            Credential::Password { user, password } => Some(format!(
                "Basic {}",
                STANDARD.encode(format!("{user}:{}", password.expose()))
            )),
        }
    }
}

fn loaded(files: &ClientFiles, alpn: &[u8]) -> Result<Arc<rustls::ClientConfig>, String> {
    let loaded = files.load(&[alpn]).map_err(|error| error.to_string())?;
    warn(&loaded.warnings);
    Ok(loaded.value)
}

/// As a file, until it has been read.
fn kept(pem: &str) -> Result<tempfile::NamedTempFile, String> {
    let made = tempfile::NamedTempFile::new();
    let written = made.and_then(|file| std::fs::write(file.path(), pem).map(|()| file));
    written.map_err(|error| format!("a temporary file: {error}"))
}

/// A token by flag or environment, a password by flag, then what the file names, a token first.
fn credential(
    args: &ServerArgs,
    config: &ClientConfig,
    env: &dyn Fn(&str) -> Option<String>,
) -> Result<Credential, String> {
    let token = |path: &Path| one_line(path, "token_file").map(Credential::Token);
    let password = || {
        let password = one_line(&config.password_file, "password_file")?;
        Ok(Credential::Password {
            user: config.user.clone(),
            password,
        })
    };
    if args.token_file.is_some() {
        return token(&config.token_file);
    }
    if args.password_file.is_some() {
        return password();
    }
    if let Some(token) = env("TUNNEL_TOKEN").filter(|token| !token.trim().is_empty()) {
        return checked(Secret::new(token.trim().to_owned()), "TUNNEL_TOKEN")
            .map(Credential::Token);
    }
    if !config.token_file.as_os_str().is_empty() {
        return token(&config.token_file);
    }
    if !config.password_file.as_os_str().is_empty() {
        return password();
    }
    Ok(Credential::None)
}

/// The one line of a secret file; the error says which file, never what is in it.
fn one_line(path: &Path, key: &str) -> Result<Secret, String> {
    let read = read_secret(path).map_err(|error| format!("{key}: {error}"))?;
    warn(&read.warnings);
    checked(read.value, &format!("{key} {}", path.display()))
}

fn warn(lines: &[String]) {
    for line in lines {
        report("tunnel", line);
    }
}

/// What goes into a header must not end it.
fn checked(secret: Secret, from: &str) -> Result<Secret, String> {
    if secret.expose().chars().any(char::is_control) {
        return Err(format!("{from} holds control characters"));
    }
    Ok(secret)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    struct Folder(tempfile::TempDir);

    impl Folder {
        fn new() -> Self {
            Self(tempfile::tempdir().expect("a folder"))
        }

        fn file(&self, name: &str, text: &str) -> PathBuf {
            let path = self.0.path().join(name);
            std::fs::write(&path, text).expect("written");
            path
        }
    }

    fn load(args: &ServerArgs, env: &[(&str, &str)]) -> Result<Settings, String> {
        let env: Vec<(String, String)> = env
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect();
        Settings::load_from(args, &move |name| {
            env.iter().find(|(k, _)| k == name).map(|(_, v)| v.clone())
        })
    }

    #[test]
    fn a_flag_beats_the_environment_beats_the_file() {
        let folder = Folder::new();
        let config = folder.file("config.toml", "server = \"http://file:1\"\n");
        let mut args = ServerArgs {
            config: Some(config),
            ..ServerArgs::default()
        };
        let host = |args: &ServerArgs, env: &[(&str, &str)]| match load(args, env)
            .expect("loads")
            .way()
            .expect("a server")
        {
            Way::Connect(server) => server.host,
            Way::Link(server) => panic!("{}", server.url),
        };
        assert_eq!(host(&args, &[]), "file");
        assert_eq!(host(&args, &[("TUNNEL_SERVER", "http://env:1")]), "env");
        args.server = Some("http://flag:1".into());
        assert_eq!(host(&args, &[("TUNNEL_SERVER", "http://env:1")]), "flag");
    }

    #[test]
    fn credentials_come_from_files_and_the_environment() {
        let folder = Folder::new();
        let args = ServerArgs {
            server: Some("http://cloud:1".into()),
            user: Some("me".into()),
            password_file: Some(folder.file("password", "open sesame\n")),
            ..ServerArgs::default()
        };
        let value = |args: &ServerArgs, env: &[(&str, &str)]| {
            load(args, env).expect("loads").authorization()
        };
        assert_eq!(
            value(&args, &[]).as_deref(),
            Some("Basic bWU6b3BlbiBzZXNhbWU=")
        );
        let args = ServerArgs {
            server: Some("http://cloud:1".into()),
            ..ServerArgs::default()
        };
        assert_eq!(value(&args, &[]), None);
        assert_eq!(
            value(&args, &[("TUNNEL_TOKEN", "t1")]).as_deref(),
            Some("Bearer t1")
        );
        let file = folder.file("token", "t2\n");
        let env = [("TUNNEL_TOKEN_FILE", file.to_str().expect("text"))];
        assert_eq!(value(&args, &env).as_deref(), Some("Bearer t2"));
        let args = ServerArgs {
            token_file: Some(file),
            ..args
        };
        assert_eq!(
            value(&args, &[("TUNNEL_TOKEN", "t1")]).as_deref(),
            Some("Bearer t2")
        );
    }

    #[test]
    fn mistakes_name_the_file_and_never_its_content() {
        let folder = Folder::new();
        let error = |args: ServerArgs| load(&args, &[]).err().expect("refused");
        let missing = folder.0.path().join("missing");
        let args = ServerArgs {
            token_file: Some(missing),
            ..ServerArgs::default()
        };
        assert!(error(args).contains("missing"));
        let args = ServerArgs {
            token_file: Some(folder.file("t", "se\x01cret\n")),
            ..ServerArgs::default()
        };
        let line = error(args);
        assert!(
            line.contains("control characters") && !line.contains("cret\n"),
            "{line}"
        );
        assert!(!line.contains("se\x01cret"), "{line}");
    }

    #[test]
    fn a_password_is_not_shown_by_grpcs() {
        let folder = Folder::new();
        let args = ServerArgs {
            server: Some("grpcs://cloud:9000".into()),
            ca: Some(folder.file("ca.crt", "")),
            user: Some("me".into()),
            password_file: Some(folder.file("password", "open sesame\n")),
            ..ServerArgs::default()
        };
        let error = load(&args, &[]).expect("loads").way().err();
        let error = error.expect("refused");
        assert!(
            error.contains("token_file") && !error.contains("sesame"),
            "{error}"
        );
    }
}
