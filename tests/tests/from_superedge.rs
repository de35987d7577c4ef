//! docs/from-superedge.md, command by command, against a real API server that has what SuperEdge's manifests make.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use tunnel_tests::World;
use tunnel_tests::binaries::binary;
use tunnel_tests::cluster::{free, ip};
use tunnel_tests::kubernetes::{ControlPlane, Setup, programs};
use tunnel_tests::openssh::success;
use tunnel_tests::pages::{read, repository, shell};
use tunnel_tests::wait::{secs, wait_until};

/// SuperEdge's NodePort, which edges know.
const PORT: u64 = 31_234;

/// The page's shell, as it stands there, in the order in which it stands there; then what the cluster has.
#[test]
fn each_command_of_the_page_does_what_it_says() {
    let world = World::new();
    let plane = ControlPlane::start(&world.path("cluster"), &Setup::default());
    superedge(&world, &plane);
    let deployment = ["-n", "edge-system", "deployment/tunnel-cloud"];
    wait_until("SuperEdge's Deployment has its Pods", secs(30), || {
        replica_sets(&plane).len() == 1
    });
    let before = plane.get(&deployment)["metadata"]["uid"].clone();
    let dir = run_page(&world, &plane);

    // Taken over.
    let tokens = fs::read_to_string(dir.join("tokens")).unwrap();
    assert_eq!(tokens, "default:superedge-token\n");
    let secret = |namespace: &str, name: &str, key: &str| {
        let path = format!("go-template={{{{index .data \"{key}\" | base64decode}}}}");
        plane.ask(&["-n", namespace, "get", "secret", name, "-o", &path])
    };
    for namespace in ["tunnel", "edge-system"] {
        assert_eq!(secret(namespace, "tunnel-tokens", "tokens"), tokens);
        let ca = fs::read_to_string(plane.state().join("pki/ca.crt")).unwrap();
        assert_eq!(secret(namespace, "tunnel-cloud-tls", "ca.crt"), ca);
    }
    let old = fs::read_to_string(world.path("superedge/tls.crt")).unwrap();
    assert_eq!(secret("tunnel", "tunnel-cloud-tls", "tls.crt"), old);

    // Beside it.
    let beside = plane.get(&["-n", "tunnel", "service/tunnel-cloud"]);
    assert_eq!(port(&beside, "grpc"), 31_901);
    let conf = plane.get(&["-n", "edge-system", "configmap/tunnel-edge-conf"]);
    let conf = conf["data"]["tunnel_edge.toml"].as_str().unwrap();
    assert!(
        conf.contains("servername = \"203.0.113.1:31901\"\n"),
        "{conf}"
    );

    // In its place: edges' port stays, the old Pods are the new Deployment's to replace, and nothing of theirs is left in it.
    let service = plane.get(&["-n", "edge-system", "service/tunnel-cloud"]);
    assert_eq!(port(&service, "grpc"), PORT);
    let ours = plane.get(&deployment);
    assert_ne!(ours["metadata"]["uid"], before);
    wait_until(
        "the old Pods belong to the new Deployment",
        secs(30),
        || {
            let sets = replica_sets(&plane);
            let owners = sets
                .iter()
                .map(|set| &set["metadata"]["ownerReferences"][0]["uid"]);
            sets.len() == 2
                && owners
                    .into_iter()
                    .all(|uid| *uid == ours["metadata"]["uid"])
        },
    );
    let container = &ours["spec"]["template"]["spec"]["containers"][0];
    assert_eq!(container["command"], Value::Null, "{container}");
    let config = ours.to_string();
    assert!(!config.contains("superedge"), "{config}");
    let line = [
        "-n",
        "edge-system",
        "auth",
        "can-i",
        "--as=system:serviceaccount:edge-system:tunnel-cloud",
    ];
    for (verb, of, can) in [
        ("update", "configmap/tunnel-nodes", true),
        ("watch", "configmap/tunnel-nodes", true),
        ("update", "configmap/tunnel-cloud-token", false),
        ("get", "secret/tunnel-cloud-cert", false),
    ] {
        let output = plane
            .kubectl(&[&line[..], &[verb, of]].concat())
            .output()
            .unwrap();
        assert_eq!(output.status.success(), can, "{verb} {of}: {output:?}");
    }
    let nodes = plane.get(&["-n", "edge-system", "configmap/tunnel-nodes"]);
    assert_eq!(
        nodes["data"]["hosts"], "10.9.9.9    node-x\n",
        "it isn't ours to make"
    );

    // Edges: theirs leave labelled nodes, ours come there.
    let theirs = plane
        .get(&["-n", "edge-system", "daemonset/tunnel-edge"])
        .to_string();
    assert!(
        theirs.contains("DoesNotExist") && theirs.contains("superedge"),
        "{theirs}"
    );
    wait_until("our DaemonSet wants the node", secs(30), || {
        let set = plane.get(&["-n", "tunnel-edges", "daemonset/tunnel-edge"]);
        set["status"]["desiredNumberScheduled"] == 1
    });
    replicas_know_each_other(&world, &dir);
}

/// With the certificate that the page makes, which SuperEdge's edges believe too.
fn replicas_know_each_other(world: &World, dir: &Path) {
    let text = |name: &str| dir.join(name).to_str().unwrap().to_owned();
    let addresses: Vec<String> = (0..2).map(|at| free(&ip(at))).collect();
    let clouds: Vec<_> = (0..2)
        .map(|at| {
            let settings = world
                .cloud_settings_at(&ip(at))
                .set("grpc.listen", addresses[at].clone())
                .set("grpc.cert", text("tls.crt"))
                .set("grpc.key", text("tls.key"))
                .set("grpc.client_ca", text("ca.crt"))
                .set("tokens.file", text("tokens"))
                .set("tokens.allow_default", true)
                .set("peers.addresses", addresses.clone());
            let command = Command::new(binary("tunnel-cloud"));
            world.cloud_by(&format!("cloud-{at}"), settings, command)
        })
        .collect();
    for cloud in &clouds {
        wait_until("the replicas have found each other", secs(20), || {
            cloud.metrics().sum("links", &[("kind", "peer")]) >= 2.0
        });
    }
    let verified = Command::new("openssl")
        .args(["verify", "-verify_hostname", "tunnel.cloud.io", "-CAfile"])
        .args([text("ca.crt"), text("tls.crt")])
        .output()
        .unwrap();
    success("openssl verify", &verified);
}

/// Runs all blocks of shell, in a folder of their own, which it gives.
fn run_page(world: &World, plane: &ControlPlane) -> PathBuf {
    let mut script = String::from("set -euxo pipefail\n");
    script.extend(shell(&read("docs/from-superedge.md")));
    let pki = plane.state().join("pki");
    let here = script.replace("/etc/kubernetes/pki", pki.to_str().unwrap());
    assert_ne!(here, script, "the page signs by the cluster's CA");
    let dir = world.path("page");
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join("users.toml"), "").unwrap();
    std::os::unix::fs::symlink(repository("deploy"), dir.join("deploy")).unwrap();
    let folders = [binary("tunnel").parent().unwrap().to_owned(), programs(&[])];
    let known = std::env::var_os("PATH").unwrap();
    let path = std::env::join_paths(folders.into_iter().chain(std::env::split_paths(&known)));
    let output = Command::new("bash")
        .arg("-c")
        .arg(&here)
        .current_dir(&dir)
        .env("PATH", path.unwrap())
        .env("KUBECONFIG", plane.kubeconfig())
        .env("HOME", &dir)
        .output()
        .unwrap();
    success("the page", &output);
    dir
}

fn port(service: &Value, name: &str) -> u64 {
    let ports = service["spec"]["ports"].as_array().unwrap();
    let port = ports.iter().find(|port| port["name"] == name);
    port.unwrap()["nodePort"].as_u64().unwrap()
}

fn replica_sets(plane: &ControlPlane) -> Vec<Value> {
    let list = plane.get(&["-n", "edge-system", "replicasets", "-lapp=tunnel-cloud"]);
    list["items"].as_array().unwrap().clone()
}

/// What its manifests make, as far as this page speaks of it, and a node.
fn superedge(world: &World, plane: &ControlPlane) {
    let made = world.path("superedge");
    fs::create_dir(&made).unwrap();
    let ca = plane.state().join("pki/ca");
    let script = format!(
        "openssl req -new -newkey rsa:2048 -nodes -subj /CN=superedge -keyout tls.key -out tls.csr && \
         openssl x509 -req -in tls.csr -CA {0}.crt -CAkey {0}.key -set_serial 7 -days 30 \
         -extfile <(echo subjectAltName=DNS:tunnel.cloud.io) -out tls.crt && cp {0}.crt ca.crt",
        ca.display()
    );
    let mut command = Command::new("bash");
    let output = command
        .args(["-c", &script])
        .current_dir(&made)
        .output()
        .unwrap();
    success("SuperEdge's certificate", &output);
    let text = |name: &str| Value::from(fs::read_to_string(made.join(name)).unwrap());
    plane.ask(&["create", "namespace", "edge-system"]);
    plane.apply(&format!(
        r#"
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {{name: tunnel-cloud}}
rules:
- {{apiGroups: [""], resources: [configmaps], verbs: [get, update]}}
- {{apiGroups: [""], resources: [endpoints], verbs: [get]}}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {{name: tunnel-cloud, namespace: edge-system}}
roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: tunnel-cloud}}
subjects: [{{kind: ServiceAccount, name: tunnel-cloud, namespace: edge-system}}]
---
apiVersion: v1
kind: ServiceAccount
metadata: {{name: tunnel-cloud, namespace: edge-system}}
---
apiVersion: v1
kind: ConfigMap
metadata: {{name: tunnel-cloud-token, namespace: edge-system}}
data: {{token: "default:superedge-token\n"}}
---
apiVersion: v1
kind: ConfigMap
metadata: {{name: tunnel-nodes, namespace: edge-system}}
data: {{hosts: "10.9.9.9    node-x\n"}}
---
apiVersion: v1
kind: Secret
metadata: {{name: tunnel-cloud-cert, namespace: edge-system}}
stringData: {{tunnel-cloud-server.crt: {crt}, tunnel-cloud-server.key: {key}}}
---
apiVersion: v1
kind: Secret
metadata: {{name: tunnel-edge-cert, namespace: edge-system}}
stringData: {{cluster-ca.crt: {ca}}}
---
apiVersion: v1
kind: Service
metadata: {{name: tunnel-cloud, namespace: edge-system}}
spec:
  type: NodePort
  selector: {{app: tunnel-cloud}}
  ports:
  - {{name: grpc, port: 9000, targetPort: 9000, nodePort: {PORT}}}
  - {{name: ssh, port: 22, targetPort: 22}}
  - {{name: tunnel-metrics, port: 6000, targetPort: 6000}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {{name: tunnel-cloud, namespace: edge-system, labels: {{app: tunnel-cloud}}}}
spec:
  selector: {{matchLabels: {{app: tunnel-cloud}}}}
  template:
    metadata: {{labels: {{app: tunnel-cloud}}}}
    spec:
      serviceAccountName: tunnel-cloud
      containers:
      - name: tunnel-cloud
        image: superedge/tunnel:v0.7.0
        command: [/usr/local/bin/tunnel]
        args: [--m=cloud]
        ports: [{{containerPort: 9000, name: grpc}}, {{containerPort: 22, name: ssh}}]
        volumeMounts: [{{name: hosts, mountPath: /etc/superedge/tunnel/nodes}}]
      volumes: [{{name: hosts, configMap: {{name: tunnel-nodes}}}}]
      nodeSelector: {{node-role.kubernetes.io/master: ""}}
---
apiVersion: v1
kind: ConfigMap
metadata: {{name: tunnel-edge-conf, namespace: edge-system}}
data:
  tunnel_edge.toml: |
    [mode]
        [mode.edge.stream.client]
            token = "superedge-token"
            dns = "tunnel.cloud.io"
            servername = "203.0.113.1:{PORT}"
            logport = 51010
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {{name: tunnel-edge, namespace: edge-system}}
spec:
  selector: {{matchLabels: {{app: tunnel-edge}}}}
  template:
    metadata: {{labels: {{app: tunnel-edge}}}}
    spec:
      hostNetwork: true
      containers: [{{name: tunnel-edge, image: superedge/tunnel:v0.7.0, args: [--m=edge]}}]
---
apiVersion: v1
kind: Node
metadata: {{name: edge-a}}
"#,
        crt = text("tls.crt"),
        key = text("tls.key"),
        ca = text("ca.crt"),
    ));
}
