//! `tunnel connect` by a link of its own (`grpcs://`): what comes of it when lines, replicas and edges go.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use tunnel_tests::binaries::binary;
use tunnel_tests::client::Client;
use tunnel_tests::cutter::Cutter;
use tunnel_tests::targets::Target;
use tunnel_tests::wait::{millis, secs, wait_until};
use tunnel_tests::{Cloud, Edge, World};

/// An echo behind an edge, and the edge's cloud.
fn echoing(world: &World) -> (Target, Cloud, Edge) {
    let echo = Target::echo();
    let cloud = world.cloud();
    let settings = world
        .edge_settings("node-A", &cloud.grpc, &echo.address())
        .set("reconnect.max", "500ms");
    let mut edge = world.edge_with("node-A", settings);
    edge.process.wait_status("link", "up", secs(10));
    (echo, cloud, edge)
}

fn noise(bytes: u32) -> Vec<u8> {
    (0..bytes)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect()
}

#[test]
fn bytes_and_both_ends_come_through() {
    let world = World::new();
    let (_echo, cloud, _edge) = echoing(&world);
    // The node's name in any spelling, as ssh gives it.
    let mut client = Client::start(&world, &cloud.grpc, "NODE-a");
    let bytes = noise(8 << 20);
    let (mut stdin, sent) = (client.child.stdin.take().unwrap(), bytes.clone());
    let sending = thread::spawn(move || stdin.write_all(&sent).unwrap());
    let (back, error, status) = client.finish();
    sending.join().unwrap();
    assert_eq!((error.as_str(), status.code()), ("", Some(0)));
    assert!(back == bytes);
    wait_until("no stream is left", secs(5), || cloud.streams() == 0.0);
}

#[test]
fn a_cut_line_costs_no_byte() {
    let world = World::new();
    let (_echo, cloud, _edge) = echoing(&world);
    let line = Cutter::to(&cloud.grpc);
    let mut client = Client::start(&world, line.address(), "node-A");
    let bytes = noise(24 << 20);
    let (mut stdin, sent) = (client.child.stdin.take().unwrap(), bytes.clone());
    let sending = thread::spawn(move || stdin.write_all(&sent).unwrap());
    let mut stdout = client.child.stdout.take().unwrap();
    let mut back = vec![0; bytes.len()];
    for (round, part) in back.chunks_mut(4 << 20).enumerate() {
        stdout.read_exact(part).unwrap();
        if round < 5 {
            line.cut();
        }
    }
    sending.join().unwrap();
    assert!(back == bytes);
    let (_, error, status) = client.finish();
    assert_eq!((error.as_str(), status.code()), ("", Some(0)));
}

#[test]
fn a_hundred_cuts_and_the_session_moves_within_a_second_of_each() {
    let world = World::new();
    let (_echo, cloud, _edge) = echoing(&world);
    let line = Cutter::to(&cloud.grpc);
    let mut client = Client::start(&world, line.address(), "node-A");
    client.echo(b"first");
    let mut stalls: Vec<Duration> = (0..100)
        .map(|_| {
            line.cut();
            let cut = Instant::now();
            client.echo(b"word");
            let stalled = cut.elapsed();
            // Frequent, but not one upon the other.
            thread::sleep(millis(20));
            stalled
        })
        .collect();
    stalls.sort();
    println!("stalls: median {:?}, p99 {:?}", stalls[50], stalls[98]);
    assert!(stalls[98] <= secs(1), "{stalls:?}");
}

#[test]
fn the_replica_may_be_killed_and_started_again() {
    let world = World::new();
    let (_echo, mut cloud, _edge) = echoing(&world);
    let grpc = cloud.grpc.clone();
    let mut client = Client::start(&world, &grpc, "node-A");
    client.echo(b"before");
    cloud.process.kill();
    let stdin = client.child.stdin.as_mut().unwrap();
    stdin.write_all(b"while it is away").unwrap();
    // Long enough for a word about it.
    thread::sleep(secs(4));
    let cloud = world.cloud_with(world.cloud_settings().set("grpc.listen", grpc));
    let back = Instant::now();
    let mut heard = [0; 16];
    let stdout = client.child.stdout.as_mut().unwrap();
    stdout.read_exact(&mut heard).unwrap();
    println!("the session moved {:?} after the restart", back.elapsed());
    assert_eq!(&heard, b"while it is away");
    client.echo(b"after");
    let (_, error, status) = client.finish();
    assert_eq!(status.code(), Some(0));
    assert_eq!(error.matches("reconnecting").count(), 1, "{error}");
    assert_eq!(error.matches("connected again").count(), 1, "{error}");
    drop(cloud);
}

#[test]
fn refusals_are_one_clear_line() {
    let world = World::new();
    let (_echo, cloud, _edge) = echoing(&world);
    let cases = [
        ("wrong", "node-A", "does not take this token"),
        ("bob-bearer-token", "node-A", "may not reach"),
        ("alice-bearer-token", "node-C", "offline"),
        ("alice-bearer-token", "node-no-one-has", "known"),
        ("bob-bearer-token", "node-no-one-has", "may not reach"),
    ];
    for (token, node, line) in cases {
        let client = Client::with_token(&world, &cloud.grpc, node, token);
        let (_, error, status) = client.finish();
        assert_eq!(status.code(), Some(255), "{error}");
        assert!(
            error.contains(line) && error.lines().count() == 1,
            "{node}: {error}"
        );
    }
    let client = Client::start(&world, "127.0.0.1:9", "node-A");
    let (_, error, status) = client.finish();
    assert_eq!(status.code(), Some(255));
    assert!(
        error.contains("refused") && error.lines().count() == 1,
        "{error}"
    );
}

#[test]
fn an_edge_that_is_told_to_end_keeps_its_streams_until_they_do() {
    let world = World::new();
    let (_echo, cloud, mut edge) = echoing(&world);
    let mut client = Client::start(&world, &cloud.grpc, "node-A");
    client.echo(b"before");
    edge.process.signal(Signal::SIGTERM);
    wait_until("the edge drains", secs(5), || {
        edge.process.log_lines(&["takes nothing new"]) > 0
    });
    wait_until("its cloud gives it nothing new", secs(5), || {
        let late = Client::start(&world, &cloud.grpc, "node-A");
        late.finish().2.code() == Some(255)
    });
    client.echo(b"after");
    let (_, error, status) = client.finish();
    assert_eq!((error.as_str(), status.code()), ("", Some(0)));
    assert_eq!(edge.process.exit(secs(5)).code(), Some(0));
}

#[test]
fn an_edge_that_is_told_twice_ends_at_once() {
    let world = World::new();
    let (_echo, cloud, mut edge) = echoing(&world);
    let mut client = Client::start(&world, &cloud.grpc, "node-A");
    client.echo(b"before");
    edge.process.signal(Signal::SIGTERM);
    wait_until("the edge drains", secs(5), || {
        edge.process.log_lines(&["takes nothing new"]) > 0
    });
    edge.process.signal(Signal::SIGTERM);
    assert_eq!(edge.process.exit(secs(5)).code(), Some(128 + 15));
    let output = client.child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(255), "{output:?}");
}

#[test]
fn a_helper_that_ssh_ends_leaves_nothing_behind() {
    let world = World::new();
    let (_echo, cloud, edge) = echoing(&world);
    // ssh hangs up, and its pipes close with it: then the stream ends as if the helper had seen that first.
    let ways = [
        (Signal::SIGHUP, true, 0, "done"),
        (Signal::SIGHUP, false, 255, "reset"),
        (Signal::SIGTERM, false, 255, "reset"),
    ];
    for (number, (signal, closes, code, reason)) in ways.into_iter().enumerate() {
        let mut client = Client::start(&world, &cloud.grpc, "node-A");
        client.echo(b"before");
        client.signal(signal);
        let stdin = client.child.stdin.take().filter(|_| !closes);
        let what = format!("{signal} {closes}");
        assert_eq!(client.child.wait().unwrap().code(), Some(code), "{what}");
        let streams = || edge.metrics().sum("streams", &[]);
        wait_until("the edge's stream ends", secs(5), || streams() == 0.0);
        let records = || fs::read_to_string(&edge.audit).unwrap_or_default();
        wait_until("it is recorded", secs(5), || {
            records().lines().count() > number
        });
        let last: serde_json::Value =
            serde_json::from_str(records().lines().last().unwrap()).unwrap();
        assert_eq!(last["reason"], reason, "{what}");
        drop(stdin);
    }
}

/// A stand-in for kubectl, whose forwards lead where the folder's files named like Pods say. Real ones are asked in the row
/// kubernetes_nodes.
struct Kubectl {
    dir: PathBuf,
    token: PathBuf,
}

impl Kubectl {
    fn new(world: &World, pods: &[(&str, &str)]) -> Kubectl {
        let dir = world.path("kubectl");
        fs::create_dir(&dir).unwrap();
        let script = r#"#!/bin/sh
here=${0%/*}
echo "$*" >>"$here/calls"
case "$*" in
*' get configmap tunnel-ca '*) echo 'Log in at https://login.example.com' >&2; cat "$here/ca.crt" ;;
*' get pods '*) cat "$here/pods" ;;
*' port-forward '*)
    for word; do case $word in pod/*) pod=${word#pod/} ;; esac; done
    echo $$ >>"$here/pids"
    echo "Forwarding from $(cat "$here/$pod") -> 9000"
    exec sleep 1000 ;;
*) echo "error: what is $*?" >&2; exit 1 ;;
esac
"#;
        let file = world.write("kubectl/kubectl", script);
        fs::set_permissions(file, fs::Permissions::from_mode(0o755)).unwrap();
        fs::copy(world.pki.ca(), dir.join("ca.crt")).unwrap();
        let ready = r#"{"conditions": [{"type": "Ready", "status": "True"}]}"#;
        let listed = pods.iter().map(|(pod, address)| {
            fs::write(dir.join(pod), address).unwrap();
            format!(r#"{{"metadata": {{"name": "{pod}"}}, "status": {ready}}}"#)
        });
        let listed: Vec<String> = listed.collect();
        let listed = format!(r#"{{"items": [{}]}}"#, listed.join(","));
        fs::write(dir.join("pods"), listed).unwrap();
        let token = world.write("token-of-alice", "alice-bearer-token");
        Kubectl { dir, token }
    }

    fn tunnel(&self, path: &str) -> Client {
        let mut command = Command::new(binary("tunnel"));
        let line = "--kube-context prod --kubeconfig here --kube-namespace there connect node-A 22";
        command.arg("--token-file").arg(&self.token);
        command.args(line.split(' '));
        command.env("PATH", path).env("HOME", &self.dir);
        Client::by(command)
    }

    fn start(&self) -> Client {
        self.tunnel(&format!("{}:/usr/bin:/bin", self.dir.display()))
    }

    /// The Pods that ports were forwarded of, in order.
    fn forwarded(&self) -> Vec<String> {
        let calls = fs::read_to_string(self.dir.join("calls")).unwrap();
        let pod = |line: &str| {
            let word = line.split(' ').find_map(|word| word.strip_prefix("pod/"));
            word.map(str::to_owned)
        };
        calls.lines().filter_map(pod).collect()
    }

    /// Forwards that run.
    fn running(&self) -> usize {
        let pids = fs::read_to_string(self.dir.join("pids")).unwrap();
        let line = |pid: &str| fs::read(Path::new("/proc").join(pid).join("cmdline"));
        pids.lines()
            .filter(|pid| line(pid).is_ok_and(|line| !line.is_empty()))
            .count()
    }
}

#[test]
fn through_kubectl_each_way_leads_to_another_pod() {
    let world = World::new();
    let (_echo, cloud, _edge) = echoing(&world);
    let lines = [Cutter::to(&cloud.grpc), Cutter::to(&cloud.grpc)];
    let [a, b] = &lines;
    let kubectl = Kubectl::new(&world, &[("a", a.address()), ("b", b.address())]);
    let mut client = kubectl.start();
    client.echo(b"first");
    for cuts in 1..=4 {
        let ways = kubectl.forwarded();
        assert_eq!(ways.len(), cuts);
        assert!(cuts == 1 || ways[cuts - 1] != ways[cuts - 2], "{ways:?}");
        match ways[cuts - 1].as_str() {
            "a" => a.cut(),
            _ => b.cut(),
        }
        client.echo(b"word");
        wait_until("the last forward has ended", secs(5), || {
            kubectl.running() == 1
        });
    }
    let (_, told, status) = client.finish();
    assert_eq!(status.code(), Some(0));
    // What a login plugin says.
    assert_eq!(told, "Log in at https://login.example.com\n");
    wait_until("no forward is left", secs(5), || kubectl.running() == 0);
    let calls = fs::read_to_string(kubectl.dir.join("calls")).unwrap();
    for line in calls.lines() {
        let flags = line.starts_with("--kubeconfig here --context prod -n there ");
        assert!(flags, "{line}");
    }
}

#[test]
fn through_kubectl_a_pod_that_does_not_answer_is_passed_over() {
    let world = World::new();
    let (_echo, cloud, _edge) = echoing(&world);
    let kubectl = Kubectl::new(&world, &[("dead", "127.0.0.1:9"), ("alive", &cloud.grpc)]);
    for _ in 0..6 {
        let mut client = kubectl.start();
        client.echo(b"hello");
        client.signal(Signal::SIGKILL);
        client.child.wait().unwrap();
        wait_until("no forward outlives it", secs(5), || kubectl.running() == 0);
    }
    let passed_over = kubectl.forwarded().len() - 6;
    println!("the dead one was the first of {passed_over} of 6");
}

#[test]
fn through_kubectl_what_fails_is_said_once() {
    let world = World::new();
    let kubectl = Kubectl::new(&world, &[("dead", "127.0.0.1:9")]);
    let told = |client: Client| {
        let (_, told, status) = client.finish();
        assert_eq!(status.code(), Some(255), "{told}");
        let told = told.replace("Log in at https://login.example.com\n", "");
        assert_eq!(told.lines().count(), 1, "{told}");
        told
    };
    let line = told(kubectl.start());
    assert!(line.contains("127.0.0.1:9: Connection refused"), "{line}");
    fs::write(kubectl.dir.join("pods"), r#"{"items": []}"#).unwrap();
    let line = told(kubectl.start());
    let none = "no Pod with label app=tunnel-cloud is ready in namespace there";
    assert!(line.contains(none), "{line}");
    fs::write(kubectl.dir.join("ca.crt"), "").unwrap();
    let line = told(kubectl.start());
    assert!(line.contains("tunnel-ca has no ca.crt"), "{line}");
    let line = told(kubectl.tunnel("/nowhere"));
    assert!(line.contains("no kubectl on the PATH"), "{line}");
}
