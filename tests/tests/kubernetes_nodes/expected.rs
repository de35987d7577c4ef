//! What docs/kubernetes.md says is to be expected: events, probes and lines of logs.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;

use serde_json::Value;
use tunnel_tests::nodes::Nodes;
use tunnel_tests::pages::{between, read};
use tunnel_tests::wait::{secs, wait_until};

use crate::newcomer::Newcomer;
use crate::replicas;

pub(crate) fn all(nodes: &Nodes, newcomer: &Newcomer<'_>, k: &dyn Fn(&str) -> String) {
    logins(nodes, newcomer, k);
    edges(nodes);
    missing_secret(newcomer, k);
    wrong_configuration(newcomer, k);
}

/// A word of the page's table; so that the page says what is tested here.
#[track_caller]
fn page(words: &str) -> &str {
    let page = read("docs/kubernetes.md");
    let table = between(&page, "## What to expect", "\n## ");
    assert!(table.contains(words), "the page does not say {words:?}");
    words
}

/// The lines of the replicas' logs, each an object.
fn log(nodes: &Nodes) -> Vec<Value> {
    let of_pod = |(pod, _): (String, String)| {
        let mut command = nodes.plane.kubectl(&["-n", "edge-system", "logs", &pod]);
        // One that leaves meanwhile has none.
        let output = nodes.networks.cloud.enter(|| command.output().unwrap());
        String::from_utf8(output.stdout).unwrap()
    };
    let text: String = replicas(nodes).into_iter().map(of_pod).collect();
    let lines = text
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok());
    lines.collect()
}

/// Those with a message that the page has too.
#[track_caller]
fn lines(nodes: &Nodes, message: &str) -> Vec<Value> {
    let message = page(message);
    let mut lines = log(nodes);
    lines.retain(|line| {
        line["message"]
            .as_str()
            .is_some_and(|said| said.contains(message))
    });
    lines
}

fn logins(nodes: &Nodes, newcomer: &Newcomer<'_>, k: &dyn Fn(&str) -> String) {
    for message in ["tunnel-cloud is ready", "another replica is reached"] {
        assert!(lines(nodes, message).len() >= 3, "{message}");
    }
    let up = lines(nodes, "a link is up");
    let of_edge = up.iter().find(|line| line["node"] == "edge-a");
    assert!(
        of_edge.is_some_and(|line| line["dialect"] == "v1"),
        "{up:?}"
    );
    let down = lines(nodes, "a link is down");
    assert!(
        down.iter().all(|line| line["reason"].is_string()),
        "{down:?}"
    );

    // Of its own: what was there before may have ended at a replica that has left with its log.
    let line = newcomer.line(6, "ssh -o ProxyCommand='corkscrew");
    assert!(newcomer.tries(&line).status.success());
    fs::write(newcomer.home().join(".config/tunnel/auth"), "ann:wrong").unwrap();
    assert!(!newcomer.tries(&line).status.success());
    let mut refused = Vec::new();
    wait_until("a refused login is in the log", secs(10), || {
        refused = lines(nodes, "a CONNECT was refused");
        !refused.is_empty()
    });
    let told = |line: &Value| (line["code"].clone(), line["reason"].clone());
    assert!(
        refused
            .iter()
            .any(|line| told(line) == (407.into(), "auth-failed".into())),
        "{refused:?}"
    );

    page(
        "an audit record, a line without `level`: `user`, `node`, `target`, `duration_ms`, `bytes_to_edge`, `bytes_from_edge`, `reason`",
    );
    let told = |line: &Value| {
        let numbers = ["duration_ms", "bytes_to_edge", "bytes_from_edge"];
        let texts = [
            ("user", "ann"),
            ("node", "edge-a"),
            ("target", "127.0.0.1:22"),
        ];
        texts.iter().all(|(key, text)| line[key] == *text)
            && line["reason"].is_string()
            && numbers.iter().all(|key| line[key].as_u64() > Some(0))
    };
    // A node that is busy with a cluster may answer one question for a log with an error.
    wait_until("a login's end is in the log", secs(20), || {
        let lines = log(nodes);
        let records: Vec<&Value> = lines
            .iter()
            .filter(|line| line["level"].is_null())
            .collect();
        println!("{} lines, records: {records:?}", lines.len());
        records.into_iter().any(told)
    });

    let events = k("get events -o jsonpath={.items[*].reason}");
    for reason in ["Scheduled", "Pulled", "Created", "Started", "Killing"] {
        assert!(events.contains(page(reason)), "{reason}: {events}");
    }
}

/// What `crictl logs` shows on the node; the API server has no way there.
fn edges(nodes: &Nodes) {
    let mut found = String::new();
    let mut folders = vec![nodes.folder("edge-a").join("podlogs")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
            match entry.file_type().unwrap().is_dir() {
                true => folders.push(entry.path()),
                false => found.push_str(&fs::read_to_string(entry.path()).unwrap_or_default()),
            }
        }
    }
    assert!(found.contains(page("tunnel-edge is running")), "{found}");
}

/// No replica, so that no edge is ready; then replicas that wait for their Secret, and are there when it is.
fn missing_secret(newcomer: &Newcomer<'_>, k: &dyn Fn(&str) -> String) {
    k("delete hpa tunnel-cloud");
    k("scale deployment/tunnel-cloud --replicas=0");
    let ready = "get daemonset/tunnel-edge -o jsonpath={.status.numberReady}";
    page("not ready without one");
    wait_until("the edge is not ready", secs(60), || k(ready) == "0");
    k("delete secret tunnel-tokens");
    let install = newcomer.line(4, "tunnel install --set");
    let install = install.replace("--dry-run | less", "");
    newcomer.types(&format!("{install} --set cloud.connect.auth=none"));
    page("FailedMount … secret \"tunnel-tokens\" not found");
    let failed = "get events --field-selector reason=FailedMount -o jsonpath={.items[*].message}";
    wait_until("its absence is an event", secs(60), || {
        k(failed).contains("secret \"tunnel-tokens\" not found")
    });
    let waiting = k("get pods -l app=tunnel-cloud");
    assert!(waiting.contains(page("ContainerCreating")), "{waiting}");
    newcomer.types(&newcomer.line(
        3,
        "kubectl -n edge-system create secret generic tunnel-tokens",
    ));
    k("rollout status deployment/tunnel-cloud --timeout=120s");
    wait_until("the edge is ready", secs(30), || k(ready) == "1");
    newcomer.logs_in_by_nc();
}

/// The next replica doesn't start, and says why; the others stay.
fn wrong_configuration(newcomer: &Newcomer<'_>, k: &dyn Fn(&str) -> String) {
    let install = newcomer.line(4, "tunnel install --set");
    let install = install.replace("--dry-run | less", "");
    newcomer.types(&format!(
        "{install} --set 'cloud.moreConfig=limits = {{ connects = 1 }}'"
    ));
    let failed = "get pods -l app=tunnel-cloud -o jsonpath=\
                  {.items[?(@.status.containerStatuses[*].lastState.terminated.exitCode==78)].metadata.name}";
    let mut pod = String::new();
    wait_until(page("exit code 78"), secs(60), || {
        pod = k(failed);
        !pod.is_empty()
    });
    page("a line for each mistake, with file, line and column");
    let mut log = String::new();
    wait_until("the last container's log is there", secs(30), || {
        log = k(&format!("logs {pod} --previous"));
        log.contains("/etc/tunnel/cloud.toml:")
    });
    let (_, place) = log.split_once("/etc/tunnel/cloud.toml:").unwrap();
    let place: Vec<&str> = place.splitn(3, ':').collect();
    assert!(
        place[0].parse::<u32>().is_ok() && place[1].parse::<u32>().is_ok(),
        "{log}"
    );
    assert!(place[2].contains("connects"), "{log}");
    let backoff = format!(
        "get events --field-selector reason={} -o name",
        page("BackOff")
    );
    wait_until("it is an event", secs(30), || !k(&backoff).is_empty());
}

/// A Pod's log, as it is written.
pub(crate) struct Log {
    kubectl: Child,
    lines: Receiver<String>,
}

impl Log {
    pub(crate) fn follow(nodes: &Nodes, pod: &str) -> Log {
        let line = ["-n", "edge-system", "logs", "-f", "--tail=1", pod];
        let mut command = nodes.plane.kubectl(&line);
        command.stdout(Stdio::piped());
        let mut kubectl = nodes.networks.cloud.enter(|| command.spawn().unwrap());
        let stdout = BufReader::new(kubectl.stdout.take().unwrap());
        let (tell, lines) = channel();
        thread::spawn(move || {
            let lines = stdout.lines().map_while(Result::ok);
            lines.for_each(|line| drop(tell.send(line)));
        });
        let log = Log { kubectl, lines };
        // It is read from now on.
        log.next();
        log
    }

    #[track_caller]
    fn next(&self) -> String {
        self.lines
            .recv_timeout(secs(30))
            .expect("a line of the log")
    }

    /// Waits for a line with this in it, which stands on the page too.
    #[track_caller]
    pub(crate) fn says(&self, words: &str) {
        while !self.next().contains(page(words)) {}
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        let _ = self.kubectl.kill();
        let _ = self.kubectl.wait();
    }
}
