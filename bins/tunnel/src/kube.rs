//! The way to the cloud through a cluster's API server: the user's own kubectl forwards a port of a replica's Pod. It knows the
//! kubeconfig, login plugins, proxies and every protocol that there is for it.

use std::collections::hash_map::RandomState;
use std::fmt;
use std::hash::{BuildHasher, Hasher};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::Value;

use crate::args::ServerArgs;
use crate::demo;

/// Where tunnel-cloud is, unless we are told.
const NAMESPACE: &str = "edge-system";
/// The label of its Pods.
const LABEL: &str = "app=tunnel-cloud";
/// Their port for links, and that of the admin page.
const LINKS: u16 = 9000;
pub(crate) const ADMIN: u16 = 6000;
/// How long a port-forward may take to be ready, and to say why it ended.
const READY_TIMEOUT: Duration = Duration::from_secs(10);
const LAST_WORDS_TIMEOUT: Duration = Duration::from_secs(1);
/// Links overlap for a moment; more than so many at a time are somebody else's.
const CONNECTIONS_MAX: usize = 8;

/// A cluster with the cloud in it, as the user names it.
#[derive(Clone, Debug)]
pub(crate) struct Cluster {
    context: String,
    /// `None`: kubectl looks where it always does.
    kubeconfig: Option<PathBuf>,
    namespace: String,
}

impl fmt::Display for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            context, namespace, ..
        } = self;
        write!(
            f,
            "tunnel-cloud in namespace {namespace} of context {context}"
        )
    }
}

/// Which Pods are meant.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Pods {
    /// Those that take what is new.
    Ready,
    /// Those that leave, too.
    Serving,
}

impl Cluster {
    /// `None` if none is meant.
    pub(crate) fn of(args: &ServerArgs) -> Option<Cluster> {
        Some(Cluster {
            context: args.kube_context.clone()?,
            kubeconfig: args.kubeconfig.clone(),
            namespace: args.kube_namespace.clone().unwrap_or(NAMESPACE.to_owned()),
        })
    }

    /// The authorities (PEM) that the cloud's certificate is checked against: edges have them from the same place.
    pub(crate) fn ca(&self) -> Result<String, String> {
        let pem = self.ask(&[
            "get",
            "configmap",
            "tunnel-ca",
            "-o",
            r"jsonpath={.data.ca\.crt}",
        ]);
        let pem = pem.map_err(|error| format!("{error} (or set ca, or --ca)"))?;
        match pem.trim().is_empty() {
            true => Err("configmap tunnel-ca has no ca.crt: set ca, or --ca".to_owned()),
            false => Ok(pem),
        }
    }

    /// Asks a port of each replica for something, those that are leaving too.
    pub(crate) fn each<T: Send>(
        &self,
        port: u16,
        ask: impl Fn(SocketAddr) -> Result<T, String> + Sync,
    ) -> Result<Vec<T>, String> {
        let of_pod = |pod: &str| {
            let forward = PortForward::start(self, pod, port)?;
            ask(forward.address).map_err(|error| format!("pod/{pod}: {error}"))
        };
        let pods = self.pods(Pods::Serving)?;
        std::thread::scope(|scope| {
            let asked = pods.iter().map(|pod| scope.spawn(|| of_pod(pod)));
            let asked: Vec<_> = asked.collect();
            let answers = asked.into_iter().map(|asked| asked.join());
            answers
                .map(|answer| answer.unwrap_or_else(|_| Err("a thread panicked".to_owned())))
                .collect()
        })
    }

    fn pods(&self, wanted: Pods) -> Result<Vec<String>, String> {
        let listed = self.ask(&["get", "pods", "-l", LABEL, "-o", "json"])?;
        let listed = serde_json::from_str(&listed)
            .map_err(|error| format!("kubectl get pods: its answer is no JSON: {error}"))?;
        let names = names(&listed, wanted);
        if names.is_empty() {
            return Err(format!(
                "no Pod with label {LABEL} is ready in namespace {} (see --kube-namespace)",
                self.namespace
            ));
        }
        Ok(names)
    }

    /// What kubectl prints.
    fn ask(&self, words: &[&str]) -> Result<String, String> {
        let (mut kubectl, mut stdout) = Kubectl::start(self, words)?;
        let mut said = String::new();
        match stdout.read_to_string(&mut said) {
            Ok(_) if matches!(kubectl.child.wait(), Ok(status) if status.success()) => Ok(said),
            Ok(_) => Err(kubectl.complaint()),
            Err(error) => Err(format!("{}: {error}", kubectl.line)),
        }
    }
}

/// The contexts of the user's kubeconfig; none if it can't be read.
pub(crate) fn contexts() -> Vec<String> {
    let output = Command::new("kubectl")
        .args(["config", "get-contexts", "-o", "name"])
        .stderr(Stdio::null())
        .output();
    let text = output.map(|output| output.stdout).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    text.lines().map(str::to_owned).collect()
}

/// Of a list of Pods, those that are meant.
fn names(list: &Value, wanted: Pods) -> Vec<String> {
    let is_ready = |pod: &Value| {
        let conditions = pod["status"]["conditions"].as_array();
        let mut conditions = conditions.into_iter().flatten();
        conditions.any(|is| is["type"] == "Ready" && is["status"] == "True")
    };
    let pods = list["items"].as_array().into_iter().flatten();
    let leaves = |pod: &Value| !pod["metadata"]["deletionTimestamp"].is_null();
    let meant = pods.filter(|pod| match wanted {
        Pods::Ready => is_ready(pod) && !leaves(pod),
        Pods::Serving => is_ready(pod) || leaves(pod) && pod["status"]["phase"] == "Running",
    });
    let named = meant.filter_map(|pod| pod["metadata"]["name"].as_str());
    named.map(str::to_owned).collect()
}

/// A kubectl that ends with us, however we end, and with this value.
struct Kubectl {
    child: Child,
    line: String,
    /// Its last error, once it has ended.
    error: Receiver<String>,
}

impl Kubectl {
    /// To be kept by the thread that calls this: the kernel ends it with that one.
    fn start(cluster: &Cluster, words: &[&str]) -> Result<(Kubectl, ChildStdout), String> {
        let own = std::env::current_exe();
        let own = own.map_err(|error| format!("cannot find my own path: {error}"))?;
        let mut command = demo::child_command(&own, "kubectl".as_ref());
        if let Some(file) = &cluster.kubeconfig {
            command.arg("--kubeconfig").arg(file);
        }
        command.args(["--context", &cluster.context, "-n", &cluster.namespace]);
        command.args(words);
        command.stdin(Stdio::null());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let spawned = command.spawn();
        let mut child = spawned.map_err(|error| format!("kubectl: {error}"))?;
        let (Some(stdout), Some(stderr)) = (child.stdout.take(), child.stderr.take()) else {
            return Err("kubectl: it has no pipes".to_owned());
        };
        let (tell, error) = channel();
        std::thread::spawn(move || tell.send(heard(stderr)));
        let kubectl = Kubectl {
            child,
            line: format!("kubectl {}", words.join(" ")),
            error,
        };
        Ok((kubectl, stdout))
    }

    /// Ends it; what it was to do, and why it didn't.
    fn complaint(&mut self) -> String {
        let _ = self.child.kill();
        let status = self.child.wait();
        if status.is_ok_and(|status| status.code() == Some(demo::NO_PROGRAM.into())) {
            return "there is no kubectl on the PATH: install it, or use --server".into();
        }
        // A login plugin that outlives it may still hold its stderr.
        match self.error.recv_timeout(LAST_WORDS_TIMEOUT) {
            Ok(why) if !why.is_empty() => format!("{}: {why}", self.line),
            _ => format!("{}: no answer", self.line),
        }
    }
}

impl Drop for Kubectl {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The last error of what kubectl says. The rest is for the user, at once: a login plugin asks by it to be let in.
fn heard(said: impl Read) -> String {
    let mut why = String::new();
    for line in BufReader::new(said).lines().map_while(Result::ok) {
        if is_error(&line) {
            why = line;
        } else {
            let _ = writeln!(io::stderr(), "{line}");
        }
    }
    why
}

/// Errors of kubectl, lines of its libraries' log, and what we say ourselves if we can't become it.
fn is_error(line: &str) -> bool {
    let starts = [
        "error",
        "Error",
        "Unable to connect",
        "The connection to",
        "tunnel: ",
    ];
    let mut log = line.bytes();
    let level = matches!(log.next(), Some(b'E' | b'W' | b'I'));
    starts.iter().any(|start| line.starts_with(start))
        || level && log.take(4).filter(u8::is_ascii_digit).count() == 4
}

/// A port of a Pod, on loopback.
struct PortForward {
    kubectl: Kubectl,
    address: SocketAddr,
    /// Closed when kubectl has ended.
    lines: Receiver<String>,
}

impl PortForward {
    fn start(cluster: &Cluster, pod: &str, port: u16) -> Result<PortForward, String> {
        let (pod, port) = (format!("pod/{pod}"), format!(":{port}"));
        let words = ["port-forward", "--address", "127.0.0.1", &pod, &port];
        let (mut kubectl, stdout) = Kubectl::start(cluster, &words)?;
        let (tell, lines) = channel();
        // It says a line for each connection, and must find somebody who reads it.
        std::thread::spawn(move || {
            let lines = BufReader::new(stdout).lines().map_while(Result::ok);
            lines.for_each(|line| drop(tell.send(line)));
        });
        match lines
            .recv_timeout(READY_TIMEOUT)
            .map(|line| address_of(&line))
        {
            Ok(Some(address)) => Ok(PortForward {
                kubectl,
                address,
                lines,
            }),
            _ => Err(kubectl.complaint()),
        }
    }

    /// After its connection has ended.
    fn complaint(mut self) -> String {
        while self.lines.recv_timeout(LAST_WORDS_TIMEOUT).is_ok() {}
        self.kubectl.complaint()
    }
}

/// Of `Forwarding from 127.0.0.1:40123 -> 9000`.
fn address_of(line: &str) -> Option<SocketAddr> {
    let (address, _) = line.strip_prefix("Forwarding from ")?.split_once(" -> ")?;
    address.parse().ok()
}

/// A port on loopback that leads to a replica, each connection to another one than the last. It is there as long as we are.
pub(crate) struct Forward {
    pub(crate) address: SocketAddr,
    /// How many replicas there were at the start.
    pub(crate) replicas: usize,
    shared: Arc<Shared>,
}

struct Shared {
    cluster: Cluster,
    state: Mutex<State>,
    connections: AtomicUsize,
}

struct State {
    /// From the start, for the first connection.
    known: Option<Vec<String>>,
    /// The Pod of the last connection: it has failed, or is leaving, or there would be no other.
    last: String,
    /// Why the last connection led nowhere.
    failure: String,
}

impl Forward {
    /// Finds the replicas, so that what can't be had is said at once.
    pub(crate) fn start(cluster: &Cluster) -> Result<Forward, String> {
        let pods = cluster.pods(Pods::Ready)?;
        let no_port = |error| format!("no port on loopback: {error}");
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(no_port)?;
        let address = listener.local_addr().map_err(no_port)?;
        let replicas = pods.len();
        let shared = Arc::new(Shared {
            cluster: cluster.clone(),
            state: Mutex::new(State {
                known: Some(pods),
                last: String::new(),
                failure: String::new(),
            }),
            connections: AtomicUsize::new(0),
        });
        let accepting = shared.clone();
        std::thread::spawn(move || {
            loop {
                match listener.accept() {
                    Ok((local, _)) => accepting.take(local),
                    // No descriptors left, say: they come back, and the next try to connect with them.
                    Err(_) => std::thread::sleep(Duration::from_millis(100)),
                }
            }
        });
        Ok(Forward {
            address,
            replicas,
            shared,
        })
    }

    /// Why the last connection led nowhere; empty if it did lead to a replica.
    pub(crate) fn failure(&self) -> String {
        self.shared.state().failure.clone()
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(self: &Arc<Self>, local: TcpStream) {
        if self.connections.fetch_add(1, Ordering::Relaxed) >= CONNECTIONS_MAX {
            self.connections.fetch_sub(1, Ordering::Relaxed);
            return;
        }
        let shared = self.clone();
        std::thread::spawn(move || {
            let ended = shared.carry(&local);
            shared.state().failure = ended.err().unwrap_or_default();
            let _ = local.shutdown(Shutdown::Both);
            shared.connections.fetch_sub(1, Ordering::Relaxed);
        });
    }

    /// Leads a connection to a replica, until one of the two has ended it.
    fn carry(&self, local: &TcpStream) -> Result<(), String> {
        let known = self.state().known.take();
        let pods = known.map_or_else(|| self.cluster.pods(Pods::Ready), Ok)?;
        let pod = {
            let mut state = self.state();
            state.failure.clear();
            state.last = another(&pods, &state.last, random());
            state.last.clone()
        };
        let forward = PortForward::start(&self.cluster, &pod, LINKS)?;
        let remote = TcpStream::connect(forward.address)
            .map_err(|error| format!("kubectl port-forward: {}: {error}", forward.address))?;
        for socket in [local, &remote] {
            let _ = socket.set_nodelay(true);
        }
        let local_ended = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let _ = io::copy(&mut &*local, &mut &remote);
                local_ended.store(true, Ordering::Relaxed);
                let _ = remote.shutdown(Shutdown::Both);
            });
            let led_there = io::copy(&mut &remote, &mut &*local).is_ok_and(|bytes| bytes > 0);
            if led_there || local_ended.load(Ordering::Relaxed) {
                let _ = local.shutdown(Shutdown::Both);
                return Ok(());
            }
            // The end itself is told only when the reason is there.
            let why = forward.complaint();
            let _ = local.shutdown(Shutdown::Read);
            Err(why)
        })
    }
}

/// Any of them but the last one, if there is another.
fn another(pods: &[String], last: &str, random: u64) -> String {
    let others: Vec<&String> = pods.iter().filter(|pod| *pod != last).collect();
    let at = random.checked_rem(others.len() as u64).unwrap_or_default();
    let found = usize::try_from(at)
        .ok()
        .and_then(|at| others.get(at).copied());
    found.map_or_else(|| last.to_owned(), String::clone)
}

/// Users spread over the replicas; std draws its hashers' keys from the system.
fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn pods_that_are_ready_and_stay_are_found() {
        let pod = |name, phase, ready, deleted: Option<&str>| {
            json!({
                "metadata": {"name": name, "deletionTimestamp": deleted},
                "status": {"phase": phase, "conditions": [
                    {"type": "Initialized", "status": "True"},
                    {"type": "Ready", "status": ready},
                ]}
            })
        };
        let list = json!({"items": [
            pod("a", "Running", "True", None),
            pod("b", "Running", "False", None),
            pod("c", "Running", "False", Some("2026-01-01T00:00:00Z")),
            pod("d", "Pending", "False", None),
            {"metadata": {"name": "e"}},
        ]});
        assert_eq!(names(&list, Pods::Ready), ["a"]);
        assert_eq!(names(&list, Pods::Serving), ["a", "c"]);
        assert!(names(&json!([]), Pods::Serving).is_empty());
    }

    #[test]
    fn the_next_pod_is_another_one_if_there_is() {
        let pods = ["a", "b", "c"].map(str::to_owned);
        let drawn: Vec<String> = (0..4).map(|random| another(&pods, "b", random)).collect();
        assert_eq!(drawn, ["a", "c", "a", "c"]);
        assert_eq!(another(&pods[..1], "a", 7), "a");
        assert_eq!(another(&pods[..1], "", 7), "a");
    }

    #[test]
    fn the_port_is_read_from_what_kubectl_says() {
        let address = address_of("Forwarding from 127.0.0.1:40123 -> 9000");
        assert_eq!(address, "127.0.0.1:40123".parse().ok());
        for other in [
            "",
            "Forwarding from [::1]:1",
            "Handling connection for 40123",
        ] {
            assert_eq!(address_of(other), None);
        }
    }

    #[test]
    fn errors_of_kubectl_are_kept_and_the_rest_is_passed_on() {
        for error in [
            "error: context \"x\" does not exist",
            "Error from server (Forbidden): pods is forbidden",
            "Unable to connect to the server: getting credentials: exec: executable x not found",
            "E1128 04:05:37.000000   17 portforward.go:424] \"Unhandled Error\"",
        ] {
            assert!(is_error(error), "{error}");
        }
        for other in ["To sign in, use a web browser", "Enter your code: E12", ""] {
            assert!(!is_error(other), "{other}");
        }
        let said = "E1128 04:05:37.000000 1 x.go:1] no\nerror: lost connection to pod\n";
        assert_eq!(heard(said.as_bytes()), "error: lost connection to pod");
    }
}
