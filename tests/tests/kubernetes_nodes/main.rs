//! Real nodes: what the manifests say, run by kubelets.
#![allow(clippy::unwrap_used)]

mod expected;
mod newcomer;
mod through_kubectl;

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use tunnel_tests::World;
use tunnel_tests::metrics::Metrics;
use tunnel_tests::metrics_adapter;
use tunnel_tests::netns::{Cut, Networks};
use tunnel_tests::nodes::{CLOUD, EDGE, Nodes};
use tunnel_tests::openssh::{Ssh, Sshd};
use tunnel_tests::pages::repository;
use tunnel_tests::session::{Busy, Idle, measured};
use tunnel_tests::wait::{millis, secs, wait_until};

use newcomer::Newcomer;

/// Pods run on both nodes, in images of ours; the edge reaches the cloud, and not the other way round.
#[test]
fn pods_run_on_a_cloud_node_and_on_an_edge_that_lets_nobody_in() {
    let dir = tempfile::tempdir().unwrap();
    let nodes = Nodes::start(dir.path());
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

/// As docs/kubernetes.md says, from nothing to logins through the NodePorts, and on: sessions live through what an operator
/// does, and what is said there of events, probes and logs is so.
#[test]
fn a_newcomer_gets_from_nothing_to_logins_that_live_on() {
    let world = World::new();
    let nodes = Nodes::start(&world.path("cluster"));
    let Networks { edge, client, .. } = &nodes.networks;
    let _sshd = edge.enter(|| Sshd::start_at(&world, "127.0.0.1:22"));
    let k = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        nodes.kubectl(&[&["-n", "edge-system"], words.as_slice()].concat())
    };
    let newcomer = Newcomer::new(&world, &nodes);
    newcomer.logs_in();
    an_autoscaler_is_there(&world, &nodes, &k);
    let by = through_kubectl::logs_in(&world, &nodes, &newcomer, &k);
    the_autoscaler_has_read_its_metric(&k);
    through_kubectl::lives_on(&world, &nodes, &newcomer, &by, &k);
    let ssh = Ssh::by(&world, "edge-a", &[("tunnel", newcomer.proxy_command())]);
    let sessions = client.enter(|| Sessions {
        busy: Busy::start(&ssh, "tunnel"),
        idle: Idle::start(&ssh, "tunnel"),
    });
    live_on(&nodes, &k, sessions);
    expected::all(&nodes, &newcomer, &k);
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

    let leaving = serving(nodes);
    let log = expected::Log::follow(nodes, &leaving);
    k(&format!("delete pod {leaving} --wait=false"));
    log.says("this replica is leaving; its links are asked to go elsewhere");
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

/// The Pod of each replica that stays, and its admin listener.
fn replicas(nodes: &Nodes) -> Vec<(String, String)> {
    let list = "jsonpath={range .items[*]}{.metadata.name}={.status.podIP}={.metadata.deletionTimestamp}{\"\\n\"}{end}";
    let label = ["-n", "edge-system", "get", "pods", "-l", "app=tunnel-cloud"];
    let pods = nodes.kubectl(&[label.as_slice(), &["-o", list]].concat());
    // Nothing stands behind the last sign unless it leaves.
    let pods = pods.lines().filter_map(|line| line.strip_suffix('='));
    let pods = pods.filter_map(|line| line.split_once('='));
    pods.map(|(name, address)| (name.to_owned(), format!("{address}:6000")))
        .collect()
}

/// The links of a kind that a replica says it has, in its network.
fn links(admin: &str, kind: &str) -> Option<f64> {
    Some(Metrics::try_read(admin)?.sum("links", &[("kind", kind)]))
}

/// The replica that has the edge's link.
fn serving(nodes: &Nodes) -> String {
    let found = with_links(nodes, "edge").pop();
    found.expect("a replica has the edge's link")
}

/// The replicas that have links of a kind.
fn with_links(nodes: &Nodes, kind: &str) -> Vec<String> {
    let has = |admin: &str| nodes.networks.cloud.enter(|| links(admin, kind)) > Some(0.0);
    let replicas = replicas(nodes).into_iter();
    let those = replicas.filter(|(_, admin)| has(admin));
    those.map(|(name, _)| name).collect()
}

/// That of deploy/, and what answers its question for a metric by what the replicas' pages say.
fn an_autoscaler_is_there(world: &World, nodes: &Nodes, k: &dyn Fn(&str) -> String) {
    let replicas = replicas(nodes);
    assert_eq!(replicas.len(), 3);
    let identity = world.pki.replica("adapter");
    let read = Arc::new(move || {
        let value = |(name, admin): &(String, String)| Some((name.clone(), links(admin, "edge")?));
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
    let autoscaler = repository("deploy/components/autoscaling/autoscaling.yaml");
    k(&format!("apply -f {}", autoscaler.display()));
}

/// It finds its metric, and takes the mean.
fn the_autoscaler_has_read_its_metric(k: &dyn Fn(&str) -> String) {
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
