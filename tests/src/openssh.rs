//! OpenSSH on both ends: `sshd -i` behind a listener of the harness, and a client configuration with an alias for
//! each ProxyCommand.

use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use crate::binaries::{binary, program};
use crate::pki::replace;
use crate::targets::Target;
use crate::world::{Cloud, World};

/// The ProxyCommands, each an alias in the client's configuration.
pub const PROXIES: [&str; 5] = ["nc", "corkscrew", "ncat", "connect-proxy", "tunnel"];

/// Not an alias, but `tunnel ssh`, by a link of its own; for a client with [`Ssh::by_links`].
pub const TUNNEL_SSH: &str = "tunnel ssh";

/// A node's SSH server. Each connection has an sshd of its own, so there is no port to race for.
#[derive(Debug)]
pub struct Sshd {
    target: Target,
}

/// A client's keys and configuration.
#[derive(Debug)]
pub struct Ssh {
    config: PathBuf,
    shell: String,
    /// The configuration of `tunnel ssh`.
    links: Option<PathBuf>,
}

impl Sshd {
    /// Makes keys in the world's `ssh` folder and listens.
    pub fn start(world: &World) -> Self {
        Self::start_at(world, "127.0.0.1:0")
    }

    /// The same at an address, in a network of the test's own.
    pub fn start_at(world: &World, address: &str) -> Self {
        let dir = world.path("ssh");
        fs::create_dir_all(&dir).unwrap();
        keygen(&dir.join("host_key"));
        keygen(&dir.join("id"));
        fs::copy(dir.join("id.pub"), dir.join("authorized_keys")).unwrap();
        if nix::unistd::geteuid().is_root() {
            fs::create_dir_all("/run/sshd").expect("sshd's privilege separation directory");
        }
        let config = dir.join("sshd_config");
        let text = format!(
            "HostKey {0}/host_key\nAuthorizedKeysFile {0}/authorized_keys\nPidFile none\nStrictModes no\nUsePAM no\n\
             UseDNS no\nPermitRootLogin yes\nPasswordAuthentication no\nKbdInteractiveAuthentication no\nPermitUserRC no\n\
             PrintMotd no\nPrintLastLog no\nMaxSessions 100\nLogLevel VERBOSE\nSubsystem sftp internal-sftp\n",
            dir.display()
        );
        fs::write(&config, text).unwrap();
        let sshd = program("sshd", "openssh-server");
        let log = world.path("log");
        fs::create_dir_all(&log).unwrap();
        let target = Target::serve_at(address, move |socket| {
            let log = File::options()
                .create(true)
                .append(true)
                .open(log.join("sshd.log"))
                .unwrap();
            let child = Command::new(&sshd)
                .arg("-i")
                .arg("-e")
                .arg("-f")
                .arg(&config)
                .stdin(OwnedFd::from(socket.try_clone().unwrap()))
                .stdout(OwnedFd::from(socket))
                .stderr(log)
                .spawn();
            if let Ok(mut child) = child {
                let _ = child.wait();
            }
        });
        Self { target }
    }

    /// `127.0.0.1:port`.
    pub fn address(&self) -> String {
        self.target.address()
    }

    /// Sessions being served.
    pub fn open(&self) -> usize {
        self.target.open()
    }
}

impl Ssh {
    /// Writes the client's configuration for a cloud. Its aliases are [`PROXIES`]; each leads to node-A.
    pub fn new(world: &World, cloud: &Cloud) -> Self {
        let (host, port) = cloud.connect.rsplit_once(':').unwrap();
        let commands = [
            format!("{} -X connect -x {host}:{port} %h %p", nc().display()),
            format!("corkscrew {host} {port} %h %p"),
            format!("ncat --proxy {host}:{port} --proxy-type http %h %p"),
            format!("connect-proxy -H {host}:{port} %h %p"),
            format!(
                "{} --server http://{host}:{port} connect %h %p",
                binary("tunnel").display()
            ),
        ];
        let aliases: Vec<_> = PROXIES.into_iter().zip(commands).collect();
        Self::written(world, "node-A", &format!("config-{host}-{port}"), &aliases)
    }

    /// Writes the client's configuration with an alias for each ProxyCommand; each leads to `node`.
    pub fn by(world: &World, node: &str, aliases: &[(&str, String)]) -> Self {
        Self::written(world, node, "config", aliases)
    }

    fn written(world: &World, node: &str, file: &str, aliases: &[(&str, String)]) -> Self {
        let dir = world.path("ssh");
        let host_key = fs::read_to_string(dir.join("host_key.pub")).unwrap();
        // Others may be reading it. `tunnel ssh` asks for the name in lower case.
        replace(
            &dir.join("known_hosts"),
            &format!("{node},{} {host_key}", node.to_ascii_lowercase()),
        );
        let mut text = String::new();
        for (alias, command) in aliases {
            text.push_str(&format!("Host {alias}\n  ProxyCommand {command}\n"));
        }
        text.push_str(&format!(
            "Host *\n  HostName {node}\n  HostKeyAlias {node}\n  User {}\n  IdentityFile {1}/id\n  IdentitiesOnly yes\n  \
             UserKnownHostsFile {1}/known_hosts\n  GlobalKnownHostsFile /dev/null\n  StrictHostKeyChecking yes\n  \
             BatchMode yes\n  LogLevel ERROR\n  ConnectTimeout 20\n",
            user(),
            dir.display(),
        ));
        let config = dir.join(file);
        replace(&config, &text);
        let shell = format!("ssh -F {}", config.display());
        Self {
            config,
            shell,
            links: None,
        }
    }

    /// The same, and [`TUNNEL_SSH`] by links to `server`: gRPC addresses with commas between them.
    #[must_use]
    pub fn by_links(self, world: &World, server: &str) -> Self {
        self.by_client(client_config(world, server, "alice-bearer-token"))
    }

    /// The same with a configuration of `tunnel`.
    #[must_use]
    pub fn by_client(self, config: PathBuf) -> Self {
        Self {
            links: Some(config),
            ..self
        }
    }

    /// Runs `line` on node-A by one of [`PROXIES`] or by [`TUNNEL_SSH`].
    pub fn login(&self, alias: &str, line: &str) -> Command {
        if alias != TUNNEL_SSH {
            let mut command = self.command("ssh");
            command.args([alias, line]);
            return command;
        }
        let links = self.links.as_ref().expect("a client with links");
        let mut command = Command::new(binary("tunnel"));
        command
            .arg("--config")
            .arg(links)
            .args(["ssh", "node-A", "--", "-F"])
            .arg(&self.config)
            .arg(line)
            .env_remove("TUNNEL_SERVER")
            .env_remove("TUNNEL_TOKEN");
        command
    }

    /// `ssh`, `scp` or `sftp` with this configuration.
    pub fn command(&self, name: &str) -> Command {
        let mut command = Command::new(program(name, "openssh-client"));
        command.arg("-F").arg(&self.config).stdin(Stdio::null());
        command
    }

    /// The configuration's file.
    pub fn config(&self) -> &Path {
        &self.config
    }

    /// `ssh -F config`, for a shell.
    pub fn shell(&self) -> &str {
        &self.shell
    }

    /// Runs a command on node-A.
    pub fn run(&self, alias: &str, line: &str) -> Output {
        self.command("ssh").args([alias, line]).output().unwrap()
    }
}

/// A configuration of `tunnel` for links to `server` (gRPC addresses with commas between them), with a user's token.
pub fn client_config(world: &World, server: &str, token: &str) -> PathBuf {
    let name = server.replace([',', ':'], "-");
    let token = world.write(&format!("token-of-{token}"), token);
    world.write(
        &format!("client-{name}-{}.toml", token.file_name().unwrap().display()),
        &format!(
            "server = \"grpcs://{server}\"\nca = {:?}\nserver_name = \"tunnel.cloud.io\"\ntoken_file = {token:?}\n",
            world.pki.ca()
        ),
    )
}

/// OpenBSD's nc, whatever `nc` itself means on this machine.
pub fn nc() -> PathBuf {
    program("nc.openbsd", "netcat-openbsd")
}

/// Fails with a program's output unless it ended with 0.
#[track_caller]
pub fn success(what: &str, output: &Output) {
    let (out, err) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(
        output.status.success(),
        "{what}: {}\n{out}\n{err}",
        output.status
    );
}

fn keygen(path: &std::path::Path) {
    if path.exists() {
        return;
    }
    let output = Command::new(program("ssh-keygen", "openssh-client"))
        .args(["-q", "-t", "ed25519", "-N", "", "-C", "test", "-f"])
        .arg(path)
        .output()
        .unwrap();
    success("ssh-keygen", &output);
}

fn user() -> String {
    let output = Command::new("id").arg("-un").output().unwrap();
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}
