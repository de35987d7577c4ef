//! Replicas in a cluster whose registry is SuperEdge's ConfigMap `tunnel-nodes`: shared through the real API server, and served by
//! the real CoreDNS from the file that a kubelet makes of it. Needs root, for a network of its own.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::PathBuf;
use std::time::Instant;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tunnel_tests::base_peers::BaseEdge;
use tunnel_tests::coredns::CoreDns;
use tunnel_tests::fake_edge::FakeEdge;
use tunnel_tests::in_cluster::{InCluster, NAMESPACE, address, alone};
use tunnel_tests::kubernetes::{Setup, resolve};
use tunnel_tests::openssh::{Ssh, Sshd};
use tunnel_tests::pages::repository;
use tunnel_tests::pki::replace;
use tunnel_tests::targets::Target;
use tunnel_tests::wait::{millis, secs, wait_until};
use tunnel_tests::world::TOKEN;
use tunnel_tests::{Connect, Edge};

/// What SuperEdge's own replica, and whoever else, has written.
const FOREIGN: &str = "# kept\n10.9.9.9    node-x\n";
/// Replicas that are told what a name in DNS is by nobody but this registry.
const REPLICAS: usize = 3;

/// Each replica is a way to the node, and CoreDNS with the Corefile of deploy/ answers with the one that holds it. A node that moves
/// moves there, one that flaps costs nothing, nor does a process that starts again; at rest nothing is written. Whoever
/// leaves takes his lines along, and nobody else's.
#[test]
fn replicas_share_the_configmap_and_coredns_answers_from_it() {
    alone(|| {
        let mut cluster = start(REPLICAS, FOREIGN);
        cluster.wait_linked();
        let kubelet = Kubelet::new(&cluster);
        let dns = CoreDns::start_by(&cluster.world, &kubelet.corefile());
        let sshd = Sshd::start(&cluster.world);
        let mut edge = edge(&cluster, "node-A", 1, &sshd.address());
        wait_hosts(&cluster, &[line(1, "node-a")]);
        kubelet.sync(&cluster);
        wait_until("CoreDNS answers", secs(10), || {
            resolve(&dns.address, "node-a") == [address(1)]
        });
        assert_eq!(resolve(&dns.address, "node-x"), ["10.9.9.9"]);
        for replica in cluster.replicas.iter().flatten() {
            let ssh = Ssh::new(&cluster.world, replica);
            wait_until("a login", secs(20), || {
                let output = ssh.run("nc", "echo hello");
                output.status.success() && output.stdout == b"hello\n"
            });
        }
        assert_eq!(cluster.writes("ok"), 1.0, "one change, one write");

        // It flaps: nothing is written. It moves: at once.
        edge.process.kill();
        wait_links(&cluster, 1, 0.0);
        edge = self::edge(&cluster, "node-A", 1, &sshd.address());
        let writes = cluster.requests_for("configmaps");
        edge.process.kill();
        wait_links(&cluster, 1, 0.0);
        let _edge = self::edge(&cluster, "node-A", 2, &sshd.address());
        let moved = Instant::now();
        wait_hosts(&cluster, &[line(2, "node-a")]);
        assert!(moved.elapsed() < secs(5), "{:?}", moved.elapsed());
        for at in 0..REPLICAS {
            let begun = Instant::now();
            drop(cluster.open(at, "node-A"));
            assert!(begun.elapsed() < secs(1), "{:?}", begun.elapsed());
        }
        kubelet.sync(&cluster);
        wait_until("CoreDNS has heard of it", secs(10), || {
            resolve(&dns.address, "node-a") == [address(2)]
        });
        let changes = cluster.requests_for("configmaps") - writes;
        assert!(changes <= 3.0, "{changes} for what came and what went");

        // A process that starts again in its Pod takes over what it finds.
        let _other = self::edge(&cluster, "node-B", 0, &sshd.address());
        wait_hosts(&cluster, &[line(0, "node-b"), line(2, "node-a")]);
        let version = version(&cluster);
        cluster.replicas[2].take().unwrap().process.kill();
        cluster.begin(2);
        wait_links(&cluster, 2, 1.0);
        cluster.wait_linked();
        std::thread::sleep(secs(12)); // Longer than a node may be away unnoticed.
        assert_eq!(self::version(&cluster), version, "it stood there already");

        let mut leaving = cluster.replicas[2].take().unwrap();
        leaving.process.signal(Signal::SIGTERM);
        assert!(leaving.process.exit(secs(20)).success());
        wait_hosts(&cluster, &[line(0, "node-b")]);
    });
}

/// How often it is tried at most.
const ROUNDS: usize = 8;

/// Three replicas and somebody else write at the same moment: the API server stands still until all of them have asked. What one
/// of them has read is old for the others by then.
#[test]
fn writers_that_collide_lose_nothing() {
    alone(|| {
        let cluster = start(REPLICAS, FOREIGN);
        cluster.wait_linked();
        let echo = Target::echo();
        let node = |round: usize, at: usize| format!("node-{round}{at}");
        let names = (0..ROUNDS).flat_map(|round| (0..REPLICAS).map(move |at| node(round, at)));
        let_in(&cluster, &names.collect::<Vec<_>>());
        let (mut edges, mut lines, mut foreign) = (Vec::new(), Vec::new(), FOREIGN.to_owned());
        let mut conflicts = 0.0;
        for round in 0..ROUNDS {
            if round >= 2 && conflicts > 0.0 {
                break;
            }
            let api = Pid::from_raw(cluster.plane.pid("apiserver"));
            kill(api, Signal::SIGSTOP).unwrap();
            for at in 0..REPLICAS {
                let node = node(round, at);
                edges.push(edge(&cluster, &node, at, &echo.address()));
                lines.push(line(at, &node));
            }
            std::thread::sleep(millis(300)); // Longer than changes are collected.
            kill(api, Signal::SIGCONT).unwrap();
            foreign.push_str(&format!("10.9.9.{round} node-y{round}\n"));
            add_line(&cluster, &format!("10.9.9.{round} node-y{round}"));
            wait_until("all of it stands there", secs(20), || {
                own(&hosts(&cluster)) == sorted(&lines)
            });
            assert_eq!(others(&hosts(&cluster)), foreign);
            conflicts += cluster.writes("conflict");
        }
        assert!(conflicts > 0.0, "nobody was in anybody's way");
        assert_eq!(cluster.writes("failed") + cluster.writes("forbidden"), 0.0);
        eprintln!("measured: {conflicts} conflicts, nothing lost");
    });
}

/// Lines of a replica that died with its Pod go, whoever finds them. Others' stay, also where one has the dead one's address by now.
#[test]
fn lines_of_a_dead_replica_are_taken_away_and_no_others() {
    alone(|| {
        let mut cluster = start(2, FOREIGN);
        cluster.wait_linked();
        let echo = Target::echo();
        let _edge = edge(&cluster, "node-A", 0, &echo.address());
        wait_hosts(&cluster, &[line(0, "node-a")]);
        // SuperEdge's replica has the address of one of ours that is no more.
        cluster.plane.apply(&format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: superedge, namespace: {NAMESPACE}}}\nspec: {{containers: [{{name: main, image: none}}]}}\n"
        ));
        let ip = format!(
            "{{\"status\":{{\"podIP\":\"{0}\",\"podIPs\":[{{\"ip\":\"{0}\"}}]}}}}",
            address(3)
        );
        cluster.kubectl(&[
            "patch",
            "pod",
            "superedge",
            "--subresource=status",
            "--type=merge",
            "-p",
            &ip,
        ]);
        add_line(&cluster, &line(3, "node-s"));
        let marks = annotation(&cluster);
        assert!(
            marks.contains(&format!("\"{}\":\"cloud-0/", address(0))),
            "{marks}"
        );
        let both = marks.replace('}', &format!(",\"{}\":\"gone/0-0\"}}", address(3)));
        cluster.kubectl(&[
            "annotate",
            "--overwrite",
            "configmap",
            "tunnel-nodes",
            &format!("{MARKS}={both}"),
        ]);

        cluster.delete(0);
        cluster.replicas[1].take().unwrap().process.kill();
        cluster.begin(1);
        wait_until("only others' lines are left", secs(30), || {
            hosts(&cluster) == format!("{FOREIGN}{}\n", line(3, "node-s"))
                && annotation(&cluster).is_empty()
        });

        // Who comes to have the address has the lines: those that are not his go.
        add_line(&cluster, &line(1, "node-z"));
        wait_until("that is no node of this replica's", secs(30), || {
            hosts(&cluster) == format!("{FOREIGN}{}\n", line(3, "node-s"))
        });
    });
}

/// Each right that deploy/ gives is needed for something, and what is missing is said.
#[test]
fn every_right_is_needed_and_a_missing_one_is_told() {
    alone(|| {
        let mut cluster = start(2, "");
        cluster.wait_linked();
        let echo = Target::echo();
        for (resource, verb) in [
            ("configmaps", "get"),
            ("configmaps", "watch"),
            ("configmaps", "update"),
            ("configmaps", "create"),
            ("pods", "get"),
            ("pods", "list"),
        ] {
            let without = |of: &str, verbs: &[&str]| {
                let left = verbs.iter().filter(|one| (of, **one) != (resource, verb));
                left.copied().collect::<Vec<_>>().join(", ")
            };
            // A rule must have a verb.
            let create = match (resource, verb) {
                ("configmaps", "create") => "deletecollection",
                _ => "create",
            };
            cluster.plane.apply(&format!(
                "apiVersion: rbac.authorization.k8s.io/v1\nkind: Role\nmetadata: {{name: tunnel-cloud, namespace: {NAMESPACE}}}\nrules:\n\
                 - {{apiGroups: [\"\"], resources: [configmaps], resourceNames: [tunnel-nodes], verbs: [{}]}}\n\
                 - {{apiGroups: [\"\"], resources: [configmaps], verbs: [{create}]}}\n- {{apiGroups: [\"\"], resources: [pods], verbs: [{}]}}\n",
                without("configmaps", &["get", "watch", "update"]),
                without("pods", &["get", "list"]),
            ));
            for at in 0..2 {
                cluster.replicas[at].take().unwrap().process.kill();
            }
            cluster.kubectl(&["delete", "configmap", "tunnel-nodes", "--ignore-not-found"]);
            if verb != "create" {
                cluster
                    .plane
                    .apply(&configmap(&format!("{}\n", line(3, "node-y"))));
                let mark = format!("{MARKS}={{\"{}\":\"gone/0-0\"}}", address(3));
                cluster.kubectl(&["annotate", "configmap", "tunnel-nodes", &mark]);
            }
            let seen = cluster.log(0).len();
            cluster.begin(0);
            cluster.begin(1);
            cluster.wait_linked();
            let _edge = edge(&cluster, "node-A", 0, &echo.address());
            cluster
                .open(1, "node-A")
                .echo(b"linked replicas tell each other");
            let words = format!("{verb} {resource} in {NAMESPACE} at ");
            let hint = format!("probably the verb \"{verb}\" is missing");
            wait_until(
                &format!("the log misses {verb} of {resource}"),
                secs(30),
                || {
                    let log = cluster.log(0)[seen..].replace('\\', "");
                    log.lines()
                        .any(|line| line.contains(&words) && line.contains(&hint))
                },
            );
            if ["watch", "create", "list"].contains(&verb) {
                // What these are not needed for works: with the ConfigMap there, nodes are written.
                if verb == "create" {
                    cluster.plane.apply(&configmap(""));
                }
                wait_until("the node is written", secs(20), || {
                    hosts(&cluster).contains(&line(0, "node-a"))
                });
            }
        }
    });
}

/// More than a ConfigMap holds: that is said, logins go on, and once there is room it is written.
#[test]
fn a_full_configmap_is_told_of_and_blocks_nothing() {
    alone(|| {
        let cluster = start(2, "");
        cluster.wait_linked();
        let echo = Target::echo();
        let full = format!(
            "{{\"data\":{{\"other\":\"{}\"}}}}",
            "x".repeat((1 << 20) - 10)
        );
        patch(&cluster, &full);
        let _edge = edge(&cluster, "node-A", 0, &echo.address());
        wait_until("it is said", secs(10), || {
            let log = cluster.log(0);
            log.contains("and Kubernetes takes 1048576 at most") && log.contains("endpointslice")
        });
        assert!(cluster.writes("too-large") >= 1.0);
        cluster
            .open(1, "node-A")
            .echo(b"linked replicas tell each other");
        patch(&cluster, "{\"data\":{\"other\":null}}");
        wait_hosts(&cluster, &[line(0, "node-a")]);
    });
}

/// SuperEdge's edge at one replica, ours at another: found through each of them, and by the ConfigMap too. A line of SuperEdge's own
/// replica costs a question, and nobody is dialed for it.
#[test]
fn a_mixed_fleet_is_found_through_every_replica() {
    alone(|| {
        let mut cluster = start(REPLICAS, FOREIGN);
        cluster.wait_linked();
        let echo = Target::echo();
        let_in(&cluster, &["node-X", "node-S"].map(str::to_owned));
        let _ours = edge(&cluster, "node-A", 1, &echo.address());
        let link = FakeEdge::base(&cluster.world, &cluster.replica(0).grpc, "node-S");
        let _theirs = BaseEdge::serve(link);
        wait_hosts(&cluster, &[line(0, "node-s"), line(1, "node-a")]);
        for at in 0..REPLICAS {
            cluster.open(at, "node-A").echo(b"to ours");
            // Its edge dials what it is told to.
            let target = echo.address().replace("127.0.0.1", "node-S");
            Connect::open(&cluster.replica(at).connect, &target).echo(b"to theirs");
            let begun = Instant::now();
            let reply = Connect::try_open(&cluster.replica(at).connect, "node-X:22").unwrap();
            let code = reply.expect_err("nobody of ours holds it").code();
            assert!(
                (code, begun.elapsed() < secs(5)) == (503, true),
                "{code} after {:?}",
                begun.elapsed()
            );
        }

        // SuperEdge's replica writes what its file said a minute ago: nothing of ours. That doesn't last.
        let stale = serde_json::json!({ "data": { "hosts": FOREIGN } }).to_string();
        patch(&cluster, &stale);
        let begun = Instant::now();
        wait_hosts(&cluster, &[line(0, "node-s"), line(1, "node-a")]);
        assert!(begun.elapsed() < secs(5), "{:?}", begun.elapsed());

        // One that has just started, and whom nobody tells anything yet, finds it by the registry.
        cluster.replicas[2].take().unwrap().process.kill();
        cluster.begin(2);
        cluster.open(2, "node-A").echo(b"again");
        let text = hosts(&cluster);
        assert_eq!(others(&text), FOREIGN);
    });
}

const MARKS: &str = "tunnel.cloud.io/replicas";

/// As the component of deploy/ has it, with SuperEdge's ConfigMap there.
fn start(count: usize, hosts: &str) -> InCluster {
    let rights = fs::read_to_string(deploy("rbac.yaml")).unwrap();
    let objects = format!("{rights}\n---\n{}", configmap(hosts));
    InCluster::start_as(count, &Setup::default(), &objects, |_, settings| {
        settings
            .set("registry.kind", "hosts")
            .set("registry.dns_server", "")
    })
}

fn deploy(file: &str) -> PathBuf {
    repository("deploy/components/superedge").join(file)
}

fn configmap(hosts: &str) -> String {
    let hosts = serde_json::Value::from(hosts);
    format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: tunnel-nodes, namespace: {NAMESPACE}}}\ndata: {{hosts: {hosts}}}\n"
    )
}

fn edge(cluster: &InCluster, node: &str, at: usize, target: &str) -> Edge {
    let settings = cluster
        .world
        .edge_settings(node, &cluster.replica(at).grpc, target)
        .set("reconnect.max", "500ms");
    let mut edge = cluster.world.edge_with(node, settings);
    edge.process.wait_status("link", "up", secs(10));
    edge
}

fn hosts(cluster: &InCluster) -> String {
    get(cluster, ".data.hosts")
}

fn version(cluster: &InCluster) -> String {
    get(cluster, ".metadata.resourceVersion")
}

fn annotation(cluster: &InCluster) -> String {
    get(
        cluster,
        ".metadata.annotations.tunnel\\.cloud\\.io/replicas",
    )
}

/// What the ConfigMap has there.
fn get(cluster: &InCluster, path: &str) -> String {
    let path = format!("jsonpath={{{path}}}");
    cluster.kubectl(&["get", "configmap", "tunnel-nodes", "-o", &path])
}

/// Changes the ConfigMap whatever its version is. By a file: it may be long.
fn patch(cluster: &InCluster, change: &str) {
    let file = cluster.world.write("patch.json", change);
    let file = file.to_str().unwrap();
    cluster.kubectl(&[
        "patch",
        "configmap",
        "tunnel-nodes",
        "--type=merge",
        "--patch-file",
        file,
    ]);
}

fn line(at: usize, node: &str) -> String {
    format!("{} {node}", address(at))
}

fn is_own(line: &str) -> bool {
    line.starts_with("10.77.3.")
}

/// Our replicas' lines, in order.
fn own(text: &str) -> Vec<String> {
    let lines: Vec<String> = text
        .lines()
        .filter(|line| is_own(line))
        .map(str::to_owned)
        .collect();
    sorted(&lines)
}

fn sorted(lines: &[String]) -> Vec<String> {
    let mut lines = lines.to_vec();
    lines.sort();
    lines
}

/// All other lines, as they stand there.
fn others(text: &str) -> String {
    let others = text.lines().filter(|line| !is_own(line));
    others.map(|line| format!("{line}\n")).collect()
}

#[track_caller]
fn wait_hosts(cluster: &InCluster, lines: &[String]) {
    wait_until("the ConfigMap says where the nodes are", secs(20), || {
        own(&hosts(cluster)) == sorted(lines)
    });
    let text = hosts(cluster);
    assert!(
        others(&text) == FOREIGN || others(&text).is_empty(),
        "{text}"
    );
}

#[track_caller]
fn wait_links(cluster: &InCluster, at: usize, count: f64) {
    wait_until("the replica has its edges", secs(20), || {
        let metrics = cluster.replica(at).metrics();
        metrics.sum("links", &[("kind", "edge")]) == count
    });
}

/// As somebody else does it who goes by versions.
fn add_line(cluster: &InCluster, line: &str) {
    wait_until("a foreign line is written", secs(20), || {
        let mut map = cluster
            .plane
            .get(&["-n", NAMESPACE, "configmap", "tunnel-nodes"]);
        let text = map["data"]["hosts"].as_str().unwrap_or_default();
        map["data"]["hosts"] = format!("{text}{line}\n").into();
        let file = cluster.world.write("foreign.json", &map.to_string());
        let line = ["replace", "-f", file.to_str().unwrap()];
        cluster
            .plane
            .kubectl(&line)
            .output()
            .unwrap()
            .status
            .success()
    });
}

/// Nodes beside those that every world has.
fn let_in(cluster: &InCluster, nodes: &[String]) {
    let file = cluster.world.path("tokens");
    let mut tokens = fs::read_to_string(&file).unwrap();
    for node in nodes {
        tokens.push_str(&format!("{node}:{TOKEN}\n"));
        cluster.world.write(&format!("token-{node}"), TOKEN);
    }
    replace(&file, &tokens);
    for replica in cluster.replicas.iter().flatten() {
        wait_until("the tokens are read", secs(10), || {
            let metrics = replica.metrics();
            metrics.sum("reloads_total", &[("file", "tokens")]) >= 1.0
        });
    }
}

/// Makes a file of the ConfigMap, as a kubelet does: all of it changes at once.
struct Kubelet {
    file: PathBuf,
}

impl Kubelet {
    fn new(cluster: &InCluster) -> Self {
        let kubelet = Self {
            file: cluster.world.path("etc-edge-hosts"),
        };
        kubelet.sync(cluster);
        kubelet
    }

    fn sync(&self, cluster: &InCluster) {
        replace(&self.file, &hosts(cluster));
    }

    /// The component's own, for this file.
    fn corefile(&self) -> String {
        let text = fs::read_to_string(deploy("Corefile")).unwrap();
        let there = text.replace("/etc/edge/hosts", self.file.to_str().unwrap());
        assert_ne!(there, text);
        there
    }
}
