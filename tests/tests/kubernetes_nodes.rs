//! Real nodes: what the manifests say, run by kubelets.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use tunnel_tests::World;
use tunnel_tests::binaries::binary;
use tunnel_tests::metrics::Metrics;
use tunnel_tests::metrics_adapter;
use tunnel_tests::netns::{Cut, Networks};
use tunnel_tests::nodes::{CLOUD, EDGE, Image, Nodes};
use tunnel_tests::openssh::{Ssh, Sshd};
use tunnel_tests::session::{Busy, Idle, measured};
use tunnel_tests::wait::{millis, secs, wait_until};
use tunnel_tests::world::{TOKEN, User};

/// Pods run on both nodes, in images of ours; the edge reaches the cloud, and not the other way round.
#[test]
fn pods_run_on_a_cloud_node_and_on_an_edge_that_lets_nobody_in() {
    let dir = tempfile::tempdir().unwrap();
    let nodes = Nodes::start(dir.path(), &[]);
    let pods = dir.path().join("pods.yaml");
    let restricted = "securityContext: {allowPrivilegeEscalation: false, readOnlyRootFilesystem: true, \
                      runAsNonRoot: true, runAsUser: 65532, capabilities: {drop: [ALL]}, \
                      seccompProfile: {type: RuntimeDefault}}";
    let mut text = String::new();
    for (node, more) in [("cloud-a", ""), ("edge-a", "hostNetwork: true, ")] {
        text.push_str(&format!(
            "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: on-{node}}}\nspec: {{nodeName: {node}, {more}\
             terminationGracePeriodSeconds: 5, containers: [{{name: main, image: \"localhost/pause:test\", {restricted}}}]}}\n"
        ));
    }
    std::fs::write(&pods, text).unwrap();
    nodes.kubectl(&["apply", "-f", pods.to_str().unwrap()]);
    nodes.kubectl(&[
        "wait",
        "--for=condition=Ready",
        "pod/on-cloud-a",
        "pod/on-edge-a",
        "--timeout=90s",
    ]);
    let address = |pod: &str| nodes.kubectl(&["get", "pod", pod, "-o", "jsonpath={.status.podIP}"]);
    assert_eq!(
        address("on-edge-a"),
        EDGE,
        "an edge's Pod has the node's network"
    );
    assert!(address("on-cloud-a").starts_with("10.244.1."));

    let connect =
        |to: &str| std::net::TcpStream::connect_timeout(&to.parse().unwrap(), secs(2)).map(drop);
    let kubelet = |host: &str| format!("{host}:10250");
    wait_until("the edge reaches the cloud", secs(10), || {
        nodes
            .networks
            .edge
            .enter(|| connect(&kubelet(CLOUD)))
            .is_ok()
    });
    let refused = nodes.networks.cloud.enter(|| connect(&kubelet(EDGE)));
    assert!(refused.is_err(), "the cloud reaches the edge's kubelet");
}

/// The manifests as written, but for the cloud's address, where this test's sshd is and where the edge's token lies:
/// logins from elsewhere through the NodePorts.
#[test]
fn ssh_reaches_the_edge_through_the_manifests_as_written() {
    let world = World::new();
    let nodes = Nodes::start(
        &world.path("cluster"),
        &["tunnel-cloud", "tunnel-edge"].map(|name| Image {
            name: match name {
                "tunnel-cloud" => "docker.io/library/tunnel-cloud:0.1.0",
                _ => "docker.io/library/tunnel-edge:0.1.0",
            },
            program: binary(name),
        }),
    );
    let Networks { edge, client, .. } = &nodes.networks;
    let sshd = edge.enter(|| Sshd::start(&world));
    let k = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        nodes.kubectl(&[&["-n", "edge-system"], words.as_slice()].concat())
    };
    give_credentials(&world, &k);
    k("label node edge-a node-role.kubernetes.io/edge=");
    k(&format!(
        "apply -k {}",
        manifests(&world, &sshd.address()).display()
    ));
    for what in ["deployment/tunnel-cloud", "daemonset/tunnel-edge"] {
        k(&format!("rollout status {what} --timeout=120s"));
    }

    // The Job has made it.
    let ca = k("get configmap tunnel-ca -o jsonpath={.data.ca\\.crt}");
    let ca = world.write("job-ca.crt", &ca);
    let port = k("get service tunnel-cloud -o jsonpath={.spec.ports[?(@.name==\"ssh\")].nodePort}");
    let config = format!(
        "server = \"grpcs://10.77.1.1:31900\"\nserver_name = \"tunnel.cloud.io\"\nca = {:?}\ntoken_file = {:?}\n",
        ca,
        world.path("alice-token"),
    );
    let config = world.write("tunnel.toml", &config);
    let tunnel = format!(
        "{} --config {}",
        binary("tunnel").display(),
        config.display()
    );
    let corkscrew = format!(
        "corkscrew 10.77.1.1 {port} %h %p {}",
        world.path("alice-password").display()
    );
    let ssh = Ssh::by(
        &world,
        "edge-a",
        &[
            ("tunnel", format!("{tunnel} connect %h %p")),
            ("corkscrew", corkscrew),
        ],
    );
    client.enter(|| {
        for alias in ["tunnel", "corkscrew"] {
            wait_until("a login through the NodePort", secs(30), || {
                ssh.run(alias, "echo hello").stdout == b"hello\n"
            });
        }
    });
    the_autoscaler_reads_its_metric(&world, &nodes, &k);
    let sessions = client.enter(|| Sessions {
        busy: Busy::start(&ssh, "tunnel"),
        idle: Idle::start(&ssh, "tunnel"),
    });
    live_on(&nodes, &k, sessions);
}

/// Of what takes 3 s itself, on a machine that is busy with a cluster. Less than the pauses of two processes of one node.
const STALL_MAX: Duration = millis(4900);

/// Sessions of `tunnel`, one that bytes run through and one that waits.
struct Sessions {
    busy: Busy,
    idle: Idle,
}

impl Sessions {
    /// Both answer after what has just happened; how long the busy one stood still is printed.
    fn answer(&mut self, after: &str) {
        self.idle.ask("still there");
        self.busy.moves_after(Instant::now(), secs(40));
        let stall = self.busy.stall();
        measured(after, &[("stall", stall)]);
        assert!(stall <= STALL_MAX, "{after}: {stall:?}");
    }
}

/// They live through all that an operator does to a cluster, and what happens to an edge's line.
fn live_on(nodes: &Nodes, k: &dyn Fn(&str) -> String, mut sessions: Sessions) {
    sessions.answer("nothing");
    let line = nodes.networks.edge_line();
    line.cut(Cut::Drop);
    thread::sleep(secs(3));
    line.mend(Cut::Drop);
    sessions.answer("the edge's line was cut for 3 s");

    k(&format!("delete pod {} --wait=false", serving(nodes)));
    sessions.answer("the serving replica is deleted");
    k("rollout status deployment/tunnel-cloud --timeout=120s");
    sessions.answer("it has a successor");

    k("rollout restart deployment/tunnel-cloud");
    k("rollout status deployment/tunnel-cloud --timeout=180s");
    sessions.answer("all replicas are replaced");

    k("rollout restart daemonset/tunnel-edge");
    let leaving = "get pods -l app=tunnel-edge -o jsonpath={.items[*].metadata.deletionTimestamp}";
    wait_until("the edge's Pod has a successor", secs(120), || {
        !k(leaving).is_empty()
    });
    sessions.answer("the edge has a successor");
    let status = "get daemonset/tunnel-edge -o jsonpath={.status.updatedNumberScheduled}";
    assert_eq!(k(status), "", "counted only when the last one has gone");
    sessions.idle.finish();
    sessions.busy.finish();
    // Kept for its sessions, and for no longer.
    k("rollout status daemonset/tunnel-edge --timeout=60s");
}

/// Each replica's Pod, and its admin listener.
fn replicas(nodes: &Nodes) -> Vec<(String, String)> {
    let list = "jsonpath={range .items[*]}{.metadata.name}={.status.podIP}{\"\\n\"}{end}";
    let label = ["-n", "edge-system", "get", "pods", "-l", "app=tunnel-cloud"];
    let pods = nodes.kubectl(&[label.as_slice(), &["-o", list]].concat());
    let pods = pods.lines().filter_map(|line| line.split_once('='));
    pods.map(|(name, address)| (name.to_owned(), format!("{address}:6000")))
        .collect()
}

/// The links of edges that a replica says it has, in its network.
fn edges(admin: &str) -> Option<f64> {
    Some(Metrics::try_read(admin)?.sum("links", &[("kind", "edge")]))
}

/// The replica that has the edge's link.
fn serving(nodes: &Nodes) -> String {
    let has = |admin: &str| nodes.networks.cloud.enter(|| edges(admin)) == Some(1.0);
    let found = replicas(nodes).into_iter().find(|(_, admin)| has(admin));
    found.expect("a replica has the edge's link").0
}

/// The autoscaler of deploy/ finds its metric: the mean of what the replicas' pages say.
fn the_autoscaler_reads_its_metric(world: &World, nodes: &Nodes, k: &dyn Fn(&str) -> String) {
    let replicas = replicas(nodes);
    assert_eq!(replicas.len(), 3);
    let identity = world.pki.replica("adapter");
    let read = Arc::new(move || {
        let value = |(name, admin): &(String, String)| Some((name.clone(), edges(admin)?));
        replicas.iter().filter_map(value).collect()
    });
    let adapter = nodes
        .networks
        .cloud
        .enter(|| metrics_adapter::serve(CLOUD, &identity, "edge-system", "tunnel_links", read));
    let (address, port) = (adapter.ip(), adapter.port());
    let service = world.write(
        "adapter.yaml",
        &format!(
            "apiVersion: v1
kind: Service
metadata: {{name: adapter, namespace: edge-system}}
spec: {{ports: [{{port: 443, targetPort: {port}}}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: adapter, namespace: edge-system, labels: {{kubernetes.io/service-name: adapter}}}}
addressType: IPv4
endpoints: [{{addresses: [{address}]}}]
ports: [{{port: {port}}}]
---
apiVersion: apiregistration.k8s.io/v1
kind: APIService
metadata: {{name: v1beta1.custom.metrics.k8s.io}}
spec: {{group: custom.metrics.k8s.io, version: v1beta1, groupPriorityMinimum: 100, versionPriority: 100,
  insecureSkipTLSVerify: true, service: {{name: adapter, namespace: edge-system}}}}
"
        ),
    );
    k(&format!("apply -f {}", service.display()));
    let deploy = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy");
    let autoscaler = deploy.join("components/autoscaling/autoscaling.yaml");
    k(&format!("apply -f {}", autoscaler.display()));
    wait_until(
        "the autoscaler has read the replicas' links",
        secs(90),
        || {
            // One link, three replicas.
            k(
                "get hpa tunnel-cloud -o jsonpath={.status.currentMetrics[0].pods.current.averageValue}",
            ) == "333m"
        },
    );
}
fn give_credentials(world: &World, k: &dyn Fn(&str) -> String) {
    let user = User {
        name: "alice",
        password: "wonderland",
        token: "alice-bearer-token",
        nodes: &["edge-*"],
        ports: &[22],
        admin: true,
    };
    world.write_users(&[user]);
    world.write("alice-token", user.token);
    world.write("alice-password", "alice:wonderland");
    let tokens = world.write("edge-tokens", &format!("edge-a:{TOKEN}\n"));
    let token = world.write("edge-token", TOKEN);
    std::os::unix::fs::chown(&token, Some(65532), Some(65532)).unwrap();
    k("create namespace edge-system");
    for (secret, files) in [
        (
            "tunnel-tokens",
            format!("--from-file=tokens={}", tokens.display()),
        ),
        (
            "tunnel-users",
            format!(
                "--from-file=users.toml={}",
                world.path("users.toml").display()
            ),
        ),
    ] {
        k(&format!("create secret generic {secret} {files}"));
    }
}

/// A copy of deploy/kubernetes with this test's places in it.
fn manifests(world: &World, sshd: &str) -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/kubernetes");
    let copy = world.path("manifests");
    fs::create_dir_all(&copy).unwrap();
    for file in fs::read_dir(source).unwrap().map(Result::unwrap) {
        let text = fs::read_to_string(file.path()).unwrap();
        let mut text = text.replace("cloud.example.com:31900", &format!("{CLOUD}:31900"));
        if file.file_name() == "edge.toml" {
            text.push_str(&format!("targets = {{ map = {{ 22 = {sshd:?} }} }}\n"));
        }
        let token = world.path("edge-token").display().to_string();
        let text = text.replace("path: /etc/tunnel/token,", &format!("path: {token},"));
        fs::write(copy.join(file.file_name()), text).unwrap();
    }
    copy
}
