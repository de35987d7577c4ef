//! A real Kubernetes control plane on loopback: etcd, kube-apiserver, kube-controller-manager and CoreDNS, by the
//! scripts in tests/cluster.

use std::fs;
use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use serde_json::Value;

/// It ends with the value, and with the test's process.
#[derive(Debug)]
pub struct ControlPlane {
    state: PathBuf,
    bin: PathBuf,
}

/// What is not as usual.
#[derive(Debug, Clone, Default)]
pub struct Setup<'a> {
    /// Variables for `tests/cluster/up`, which says what there are.
    pub environment: Vec<(&'a str, &'a str)>,
}

/// The folder of scripts.
pub fn scripts() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("cluster")
}

/// The folder of programs: `TUNNEL_CLUSTER_BIN`, else what `tests/cluster/build` makes of those that are named.
pub fn programs(wanted: &[&str]) -> PathBuf {
    if let Some(folder) = std::env::var_os("TUNNEL_CLUSTER_BIN") {
        return PathBuf::from(folder);
    }
    let output = Command::new(scripts().join("build"))
        .args(wanted)
        .stderr(Stdio::inherit())
        .output()
        .expect("tests/cluster/build starts");
    assert!(output.status.success(), "the cluster's parts don't build");
    PathBuf::from(String::from_utf8(output.stdout).unwrap().trim())
}

impl ControlPlane {
    /// Starts one whose files are in `dir/plane`.
    pub fn start(dir: &Path, setup: &Setup<'_>) -> Self {
        static BIN: OnceLock<PathBuf> = OnceLock::new();
        let bin = BIN.get_or_init(|| programs(&[])).clone();
        let plane = Self {
            state: dir.join("plane"),
            bin,
        };
        let output = plane
            .script("up")
            .arg(&plane.state)
            .envs(setup.environment.iter().copied())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "the control plane: {said}");
        plane
    }

    /// One of the scripts, with what all of them need in its environment.
    pub fn script(&self, name: &str) -> Command {
        let mut command = Command::new(scripts().join(name));
        command
            .env("CLUSTER_BIN", &self.bin)
            .env("OWNER", std::process::id().to_string())
            .stdin(Stdio::null());
        command
    }

    /// Its folder: certificates in `pki`, logs in `logs`.
    pub fn state(&self) -> &Path {
        &self.state
    }

    /// The administrator's kubeconfig.
    pub fn kubeconfig(&self) -> PathBuf {
        self.state.join("kubeconfig")
    }

    /// The API server's URL.
    pub fn server(&self) -> String {
        self.variable("APISERVER")
    }

    /// Where CoreDNS answers, `IP:PORT`.
    pub fn dns(&self) -> String {
        self.variable("DNS_SERVER")
    }

    /// The process id of a part: `etcd`, `apiserver`, `controller-manager`, `scheduler` or `coredns`.
    pub fn pid(&self, part: &str) -> i32 {
        let text = fs::read_to_string(self.state.join("pids").join(part)).unwrap();
        text.split_whitespace().next().unwrap().parse().unwrap()
    }

    /// Kills a part, and starts it again as it was.
    pub fn start_again(&self, part: &str) {
        let again = self.script("again").arg(&self.state).arg(part).status();
        assert!(again.unwrap().success(), "{part} does not start again");
    }

    /// `kubectl` as the administrator.
    pub fn kubectl(&self, line: &[&str]) -> Command {
        let mut command = Command::new(self.bin.join("kubectl"));
        command
            .env("KUBECONFIG", self.kubeconfig())
            .args(line)
            .stdin(Stdio::null());
        command
    }

    /// What `kubectl` prints, which must succeed.
    #[track_caller]
    pub fn ask(&self, line: &[&str]) -> String {
        let output = self.kubectl(line).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success(),
            "kubectl {}: {said}",
            line.join(" ")
        );
        String::from_utf8(output.stdout).unwrap()
    }

    /// `kubectl get … -o json`.
    #[track_caller]
    pub fn get(&self, line: &[&str]) -> Value {
        let line = [&["get", "-o", "json"], line].concat();
        serde_json::from_str(&self.ask(&line)).unwrap()
    }

    /// `kubectl apply` of manifests.
    #[track_caller]
    pub fn apply(&self, manifests: &str) {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), manifests).unwrap();
        self.ask(&["apply", "-f", file.path().to_str().unwrap()]);
    }

    fn variable(&self, name: &str) -> String {
        let text = fs::read_to_string(self.state.join("env")).unwrap();
        let line = format!("export {name}=");
        let found = text.lines().find_map(|known| known.strip_prefix(&line));
        found.expect("up wrote it").to_owned()
    }
}

impl Drop for ControlPlane {
    fn drop(&mut self) {
        let is_there = self.state.join("pids").exists();
        assert!(
            is_there || std::thread::panicking(),
            "the control plane's files went before it: nothing can end it any more"
        );
        let _ = self.script("down").arg(&self.state).status();
        if std::thread::panicking() {
            for part in ["apiserver", "controller-manager", "coredns"] {
                let log = self.state.join("logs").join(format!("{part}.log"));
                let log = fs::read_to_string(log).unwrap_or_default();
                let lines: Vec<&str> = log.lines().collect();
                let end = lines[lines.len().saturating_sub(30)..].join("\n");
                eprintln!("--- log of {part} ---\n{end}");
            }
        }
    }
}

/// The IPv4 addresses that a DNS server tells of a name, in order; none if it knows none.
pub fn resolve(server: &str, name: &str) -> Vec<String> {
    let mut query = vec![7, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        query.push(label.len() as u8);
        query.extend(label.bytes());
    }
    query.extend([0, 0, 1, 0, 1]);
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    socket
        .set_read_timeout(Some(Duration::from_secs(2)))
        .unwrap();
    let mut answer = [0; 4096];
    let Ok(len) = socket
        .send_to(&query, server)
        .and_then(|_| socket.recv(&mut answer))
    else {
        return Vec::new();
    };
    let mut records = &answer[query.len().min(len)..len];
    let mut found = Vec::new();
    // A name, then type, class, time to live, a length of 4 and the address.
    while let [0, 1, 0, 1, _, _, _, _, 0, 4, a, b, c, d, rest @ ..] = behind_name(records) {
        found.push(format!("{a}.{b}.{c}.{d}"));
        records = rest;
    }
    found.sort();
    found
}

/// What follows a name: labels with their lengths, up to an empty one or a pointer.
fn behind_name(mut bytes: &[u8]) -> &[u8] {
    loop {
        match bytes {
            [0, rest @ ..] | [0xc0..=0xff, _, rest @ ..] => return rest,
            [len, ..] if bytes.len() > usize::from(*len) => bytes = &bytes[usize::from(*len) + 1..],
            _ => return &[],
        }
    }
}
