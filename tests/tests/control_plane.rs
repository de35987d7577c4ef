//! The harness's own control plane, before anything of ours is asked of it.
#![allow(clippy::unwrap_used)]

use std::process::Command;

use tunnel_tests::kubernetes::{ControlPlane, Setup, resolve};
use tunnel_tests::pages::repository;
use tunnel_tests::wait::{secs, wait_until};

/// The API server takes objects, the controller manager acts on them, CoreDNS answers with them, and nothing is left
/// when it ends.
#[test]
fn a_control_plane_starts_answers_and_ends() {
    let dir = tempfile::tempdir().unwrap();
    let plane = ControlPlane::start(dir.path(), &Setup::default());
    plane.apply(
        "apiVersion: v1
kind: Namespace
metadata: {name: edge-system}
---
apiVersion: v1
kind: Service
metadata: {name: tunnel-nodes, namespace: edge-system}
spec: {clusterIP: None, ports: [{name: connect, port: 2222}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: one, namespace: edge-system, labels: {kubernetes.io/service-name: tunnel-nodes}}
addressType: IPv4
endpoints: [{addresses: [10.1.2.3], hostname: node-a}]
ports: [{name: connect, port: 2222}]
",
    );
    wait_until("a namespace has its ServiceAccount", secs(20), || {
        let line = ["-n", "edge-system", "get", "serviceaccount", "default"];
        plane.kubectl(&line).output().unwrap().status.success()
    });
    let name = "node-a.tunnel-nodes.edge-system.svc.cluster.local";
    wait_until("CoreDNS knows the endpoint", secs(10), || {
        resolve(&plane.dns(), name) == ["10.1.2.3"]
    });
    let parts = ["etcd", "apiserver", "controller-manager", "coredns"].map(|part| plane.pid(part));
    drop(plane);
    for pid in parts {
        let there = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), None).is_ok();
        assert!(!there, "process {pid} is left");
    }
}

/// A test that was killed leaves no process.
#[test]
fn it_ends_with_its_owner() {
    let dir = tempfile::tempdir().unwrap();
    let mut owner = Command::new("sleep").arg("60").spawn().unwrap();
    let id = owner.id().to_string();
    let setup = Setup {
        environment: vec![("OWNER", &id), ("WITH", "")],
    };
    let plane = ControlPlane::start(dir.path(), &setup);
    let pid = plane.pid("apiserver");
    owner.kill().unwrap();
    owner.wait().unwrap();
    wait_until("the API server has gone", secs(20), || {
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), None).is_err()
    });
}

/// `kubectl apply -k deploy/kubernetes` says what the API server takes; the namespace has to be there for that.
#[test]
fn the_api_server_takes_our_manifests() {
    let dir = tempfile::tempdir().unwrap();
    let plane = ControlPlane::start(dir.path(), &Setup::default());
    let deploy = repository("deploy/kubernetes");
    let deploy = deploy.to_str().unwrap();
    plane.ask(&["create", "namespace", "edge-system"]);
    let line = ["apply", "--dry-run=server", "-o", "name", "-k", deploy];
    let taken = plane.ask(&line);
    for object in [
        "deployment.apps/tunnel-cloud",
        "daemonset.apps/tunnel-edge",
        "service/tunnel-cloud",
        "service/tunnel-peers",
    ] {
        assert!(taken.lines().any(|line| line == object), "{taken}");
    }
    // Restricted by the cluster's own rules: the API server would warn of what isn't.
    plane.ask(&[
        "label",
        "namespace",
        "edge-system",
        "pod-security.kubernetes.io/warn=restricted",
    ]);
    let said = plane.kubectl(&line).output().unwrap();
    let said = String::from_utf8_lossy(&said.stderr);
    assert!(!said.contains("tunnel-cloud\""), "{said}");
}
