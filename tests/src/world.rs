//! One test's world: a directory with certificates, tokens, users and configuration, and the programs that run in it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use argon2::{Algorithm, Argon2, Params, Version};
use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use sha2::{Digest, Sha256};
use tempfile::TempDir;
use toml::{Table, Value};

use crate::binaries::binary;
use crate::connect::Connect;
use crate::metrics::Metrics;
use crate::pki::{Identity, Pki, replace};
use crate::process::Process;
use crate::usage::Usage;

/// The token that every node in `tokens` has unless a test says otherwise.
pub const TOKEN: &str = "test-token-of-the-node";

/// The nodes that the tokens file names at first.
pub const NODES: [&str; 3] = ["node-A", "node-B", "node-C"];

/// A temporary world. Programs started in it end before its directory goes.
#[derive(Debug)]
pub struct World {
    dir: TempDir,
    /// The world's certificate authority.
    pub pki: Pki,
    cloud: Identity,
}

/// Settings of a program: a TOML table with dotted paths.
#[derive(Debug, Clone, Default)]
pub struct Settings(Table);

impl Settings {
    /// Sets `a.b.c` to a value.
    #[must_use]
    pub fn set(mut self, path: &str, value: impl Into<Value>) -> Self {
        let mut table = &mut self.0;
        let mut parts: Vec<&str> = path.split('.').collect();
        let last = parts.pop().unwrap();
        for part in parts {
            let entry = table
                .entry(part)
                .or_insert_with(|| Value::Table(Table::new()));
            table = entry.as_table_mut().expect("a table");
        }
        table.insert(last.to_owned(), value.into());
        self
    }

    /// Logs that don't grow with what is done.
    #[must_use]
    pub fn quiet(self) -> Self {
        self.set("log.level", "info").set("log.audit", "off")
    }

    fn text(&self) -> String {
        toml::to_string(&self.0).unwrap()
    }
}

/// A running tunnel-cloud.
#[derive(Debug)]
pub struct Cloud {
    /// The process.
    pub process: Process,
    /// Where edges connect.
    pub grpc: String,
    /// The CONNECT listener without credentials.
    pub connect: String,
    /// The CONNECT listener with users.
    pub connect_users: String,
    /// The CONNECT listener that demands TLS, with users.
    pub connect_tls: String,
    /// The admin listener.
    pub admin: String,
    /// Its audit records.
    pub audit: PathBuf,
}

/// A running tunnel-edge.
#[derive(Debug)]
pub struct Edge {
    /// The process.
    pub process: Process,
    /// The admin listener.
    pub admin: String,
    /// Its audit records.
    pub audit: PathBuf,
}

impl World {
    /// A directory with a CA, a cloud certificate, tokens for [`NODES`] and the users `alice` and `bob`.
    pub fn new() -> Self {
        let dir = tempfile::Builder::new()
            .prefix("tunnel-test-")
            .tempdir()
            .unwrap();
        let pki = Pki::new(&dir.path().join("ca"));
        let cloud = pki.cloud("cloud-1");
        let world = Self { dir, pki, cloud };
        let lines: Vec<String> = NODES
            .iter()
            .map(|node| format!("{node}:{TOKEN}\n"))
            .collect();
        replace(&world.path("tokens"), &lines.concat());
        world.write_users(&[
            User {
                name: "alice",
                password: "wonderland",
                token: "alice-bearer-token",
                nodes: &["node-*"],
                ports: &[22],
                admin: true,
            },
            User {
                name: "bob",
                password: "builder",
                token: "bob-bearer-token",
                nodes: &["node-b"],
                ports: &[22],
                admin: false,
            },
        ]);
        for node in NODES {
            world.write(&format!("token-{node}"), TOKEN);
        }
        world
    }

    /// A path in the world's directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The world's directory.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Writes a file in one step and gives its path.
    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        replace(&path, text);
        path
    }

    /// The cloud's certificate and key.
    pub fn cloud_identity(&self) -> &Identity {
        &self.cloud
    }

    /// Writes users.toml.
    pub fn write_users(&self, users: &[User<'_>]) {
        let text: Vec<String> = users.iter().map(User::table).collect();
        self.write("users.toml", &text.concat());
    }

    /// Settings of a cloud with short waits: three CONNECT listeners (open, users, users with TLS).
    pub fn cloud_settings(&self) -> Settings {
        self.cloud_settings_at("127.0.0.1")
    }

    /// The same, with all listeners at one address.
    pub fn cloud_settings_at(&self, ip: &str) -> Settings {
        let listen = format!("{ip}:0");
        let listener = |tls: &str, auth: &str| {
            let mut table = Table::new();
            table.insert("listen".into(), listen.clone().into());
            table.insert("tls".into(), tls.into());
            table.insert("auth".into(), auth.into());
            Value::Table(table)
        };
        Settings::default()
            .set("grpc.listen", listen.clone())
            .set("grpc.cert", text(&self.cloud.cert))
            .set("grpc.key", text(&self.cloud.key))
            .set("grpc.client_ca", text(&self.pki.ca()))
            .set(
                "connect",
                vec![
                    listener("off", "none"),
                    listener("optional", "users"),
                    listener("required", "users"),
                ],
            )
            .set("tokens.file", text(&self.path("tokens")))
            .set("users.file", text(&self.path("users.toml")))
            .set("limits.node_wait", "300ms")
            .set("drain.jitter", "100ms")
            .set("admin.listen", listen.clone())
            .set("log.level", "debug,h2=info")
            .set("log.audit", text(&self.path("cloud-audit.jsonl")))
    }

    /// Settings of an edge for a node, with `127.0.0.1:22` mapped to `target`.
    pub fn edge_settings(&self, node: &str, cloud: &str, target: &str) -> Settings {
        Settings::default()
            .set("node.name", node)
            .set(
                "node.token_file",
                text(&self.path(&format!("token-{node}"))),
            )
            .set("cloud.addresses", vec![cloud.to_owned()])
            .set("cloud.server_name", "tunnel.cloud.io")
            .set("cloud.ca", text(&self.pki.ca()))
            .set("targets.map.22", target)
            .set("admin.listen", "127.0.0.1:0")
            .set("log.level", "debug,h2=info")
            .set(
                "log.audit",
                text(&self.path(&format!("{node}-audit.jsonl"))),
            )
    }

    /// Starts tunnel-cloud with the usual settings.
    pub fn cloud(&self) -> Cloud {
        self.cloud_with(self.cloud_settings())
    }

    /// Starts tunnel-cloud and waits until it listens.
    pub fn cloud_with(&self, settings: Settings) -> Cloud {
        self.cloud_by("cloud", settings, Command::new(binary("tunnel-cloud")))
    }

    /// Starts tunnel-cloud by a command of the caller's (a limit around it, say); the configuration is appended.
    pub fn cloud_by(&self, name: &str, settings: Settings, mut command: Command) -> Cloud {
        let config = self.write(&format!("{name}.toml"), &settings.text());
        let mut process = Process::start(name, self.dir(), command.arg("--config").arg(config));
        process.ready();
        let listeners = process.status("connect");
        let mut listeners = listeners.split(',').map(str::to_owned);
        let mut next = || listeners.next().unwrap_or_default();
        Cloud {
            grpc: process.status("grpc"),
            connect: next(),
            connect_users: next(),
            connect_tls: next(),
            admin: process.status("admin"),
            audit: self.path("cloud-audit.jsonl"),
            process,
        }
    }

    /// Starts the edge of a node and waits for its link.
    pub fn edge(&self, cloud: &Cloud, node: &str, target: &str) -> Edge {
        let mut edge = self.edge_with(node, self.edge_settings(node, &cloud.grpc, target));
        edge.process
            .wait_status("link", "up", Duration::from_secs(10));
        edge
    }

    /// Starts an edge and waits until it runs, whatever its link.
    pub fn edge_with(&self, name: &str, settings: Settings) -> Edge {
        self.edge_by(name, settings, Command::new(binary("tunnel-edge")))
    }

    /// The same by a command of the caller's (a limit around it, say); the configuration is appended.
    pub fn edge_by(&self, name: &str, settings: Settings, mut command: Command) -> Edge {
        let config = self.write(&format!("{name}.toml"), &settings.text());
        let name = format!("edge-{name}");
        let mut process = Process::start(&name, self.dir(), command.arg("--config").arg(config));
        process.ready();
        let node = name.trim_start_matches("edge-");
        Edge {
            admin: process.status("admin"),
            audit: self.path(&format!("{node}-audit.jsonl")),
            process,
        }
    }
}

impl Default for World {
    fn default() -> Self {
        Self::new()
    }
}

impl Cloud {
    /// Its metrics now.
    pub fn metrics(&self) -> Metrics {
        Metrics::read(&self.admin)
    }

    /// What it holds now.
    pub fn usage(&self) -> Usage {
        Usage::of(self.process.id())
    }

    /// A CONNECT to `node:22` that succeeds.
    #[track_caller]
    pub fn open(&self, node: &str) -> Connect {
        Connect::open(&self.connect, &format!("{node}:22"))
    }

    /// Streams to an echo that have been used and are idle now.
    #[track_caller]
    pub fn idle_streams(&self, node: &str, count: usize) -> Vec<Connect> {
        let mut streams: Vec<Connect> = (0..count).map(|_| self.open(node)).collect();
        for stream in &mut streams {
            stream.echo(b"hello");
        }
        streams
    }

    /// Streams open now, in all states.
    pub fn streams(&self) -> f64 {
        self.metrics().sum("streams", &[])
    }
}

impl Edge {
    /// Its metrics now.
    pub fn metrics(&self) -> Metrics {
        Metrics::read(&self.admin)
    }

    /// What it holds now.
    pub fn usage(&self) -> Usage {
        Usage::of(self.process.id())
    }
}

/// One entry of users.toml.
#[derive(Debug, Clone, Copy)]
pub struct User<'a> {
    /// The name in Basic credentials.
    pub name: &'a str,
    /// The password, hashed in the file.
    pub password: &'a str,
    /// The Bearer token, hashed in the file.
    pub token: &'a str,
    /// Globs of nodes.
    pub nodes: &'a [&'a str],
    /// Ports.
    pub ports: &'a [i64],
    /// Whether the API is open to it.
    pub admin: bool,
}

impl User<'_> {
    fn table(&self) -> String {
        format!(
            "[[user]]\nname = {:?}\npassword = {:?}\ntokens = [{:?}]\nnodes = {:?}\nports = {:?}\nadmin = {}\n",
            self.name,
            argon2id(self.password),
            format!("sha256:{}", hex(&Sha256::digest(self.token))),
            self.nodes,
            self.ports,
            self.admin,
        )
    }
}

/// A PHC string with the least work that the algorithm allows: tests log in often.
fn argon2id(password: &str) -> String {
    let salt = b"salt-for-a-test!";
    let mut hash = [0; 32];
    let params = Params::new(8, 1, 1, Some(hash.len())).unwrap();
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
        .hash_password_into(password.as_bytes(), salt, &mut hash)
        .unwrap();
    let (salt, hash) = (STANDARD_NO_PAD.encode(salt), STANDARD_NO_PAD.encode(hash));
    format!("$argon2id$v=19$m=8,t=1,p=1${salt}${hash}")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn text(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}
