//! Replicas in a cluster: who holds which node stands in EndpointSlices, written and read by the real API server, and
//! answered by the real CoreDNS. Needs root, for a network of its own.
#![allow(clippy::unwrap_used)]

use std::thread;
use std::time::Instant;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tunnel_tests::crowd::Crowd;
use tunnel_tests::in_cluster::{InCluster, NAMESPACE, address, alone, pod};
use tunnel_tests::kubernetes::{Setup, resolve};
use tunnel_tests::openssh::{Ssh, Sshd};
use tunnel_tests::pki::replace;
use tunnel_tests::targets::Target;
use tunnel_tests::wait::{is_long, millis, secs, wait_until};
use tunnel_tests::world::TOKEN;
use tunnel_tests::{Connect, Edge};

/// An edge at one replica.
fn edge(cluster: &InCluster, node: &str, at: usize, target: &str) -> Edge {
    edge_named(cluster, node, node, at, target)
}

/// The same of a node whose name no file may have.
fn edge_named(cluster: &InCluster, file: &str, node: &str, at: usize, target: &str) -> Edge {
    let replica = cluster.replica(at);
    let settings = cluster
        .world
        .edge_settings(file, &replica.grpc, target)
        .set("node.name", node)
        .set("reconnect.max", "500ms");
    let mut edge = cluster.world.edge_with(file, settings);
    edge.process.wait_status("link", "up", secs(10));
    edge
}

fn dns_name(label: &str) -> String {
    format!("{label}.tunnel-nodes.{NAMESPACE}.svc.cluster.local")
}

/// The slices' labels and names are what docs/registry.md says, and each replica is a way to the node. A name that is no
/// label is taken by the API server all the same.
#[test]
fn ssh_logs_in_through_every_replica_and_dns_knows_where_the_node_is() {
    alone(|| {
        let cluster = InCluster::start(3);
        let long = format!("Edge_7.{}", "n".repeat(100));
        let tokens = format!("node-A:{TOKEN}\n{long}:{TOKEN}\n");
        cluster.world.write("token-long", TOKEN);
        replace(&cluster.world.path("tokens"), &tokens);
        let sshd = Sshd::start(&cluster.world);
        let _edge = edge(&cluster, "node-A", 1, &sshd.address());
        cluster.wait_registered("node-a", &[1]);
        wait_until("CoreDNS says so, too", secs(5), || {
            resolve(&cluster.plane.dns(), &dns_name("node-a")) == [address(1)]
        });
        for replica in cluster.replicas.iter().flatten() {
            let ssh = Ssh::new(&cluster.world, replica);
            wait_until("a login", secs(20), || {
                let output = ssh.run("nc", "echo hello");
                output.status.success() && output.stdout == b"hello\n"
            });
        }
        let slices = cluster.slices();
        assert_eq!(slices.len(), 1, "one replica holds one node: {slices:#?}");
        let metadata = &slices[0]["metadata"];
        assert_eq!(metadata["name"], "tunnel-nodes-cloud-1-0");
        assert_eq!(metadata["ownerReferences"][0]["name"], pod(1).as_str());
        let headless = &metadata["labels"]["service.kubernetes.io/headless"];
        assert_eq!(headless, "", "{metadata}");
        assert_eq!(cluster.writes("ok"), 1.0, "one change, one write");

        let _long = edge_named(&cluster, "long", &long, 1, &sshd.address());
        wait_until("the long name stands beside its digest", secs(10), || {
            let slices = cluster.slices();
            let endpoints = slices[0]["endpoints"].as_array().unwrap().clone();
            endpoints
                .iter()
                .any(|endpoint| endpoint["targetRef"]["name"] == long.to_lowercase().as_str())
        });
        assert_eq!(cluster.writes("failed") + cluster.writes("conflict"), 0.0);
    });
}

/// It moves by being ended here and begun there: CONNECTs meanwhile wait for it. Then a replica goes with its Pod, and one
/// starts again in its own.
#[test]
fn a_node_that_moves_is_waited_for_and_found_within_a_second_through_any_replica() {
    alone(|| {
        let mut cluster = InCluster::start(3);
        cluster.wait_linked();
        let echo = Target::echo();
        let mut old = edge(&cluster, "node-A", 0, &echo.address());
        cluster.wait_registered("node-a", &[0]);
        cluster.open(1, "node-A").echo(b"before");
        old.process.kill();
        wait_until("its replica has noticed", secs(10), || {
            cluster
                .replica(0)
                .metrics()
                .sum("links", &[("kind", "edge")])
                == 0.0
        });
        let connects = cluster.replicas.iter().flatten();
        let connects: Vec<String> = connects.map(|cloud| cloud.connect.clone()).collect();
        let begun = Instant::now();
        let _new = thread::scope(|scope| {
            for connect in &connects {
                scope.spawn(|| Connect::open(connect, "node-A:22").echo(b"while it moves"));
            }
            edge(&cluster, "node-A", 2, &echo.address())
        });
        assert!(begun.elapsed() < secs(3), "{:?}", begun.elapsed());
        for at in 0..3 {
            let begun = Instant::now();
            cluster.open(at, "node-A").echo(b"after");
            assert!(begun.elapsed() < secs(1), "{:?}", begun.elapsed());
        }
        let moved = Instant::now();
        cluster.wait_registered("node-a", &[2]);
        assert!(moved.elapsed() < secs(4), "it was not written off at once");

        // At rest: nothing.
        let writes = cluster.requests();
        thread::sleep(secs(if is_long() { 60 } else { 5 }));
        assert_eq!(cluster.requests(), writes, "nothing has changed");

        // A process that starts again takes over what it finds.
        let _other = edge(&cluster, "node-B", 1, &echo.address());
        cluster.wait_registered("node-b", &[1]);
        let writes = cluster.requests();
        cluster.replicas[1].take().unwrap().process.kill();
        cluster.begin(1);
        wait_until("node-B is back", secs(10), || {
            let replica = cluster.replica(1);
            replica.metrics().sum("links", &[("kind", "edge")]) == 1.0
        });
        cluster.wait_linked();
        cluster.open(0, "node-B").echo(b"through another");
        thread::sleep(secs(12)); // Longer than a node may be away unnoticed.
        assert_eq!(cluster.registered("node-b"), [address(1)]);
        assert_eq!(cluster.requests(), writes, "it stood there already");

        cluster.delete(2);
        let gone = Instant::now();
        wait_until("its slices are gone", secs(20), || {
            cluster.registered("node-a").is_empty()
        });
        eprintln!(
            "the slices of a deleted Pod were gone after {:?}",
            gone.elapsed()
        );
        assert_eq!(cluster.registered("node-b"), [address(1)]);
    });
}

/// What the registry says may be wrong: it costs a question, and is put right by whoever finds it. No controller manager
/// runs here, so nobody else does.
#[test]
fn a_stale_record_costs_a_question_and_slices_of_nobody_are_taken_away() {
    alone(|| {
        let setup = Setup {
            environment: vec![("WITH", "coredns")],
        };
        let mut cluster = InCluster::start_with(2, &setup, |_, settings| settings);
        cluster.wait_linked();
        let echo = Target::echo();
        // Two lies: a living replica holds node-B, a Pod that never was holds node-C.
        let uid = cluster.kubectl(&["get", "pod", &pod(1), "-o", "jsonpath={.metadata.uid}"]);
        for (name, node, at, owner, uid) in [
            ("stale", "node-b", 1, pod(1), uid.as_str()),
            ("orphan", "node-c", 3, "nobody".to_owned(), "0-0"),
        ] {
            let slice = format!(
                "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\naddressType: IPv4\nmetadata:\n  name: {name}\n  namespace: {NAMESPACE}\n  \
                 labels: {{kubernetes.io/service-name: tunnel-nodes, endpointslice.kubernetes.io/managed-by: tunnel-cloud}}\n  \
                 ownerReferences: [{{apiVersion: v1, kind: Pod, name: {owner}, uid: {uid}}}]\n\
                 endpoints: [{{addresses: [{}], hostname: {node}}}]\n",
                address(at)
            );
            cluster.plane.apply(&slice);
        }
        let lookups = |at: usize, result: &str| {
            let labels = [("source", "watch"), ("result", result)];
            let metrics = cluster.replica(at).metrics();
            metrics.sum("registry_lookups_total", &labels)
        };
        let asked = lookups(0, "ok");
        for node in ["node-B:22", "node-C:22"] {
            wait_until("the lie is believed once", secs(10), || {
                let begun = Instant::now();
                let reply = Connect::try_open(&cluster.replica(0).connect, node).unwrap();
                let reply = reply.expect_err("nobody holds it");
                assert!(begun.elapsed() < secs(5), "{reply:?}");
                assert_eq!(reply.code(), 503, "{reply:?}");
                lookups(0, "ok") > asked
            });
        }
        let _edge = edge(&cluster, "node-B", 0, &echo.address());
        let begun = Instant::now();
        cluster.open(1, "node-B").echo(b"true");
        assert!(begun.elapsed() < secs(1));
        wait_until("the orphan is taken away", secs(30), || {
            cluster.registered("node-c").is_empty()
        });
        assert_eq!(cluster.registered("node-b"), [address(0), address(1)]);

        // A replica that died, whose slices nobody collects: whoever starts finds them.
        cluster.wait_registered("node-b", &[0, 1]);
        let mut pods = vec![0];
        cluster.delete(pods.remove(0));
        cluster.replicas[1].take().unwrap().process.kill();
        cluster.begin(1);
        wait_until("the dead one's are taken away", secs(30), || {
            cluster.registered("node-b") == [address(1)]
        });
    });
}

/// The API server and CoreDNS go and come back: sessions don't notice, logins go on with what is known.
#[test]
fn without_the_api_server_and_without_dns_logins_go_on() {
    alone(|| {
        let cluster = InCluster::start(3);
        cluster.wait_linked();
        let echo = Target::echo();
        let _a = edge(&cluster, "node-A", 0, &echo.address());
        cluster.wait_registered("node-a", &[0]);
        let mut session = cluster.open(1, "node-A");
        let stop =
            |part: &str, signal| kill(Pid::from_raw(cluster.plane.pid(part)), signal).unwrap();
        // Stopped, not ended: connections hang, which is worse.
        stop("apiserver", Signal::SIGSTOP);
        stop("coredns", Signal::SIGSTOP);
        let begun = Instant::now();
        let _b = edge(&cluster, "node-B", 1, &echo.address());
        while begun.elapsed() < secs(if is_long() { 60 } else { 12 }) {
            session.echo(b"still here");
            for at in 0..3 {
                for node in ["node-A", "node-B"] {
                    let begun = Instant::now();
                    cluster.open(at, node).echo(b"a new one");
                    assert!(begun.elapsed() < secs(2), "{:?}", begun.elapsed());
                }
            }
            thread::sleep(millis(200));
        }
        stop("apiserver", Signal::SIGCONT);
        let begun = Instant::now();
        cluster.wait_registered("node-b", &[1]);
        eprintln!(
            "written {:?} after the API server was back",
            begun.elapsed()
        );
        // While it was away DNS could not answer either; then it does.
        stop("coredns", Signal::SIGCONT);
        wait_until("CoreDNS answers again", secs(20), || {
            resolve(&cluster.plane.dns(), &dns_name("node-b")) == [address(1)]
        });
        session.echo(b"still");
        cluster.plane.start_again("coredns");
        for at in 0..3 {
            cluster.open(at, "node-B").echo(b"while CoreDNS starts");
        }
        wait_until("CoreDNS answers after its start", secs(20), || {
            resolve(&cluster.plane.dns(), &dns_name("node-b")) == [address(1)]
        });
        session.echo(b"to the end");
    });
}

/// Each right that tests/cluster/registry-rbac.yaml gives is needed for something, and what is missing is said.
#[test]
fn every_right_is_needed_and_a_missing_one_is_told() {
    alone(|| {
        let mut cluster = InCluster::start(2);
        cluster.wait_linked();
        let echo = Target::echo();
        let all = ["list", "watch", "create", "update", "delete"];
        for verb in ["list", "watch", "create", "update", "delete", "get"] {
            let verbs: Vec<&str> = all.iter().copied().filter(|of| *of != verb).collect();
            let pods = if verb == "get" { "list" } else { "get" };
            cluster.plane.apply(&format!(
                "apiVersion: rbac.authorization.k8s.io/v1\nkind: Role\nmetadata: {{name: tunnel-cloud, namespace: {NAMESPACE}}}\nrules:\n\
                 - {{apiGroups: [discovery.k8s.io], resources: [endpointslices], verbs: [{}]}}\n- {{apiGroups: [\"\"], resources: [pods], verbs: [{pods}]}}\n",
                verbs.join(", ")
            ));
            for at in 0..2 {
                cluster.replicas[at].take().unwrap().process.kill();
            }
            cluster.kubectl(&["delete", "endpointslices", "--all"]);
            cluster.begin(0);
            cluster.begin(1);
            cluster.wait_linked();
            let mut first = edge(&cluster, "node-A", 0, &echo.address());
            if verb != "create" && verb != "get" {
                cluster.wait_registered("node-a", &[0]);
            }
            let second = edge(&cluster, "node-B", 0, &echo.address());
            if !["create", "update", "get"].contains(&verb) {
                cluster.wait_registered("node-b", &[0]);
            }
            // Logins go on all the same, and the log says which verb it is.
            cluster
                .open(1, "node-B")
                .echo(b"linked replicas tell each other");
            first.process.kill();
            drop(second);
            let expected = format!("probably the verb \\\"{verb}\\\" is missing");
            let plain = expected.replace('\\', "");
            wait_until(&format!("the log misses {verb}"), secs(30), || {
                let log = cluster.log(0);
                log.contains(&expected) || log.contains(&plain)
            });
        }
    });
}

/// 2,000 edges at once: each replica writes once a second at most, whoever counts.
#[test]
fn a_burst_of_edges_is_few_writes() {
    burst(2_000);
}

/// What docs/scaling.md has: 10,000 nodes at 3 replicas.
#[test]
#[ignore = "measures; ./test --long"]
fn ten_thousand_nodes_at_three_replicas() {
    burst(10_000);
}

fn burst(count: usize) {
    alone(|| {
        let cluster = InCluster::start_with(3, &Setup::default(), |_, settings| {
            settings
                .set("grpc.links_per_second_max", 100_000)
                .set("log.level", "info")
        });
        cluster.wait_linked();
        replace(&cluster.world.path("tokens"), &Crowd::tokens(count));
        wait_until("the tokens are read", secs(10), || {
            let running = cluster.replicas.iter().flatten();
            running
                .map(|cloud| cloud.metrics().sum("reloads_total", &[("file", "tokens")]))
                .sum::<f64>()
                >= 3.0
        });
        let before: Vec<_> = cluster
            .replicas
            .iter()
            .flatten()
            .map(|cloud| cloud.usage())
            .collect();
        let grpc = cluster
            .replicas
            .iter()
            .flatten()
            .map(|cloud| cloud.grpc.clone());
        let (begun, requests) = (Instant::now(), cluster.requests());
        let crowd = Crowd::connect(&cluster.world, &grpc.collect::<Vec<_>>(), count);
        let linked = begun.elapsed();
        let nodes = || -> usize {
            let slices = cluster.slices();
            let sizes = slices
                .iter()
                .map(|slice| slice["endpoints"].as_array().map_or(0, Vec::len));
            sizes.sum()
        };
        wait_until("all of them stand in slices", secs(120), || {
            nodes() == count
        });
        let took = begun.elapsed();
        let writes = cluster.requests() - requests;
        let most = 3.0 * (took.as_secs_f64() + 2.0);
        let bytes: usize = cluster
            .slices()
            .iter()
            .map(|slice| slice.to_string().len())
            .sum();
        eprintln!(
            "{count} nodes: linked in {linked:?}, written in {took:?} by {writes} writes; {} slices, {bytes} bytes",
            cluster.slices().len()
        );
        for (cloud, before) in cluster.replicas.iter().flatten().zip(before) {
            eprintln!(
                "a replica before: {before:?}\n           after: {:?}",
                cloud.usage()
            );
        }
        assert!(writes <= most, "{writes} writes in {took:?}");
        assert_eq!(
            cluster.writes("ok"),
            writes,
            "the API server counts as we do"
        );
        assert!(
            cluster
                .slices()
                .iter()
                .all(|slice| slice["endpoints"].as_array().unwrap().len() <= 1000)
        );
        let requests = cluster.requests();
        thread::sleep(secs(5));
        assert_eq!(cluster.requests(), requests, "nothing has changed");
        assert_eq!(crowd.len(), count);
    });
}
