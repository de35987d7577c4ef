//! The demo's temporary folder: who gets which certificate, token, key and configuration.

use std::fmt::Write as _;
use std::fs;
use std::io::{self, Read};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use tunnel_common::tls::SERVER_NAME;
use tunnel_common::users::hash_token;

use super::child::run_to_end;
use super::pki::{Authority, Bearer, write_secret};
use super::programs::{Programs, sftp_server};
use super::replicas::Ports;
use crate::ssh::quoted;

/// The nodes, as people write them.
pub(super) const NODES: [&str; 2] = ["node-A", "node-B"];

/// Who the demo's operator is to the cloud.
const USER: &str = "demo";

/// The folder; it goes when this is dropped.
pub(super) struct Folder {
    dir: tempfile::TempDir,
    ca: Authority,
}

/// Where a started tunnel-cloud listens.
#[derive(Clone, Debug)]
pub(super) struct CloudAddresses {
    /// For edges.
    pub(super) grpc: SocketAddr,
    /// CONNECT without TLS and credentials, for `nc` and `corkscrew`.
    pub(super) plain: SocketAddr,
    /// CONNECT with both, for `tunnel connect`.
    pub(super) tls: SocketAddr,
    /// For operators.
    pub(super) admin: SocketAddr,
}

impl Folder {
    /// Makes it, with everything that depends on no address yet.
    pub(super) fn make(programs: &Programs, login: &Login) -> Result<Self, String> {
        let dir = tempfile::Builder::new()
            .prefix("tunnel-demo-")
            .permissions(fs::Permissions::from_mode(0o700))
            .tempdir()
            .map_err(|error| format!("cannot make a temporary folder: {error}"))?;
        let ca = Authority::make(&dir.path().join("ca"))
            .map_err(|error| format!("{}: {error}", dir.path().display()))?;
        let folder = Self { dir, ca };
        folder
            .fill(login)
            .map_err(|error| format!("{}: {error}", folder.path().display()))?;
        folder.make_ssh_keys(programs)?;
        Ok(folder)
    }

    /// Its path.
    pub(super) fn path(&self) -> &Path {
        self.dir.path()
    }

    /// A path in it.
    pub(super) fn join(&self, below: &str) -> PathBuf {
        self.path().join(below)
    }

    fn fill(&self, login: &Login) -> io::Result<()> {
        for name in ["ssh", "log"] {
            fs::create_dir(self.join(name))?;
        }
        let ca = &self.ca;
        ca.issue(&self.join("cloud-1"), &Bearer::Replica)?;
        ca.issue(&self.join("user"), &Bearer::User(USER))?;
        let mut tokens = String::new();
        for node in NODES {
            let of = self.join(&node.to_ascii_lowercase());
            ca.issue(&of, &Bearer::Node(node))?;
            let token = random_token()?;
            write_secret(&of.join("token"), format!("{token}\n").as_bytes())?;
            let _ = writeln!(tokens, "{node}:{token}");
        }
        write_secret(&self.join("tokens"), tokens.as_bytes())?;
        let token = random_token()?;
        write_secret(&self.join("user/token"), format!("{token}\n").as_bytes())?;
        write_secret(&self.join("users.toml"), users_toml(&token).as_bytes())?;
        fs::write(self.join("cloud-1/cloud.toml"), self.cloud_toml())?;
        for node in NODES {
            fs::write(
                self.join(&format!("ssh/sshd_config-{node}")),
                self.sshd_config(node, login),
            )?;
            let shell = self.join(&format!("ssh/shell-{node}"));
            fs::write(&shell, self.shell_script(node, login))?;
            fs::set_permissions(&shell, fs::Permissions::from_mode(0o755))?;
            fs::write(self.join(&format!("ssh/bashrc-{node}")), bashrc(node))?;
        }
        Ok(())
    }

    fn make_ssh_keys(&self, programs: &Programs) -> Result<(), String> {
        let names = NODES.map(|node| (format!("host_key-{node}"), format!("{node} (tunnel demo)")));
        for (file, comment) in names
            .into_iter()
            .chain([("id_ed25519".into(), "tunnel demo".into())])
        {
            let mut keygen = Command::new(&programs.ssh_keygen);
            keygen.args(["-q", "-t", "ed25519", "-N", "", "-C", &comment, "-f"]);
            run_to_end(keygen.arg(self.join("ssh").join(file)))?;
        }
        let known = || -> io::Result<()> {
            fs::copy(
                self.join("ssh/id_ed25519.pub"),
                self.join("ssh/authorized_keys"),
            )?;
            let mut hosts = String::new();
            for node in NODES {
                let key = fs::read_to_string(self.join(&format!("ssh/host_key-{node}.pub")))?;
                let _ = write!(hosts, "{} {key}", node.to_ascii_lowercase());
            }
            fs::write(self.join("ssh/known_hosts"), hosts)
        };
        known().map_err(|error| format!("{}: {error}", self.path().display()))
    }

    fn cloud_toml(&self) -> String {
        let path = |below: &str| toml_text(&self.join(below));
        format!(
            "grpc = {{ listen = \"127.0.0.1:0\", cert = {}, key = {} }}\n\
             # The first for nc and corkscrew, which speak no TLS; what it exposes is loopback's business.\n\
             connect = [\n  {{ listen = \"127.0.0.1:0\", tls = \"off\", auth = \"none\" }},\n  \
             {{ listen = \"127.0.0.1:0\", tls = \"required\", auth = \"users\" }},\n]\n\
             tokens = {{ file = {} }}\n\
             users = {{ file = {} }}\n\
             drain = {{ jitter = \"0s\", max = \"1s\" }}\n\
             admin = {{ listen = \"127.0.0.1:0\" }}\n\
             log = {{ audit = {} }}\n",
            path("cloud-1/tls.crt"),
            path("cloud-1/tls.key"),
            path("tokens"),
            path("users.toml"),
            path("log/audit.json"),
        )
    }

    /// Certificates and configurations of several replicas, each with a link to all the others.
    pub(super) fn add_replicas(&self, ports: &[Ports]) -> io::Result<()> {
        for (index, own) in ports.iter().enumerate() {
            let number = index + 1;
            let of = self.join(&format!("cloud-{number}"));
            if number > 1 {
                self.ca.issue(&of, &Bearer::Replica)?;
            }
            let others: Vec<String> = ports
                .iter()
                .filter(|other| other.grpc != own.grpc)
                .map(|other| format!("\"{}\"", other.grpc))
                .collect();
            let path = |below: &str| toml_text(&of.join(below));
            let text = format!(
                "grpc = {{ listen = \"{}\", cert = {cert}, key = {key}, client_ca = {ca} }}\n\
                 connect = [\n  {{ listen = \"{}\", tls = \"off\", auth = \"none\" }},\n  \
                 {{ listen = \"{}\", tls = \"required\", auth = \"users\" }},\n]\n\
                 tokens = {{ file = {} }}\n\
                 users = {{ file = {} }}\n\
                 peers = {{ addresses = [{}], ca = {ca}, cert = {cert}, key = {key} }}\n\
                 drain = {{ jitter = \"500ms\", max = \"20s\" }}\n\
                 admin = {{ listen = \"{}\" }}\n\
                 log = {{ audit = {} }}\n",
                own.grpc,
                own.plain,
                own.tls,
                toml_text(&self.join("tokens")),
                toml_text(&self.join("users.toml")),
                others.join(", "),
                own.admin,
                toml_text(&self.join(&format!("log/audit-{number}.json"))),
                cert = path("tls.crt"),
                key = path("tls.key"),
                ca = path("ca.crt"),
            );
            fs::write(of.join("cloud.toml"), text)?;
        }
        Ok(())
    }

    /// Writes `node`'s tunnel-edge configuration, and says where.
    pub(super) fn write_edge_toml(
        &self,
        node: &str,
        grpc: SocketAddr,
        sshd: SocketAddr,
    ) -> io::Result<PathBuf> {
        let of = self.join(&node.to_ascii_lowercase());
        let text = format!(
            "node = {{ name = \"{node}\", token_file = {} }}\n\
             cloud = {{ addresses = [\"{grpc}\"], server_name = \"{SERVER_NAME}\", ca = {} }}\n\
             # Port 22 of this node is an sshd of the demo's own.\n\
             targets = {{ allow = [\"127.0.0.1:22\"], map = {{ 22 = \"{sshd}\" }} }}\n\
             admin = {{ listen = \"127.0.0.1:0\" }}\n\
             log = {{ audit = \"off\" }}\n",
            toml_text(&of.join("token")),
            toml_text(&of.join("ca.crt")),
        );
        let path = of.join("edge.toml");
        fs::write(&path, text)?;
        Ok(path)
    }

    /// Writes what the operator needs once the cloud's addresses are known: `user/config.toml` and `ssh/config`.
    pub(super) fn write_user_files(
        &self,
        programs: &Programs,
        login: &Login,
        cloud: &CloudAddresses,
    ) -> io::Result<()> {
        let server = format!("grpcs://{}", cloud.grpc);
        let config = format!(
            "server = \"{server}\"\nca = {}\ntoken_file = {}\n",
            toml_text(&self.join("user/ca.crt")),
            toml_text(&self.join("user/token")),
        );
        fs::write(self.join("user/config.toml"), config)?;
        // Flags besides the file: TUNNEL_SERVER and TUNNEL_TOKEN of a user who has a tunnel already must not win.
        let word = |path: PathBuf| quoted(&path.to_string_lossy());
        let proxy = format!(
            "{} --config {} --server {server} --token-file {} connect %h %p",
            word(programs.own.clone()),
            word(self.join("user/config.toml")),
            word(self.join("user/token")),
        );
        let mut text = String::new();
        for node in NODES {
            let lower = node.to_ascii_lowercase();
            let _ = write!(text, "Host {node} {lower}\n    HostKeyAlias {lower}\n\n");
        }
        let _ = write!(
            text,
            "Host *\n    User {}\n    IdentityFile \"{ssh}/id_ed25519\"\n    IdentitiesOnly yes\n    \
             UserKnownHostsFile \"{ssh}/known_hosts\"\n    GlobalKnownHostsFile /dev/null\n    \
             StrictHostKeyChecking yes\n    PreferredAuthentications publickey\n    ProxyCommand {proxy}\n",
            login.name,
            ssh = self.join("ssh").display(),
        );
        fs::write(self.join("ssh/config"), text)
    }

    fn sshd_config(&self, node: &str, login: &Login) -> String {
        let ssh = self.join("ssh");
        let ssh = ssh.display();
        let sftp = sftp_server().map_or_else(
            || "internal-sftp".to_owned(),
            |path| path.display().to_string(),
        );
        format!(
            "HostKey \"{ssh}/host_key-{node}\"\n\
             AuthorizedKeysFile \"{ssh}/authorized_keys\"\n\
             AuthenticationMethods publickey\n\
             AllowUsers {}\n\
             PermitRootLogin prohibit-password\n\
             # The folder is its owner's alone, but stands below one that everybody may write to.\n\
             StrictModes no\n\
             UsePAM {}\n\
             PidFile none\n\
             PrintMotd no\n\
             PrintLastLog no\n\
             SetEnv TUNNEL_NODE={node}\n\
             Subsystem sftp {sftp}\n\
             ForceCommand \"{ssh}/shell-{node}\"\n",
            login.name,
            if login.locked { "yes" } else { "no" },
        )
    }

    /// What a session on `node` runs: the command it asked for, or a shell whose prompt shows where it is.
    fn shell_script(&self, node: &str, login: &Login) -> String {
        let bashrc = self.join(&format!("ssh/bashrc-{node}"));
        let bashrc = format!("'{}'", bashrc.display());
        format!(
            "#!/bin/sh\n\
             if [ -n \"$SSH_ORIGINAL_COMMAND\" ]; then\n    exec {shell} -c \"$SSH_ORIGINAL_COMMAND\"\nfi\n\
             [ -t 0 ] || exec {shell}\n\
             if command -v bash >/dev/null; then\n    exec bash --rcfile {bashrc} -i\nfi\n\
             PS1='{node}$ ' exec /bin/sh -i\n",
            shell = format_args!("'{}'", login.shell.display()),
        )
    }
}

fn bashrc(node: &str) -> String {
    format!("[ -f ~/.bashrc ] && . ~/.bashrc\nPS1='\\u@{node}:\\w\\$ '\nPROMPT_COMMAND=\n")
}

/// The user file's record of one user who is known by a token.
fn users_toml(token: &str) -> String {
    format!(
        "[[user]]\nname = \"{USER}\"\ntokens = [\"{}\"]\nnodes = [\"*\"]\nports = [22]\nadmin = true\n",
        hash_token(token)
    )
}

/// 32 characters that nobody guesses.
fn random_token() -> io::Result<String> {
    let mut bytes = [0; 24];
    fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(URL_SAFE_NO_PAD.encode(bytes))
}

/// A path as TOML's string; JSON's are a part of them.
fn toml_text(path: &Path) -> String {
    serde_json::Value::from(path.to_string_lossy()).to_string()
}

/// Who logs in: who runs the demo.
pub(super) struct Login {
    /// The account's name.
    pub(super) name: String,
    /// Its shell.
    pub(super) shell: PathBuf,
    /// Without PAM sshd refuses an account whose password is locked.
    pub(super) locked: bool,
    /// Whether sshd runs as root, and wants its folder in /run.
    pub(super) root: bool,
}

impl Login {
    /// The account of this process.
    pub(super) fn current() -> Result<Self, String> {
        let uid = nix::unistd::geteuid();
        let user = nix::unistd::User::from_uid(uid)
            .ok()
            .flatten()
            .ok_or_else(|| format!("user id {uid} has no account, and sshd needs one"))?;
        let shadow = fs::read_to_string("/etc/shadow").unwrap_or_default();
        let shell = if user.shell.as_os_str().is_empty() {
            "/bin/sh".into()
        } else {
            user.shell
        };
        Ok(Self {
            locked: is_locked(&shadow, &user.name),
            name: user.name,
            shell,
            root: uid.is_root(),
        })
    }
}

fn is_locked(shadow: &str, name: &str) -> bool {
    shadow
        .lines()
        .filter_map(|line| line.split_once(':'))
        .any(|(user, rest)| user == name && rest.starts_with('!'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_locked_account_is_seen() {
        let shadow = "root:!:1:0:::::\nme:*:1:0:::::\nyou:!$y$x:1:0:::::\n";
        assert!(is_locked(shadow, "root"));
        assert!(!is_locked(shadow, "me"));
        assert!(is_locked(shadow, "you"));
        assert!(!is_locked(shadow, "nobody"));
    }

    #[test]
    fn tokens_differ_and_fit_a_header() {
        let (one, two) = (
            random_token().expect("random"),
            random_token().expect("random"),
        );
        assert_ne!(one, two);
        assert_eq!(one.len(), 32);
        assert!(one.bytes().all(|byte| byte.is_ascii_graphic()));
    }
}
