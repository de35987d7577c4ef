//! Edges by the tokens of their Pods, operators by their own and what RBAC lets them do: a real API server is the judge.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::symlink;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tonic::Code;
use tunnel_tests::binaries::{binary, program};
use tunnel_tests::connect::exchange;
use tunnel_tests::fake_edge::{EdgeOptions, FakeEdge, instance};
use tunnel_tests::http;
use tunnel_tests::kubernetes::{ControlPlane, Setup};
use tunnel_tests::pages::repository;
use tunnel_tests::targets::Target;
use tunnel_tests::wait::{secs, wait_until};
use tunnel_tests::world::{Settings, TOKEN};
use tunnel_tests::{Cloud, Connect, World};

/// What an unknown token and a wrong one have in common.
const WRONG: &str = "the credential is missing or wrong";

/// Two nodes, with Pods of the edges' ServiceAccount and of others.
const CLUSTER: &str = "
apiVersion: v1
kind: List
items:
- {apiVersion: v1, kind: Node, metadata: {name: edge-a}}
- {apiVersion: v1, kind: Node, metadata: {name: edge-b}}
- {apiVersion: v1, kind: ServiceAccount, metadata: {name: tunnel-cloud, namespace: edge-system}}
- {apiVersion: v1, kind: ServiceAccount, metadata: {name: tunnel-edge, namespace: edge-system}}
- {apiVersion: v1, kind: ServiceAccount, metadata: {name: other, namespace: edge-system}}
- {apiVersion: v1, kind: ServiceAccount, metadata: {name: tunnel-edge, namespace: default}}
- {apiVersion: v1, kind: ServiceAccount, metadata: {name: ann, namespace: default}}
- {apiVersion: v1, kind: ServiceAccount, metadata: {name: ben, namespace: default}}
";

/// What an operator's role looks like.
const OPERATORS: &str = "
apiVersion: v1
kind: List
items:
- apiVersion: rbac.authorization.k8s.io/v1
  kind: ClusterRole
  metadata: {name: tunnel-edge-a}
  rules: [{apiGroups: [''], resources: [nodes/tunnel], resourceNames: [edge-a], verbs: [get]}]
- apiVersion: rbac.authorization.k8s.io/v1
  kind: ClusterRoleBinding
  metadata: {name: ann}
  roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: tunnel-edge-a}
  subjects: [{kind: ServiceAccount, name: ann, namespace: default}]
";

/// The objects, and a cloud that asks of them. What runs ends before its files go.
struct Scene {
    cloud: Cloud,
    plane: ControlPlane,
    world: World,
}

impl Scene {
    /// `settings` may change the cloud's.
    fn start(settings: impl FnOnce(Settings) -> Settings) -> Self {
        let world = World::new();
        let setup = Setup {
            environment: vec![("WITH", "controller-manager")],
        };
        let plane = ControlPlane::start(world.dir(), &setup);
        plane.ask(&["create", "namespace", "edge-system"]);
        plane.apply(CLUSTER);
        plane.apply(OPERATORS);
        let rbac = repository("deploy/components/reviews/rbac.yaml");
        plane.ask(&["apply", "-n", "edge-system", "-f", rbac.to_str().unwrap()]);
        let token = token(&plane, "edge-system", "tunnel-cloud", &[]);
        let ca = plane.state().join("pki/ca.crt");
        let asks = world
            .cloud_settings()
            .set("registry.namespace", "edge-system")
            .set("kubernetes.server", plane.server())
            .set("kubernetes.ca", ca.to_str().unwrap())
            .set(
                "kubernetes.token_file",
                world.write("cloud-token", &token).to_str().unwrap(),
            )
            .set("kubernetes.token_review", true)
            .set("kubernetes.subject_access_review", true);
        let cloud = world.cloud_with(settings(asks));
        Self {
            cloud,
            plane,
            world,
        }
    }

    /// A Pod; on a node, if one is named.
    fn pod(&self, namespace: &str, name: &str, account: &str, node: Option<&str>) {
        let mut spec = json!({
            "serviceAccountName": account,
            "automountServiceAccountToken": false,
            "terminationGracePeriodSeconds": 0,
            "tolerations": [{"operator": "Exists"}],
            "containers": [{"name": "c", "image": "none.invalid/none"}],
        });
        if let Some(node) = node {
            spec["nodeName"] = node.into();
        }
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod", "spec": spec,
            "metadata": {"name": name, "namespace": namespace},
        });
        self.plane.apply(&pod.to_string());
    }

    /// The token that the kubelet would give to a Pod's edge.
    fn pod_token(&self, namespace: &str, pod: &str, account: &str, audience: &str) -> String {
        let bound = ["--bound-object-kind", "Pod", "--bound-object-name", pod];
        let line = [&bound[..], &["--audience", audience]].concat();
        token(&self.plane, namespace, account, &line)
    }

    /// A Pod of the edges' on a node, and its token.
    fn edge_token(&self, pod: &str, node: &str) -> String {
        self.pod("edge-system", pod, "tunnel-edge", Some(node));
        self.pod_token("edge-system", pod, "tunnel-edge", "tunnel")
    }

    fn link(&self, node: &str, token: &str) -> Result<FakeEdge, tonic::Status> {
        let options = EdgeOptions::version_1(node, token, &instance(1));
        FakeEdge::connect(&self.world, &self.cloud.grpc, &options)
    }

    #[track_caller]
    fn refused(&self, node: &str, token: &str, code: Code, text: &str) {
        let status = self.link(node, token).expect_err(text);
        assert_eq!(status.code(), code, "{status:?}");
        assert!(status.message().contains(text), "{status:?}");
    }

    /// The status and line of a CONNECT with credentials.
    fn connect(&self, target: &str, authorization: &str) -> (u16, String) {
        let request =
            format!("CONNECT {target} HTTP/1.1\r\nProxy-Authorization: {authorization}\r\n\r\n");
        let (_, reply) = exchange(&self.cloud.connect_users, &request).unwrap();
        (reply.code(), reply.status)
    }

    /// A CONNECT that succeeds.
    #[track_caller]
    fn open(&self, target: &str, authorization: &str) -> Connect {
        let request =
            format!("CONNECT {target} HTTP/1.1\r\nProxy-Authorization: {authorization}\r\n\r\n");
        let (socket, reply) = exchange(&self.cloud.connect_users, &request).unwrap();
        assert_eq!(reply.code(), 200, "{reply:?}");
        Connect { socket }
    }

    /// Questions that the API server was asked.
    fn asked(&self, kind: &str) -> f64 {
        self.cloud.metrics().sum("reviews_total", &[("kind", kind)])
    }

    fn operator(&self, name: &str, more: &[&str]) -> String {
        token(&self.plane, "default", name, more)
    }
}

#[test]
fn an_edge_is_the_node_that_its_pod_runs_on() {
    let scene = Scene::start(|settings| settings);
    let good = scene.edge_token("edge-1", "edge-a");
    let edge = scene.link("edge-a", &good).expect("its own node");
    let (_, nodes) = http::get(&scene.cloud.admin, "/api/v1/nodes");
    assert!(
        nodes.contains(r#""name":"edge-a","state":"online""#),
        "{nodes}"
    );
    drop(edge);

    // Asked once: the answer holds for a while, whatever is claimed with it.
    let asked = scene.asked("token");
    assert!(scene.link("EDGE-A", &good).is_ok(), "case doesn't count");
    let anothers = "the credential is of another node than the one that is claimed";
    scene.refused("edge-b", &good, Code::Unauthenticated, anothers);
    let mut options = EdgeOptions::base("edge-a", &good);
    options.metadata.push(("tunnel-node", "edge-b".to_owned()));
    let status = FakeEdge::connect(&scene.world, &scene.cloud.grpc, &options).unwrap_err();
    assert_eq!(status.code(), Code::Unauthenticated, "{status:?}");
    assert!(status.message().contains("another node"), "{status:?}");
    assert_eq!(scene.asked("token"), asked);

    // Made up, altered, over.
    let (head, body) = parts(&good);
    let others = scene.world.path("others.key");
    let mut made = Command::new(program("openssl", "openssl"));
    made.args([
        "ecparam",
        "-name",
        "prime256v1",
        "-genkey",
        "-noout",
        "-out",
    ]);
    assert!(made.arg(&others).status().unwrap().success());
    let forged = sign(&others, &head, &body);
    scene.refused("edge-a", &forged, Code::Unauthenticated, WRONG);
    let key = scene.plane.state().join("pki/sa.key");
    let mut altered = body.clone();
    altered["kubernetes.io"]["node"]["name"] = "edge-b".into();
    let signature = good.rsplit('.').next().unwrap();
    let altered = format!("{}.{}.{signature}", encode(&head), encode(&altered));
    scene.refused("edge-b", &altered, Code::Unauthenticated, WRONG);
    assert!(
        scene.link("edge-a", &sign(&key, &head, &body)).is_ok(),
        "how the test signs"
    );
    let mut over = body.clone();
    for (claim, at) in [
        ("iat", 1_400_000_000),
        ("nbf", 1_400_000_000),
        ("exp", 1_500_000_000),
    ] {
        over[claim] = at.into();
    }
    scene.refused(
        "edge-a",
        &sign(&key, &head, &over),
        Code::Unauthenticated,
        WRONG,
    );

    // Good, and not an edge's.
    let pod = |audience| scene.pod_token("edge-system", "edge-1", "tunnel-edge", audience);
    let text = "another audience";
    scene.refused("edge-a", &pod("other"), Code::Unauthenticated, text);
    let unbound = token(
        &scene.plane,
        "edge-system",
        "tunnel-edge",
        &["--audience", "tunnel"],
    );
    scene.refused(
        "edge-a",
        &unbound,
        Code::Unauthenticated,
        "bound to no Pod on a node",
    );
    scene.pod("edge-system", "nowhere", "tunnel-edge", None);
    let nowhere = scene.pod_token("edge-system", "nowhere", "tunnel-edge", "tunnel");
    scene.refused(
        "edge-a",
        &nowhere,
        Code::Unauthenticated,
        "bound to no Pod on a node",
    );
    for (namespace, account) in [("edge-system", "other"), ("default", "tunnel-edge")] {
        scene.pod(namespace, "stranger", account, Some("edge-a"));
        let stranger = scene.pod_token(namespace, "stranger", account, "tunnel");
        let text = "another ServiceAccount";
        scene.refused("edge-a", &stranger, Code::Unauthenticated, text);
    }

    // A Pod that is gone takes its token with it.
    let late = scene.edge_token("edge-2", "edge-b");
    scene
        .plane
        .ask(&["-n", "edge-system", "delete", "pod", "edge-2", "--force"]);
    scene.refused("edge-b", &late, Code::Unauthenticated, WRONG);

    // Those of the file are asked of nobody.
    let asked = scene.asked("token");
    assert!(scene.link("node-A", TOKEN).is_ok());
    scene.refused(
        "node-A",
        "no-token-of-kubernetes",
        Code::Unauthenticated,
        WRONG,
    );
    assert_eq!(scene.asked("token"), asked);
}

/// The kubelet swaps the folder that the token's file is in.
#[test]
fn an_edge_takes_over_the_token_that_the_kubelet_renews() {
    let scene = Scene::start(|settings| settings.set("kubernetes.cache", "0s"));
    let folder = scene.world.path("projected");
    let renew = |token: &str, turn: &str| {
        fs::create_dir_all(folder.join(turn)).unwrap();
        fs::write(folder.join(turn).join("token"), token).unwrap();
        let new = folder.join("..data_tmp");
        symlink(turn, &new).unwrap();
        fs::rename(new, folder.join("..data")).unwrap();
    };
    renew(&scene.edge_token("edge-1", "edge-a"), "..1");
    symlink("..data/token", folder.join("token")).unwrap();
    let echo = Target::echo();
    let settings = scene
        .world
        .edge_settings("edge-a", &scene.cloud.grpc, &echo.address())
        .set("node.token_file", folder.join("token").to_str().unwrap())
        .set("reconnect.max", "300ms");
    let mut edge = scene.world.edge_with("edge-a", settings);
    edge.process.wait_status("link", "up", secs(10));
    let mut session = scene.cloud.open("edge-a");
    session.echo(b"before");

    let renewed = scene.edge_token("edge-2", "edge-a");
    scene
        .plane
        .ask(&["-n", "edge-system", "delete", "pod", "edge-1", "--force"]);
    renew(&renewed, "..2");
    wait_until("the edge has read it", secs(10), || {
        let read = [("file", "token"), ("result", "ok")];
        edge.metrics().sum("reloads_total", &read) > 0.0
    });
    session.echo(b"the link stays");
    // The next link needs the new one: the old one's Pod is gone.
    let other = scene
        .link("edge-a", &renewed)
        .expect("another process takes over");
    edge.process.wait_status("link", "down", secs(10));
    drop(other);
    edge.process.wait_status("link", "up", secs(20));
    scene.cloud.open("edge-a").echo(b"after");
}

#[test]
fn rbac_says_who_may_log_in_where() {
    let scene = Scene::start(|settings| settings.set("kubernetes.cache", "2s"));
    let (world, echo) = (&scene.world, Target::echo());
    let _edges: Vec<_> = ["edge-a", "edge-b"]
        .map(|node| {
            let file = format!("token-{node}");
            world.write(&file, &scene.edge_token(&format!("pod-{node}"), node));
            world.edge(&scene.cloud, node, &echo.address())
        })
        .into();
    let (ann, ben) = (scene.operator("ann", &[]), scene.operator("ben", &[]));
    let bearer = |token: &str| format!("Bearer {token}");
    let basic =
        |user: &str, token: &str| format!("Basic {}", STANDARD.encode(format!("{user}:{token}")));

    let mut session = scene.open("edge-a:22", &bearer(&ann));
    session.echo(b"by a token for the API server");
    let ours = scene.operator("ann", &["--audience", "tunnel"]);
    scene
        .open("EDGE-A:22", &bearer(&ours))
        .echo(b"by one for the tunnel");
    scene
        .open("edge-a:22", &basic("kubernetes", &ann))
        .echo(b"as a password");
    let forbidden = |target: &str, token: &str| {
        let (code, line) = scene.connect(target, &bearer(token));
        assert!(
            code == 403 && line.contains("user kubernetes:system:serviceaccount:default:"),
            "{line}"
        );
    };
    forbidden("edge-b:22", &ann);
    forbidden("edge-a:23", &ann);
    forbidden("edge-a:22", &ben);
    forbidden("no-such:22", &ben);
    for wrong in [
        bearer("no-token"),
        basic("ann", &ann),
        basic("kubernetes", "x"),
        bearer(&(ann.clone() + "x")),
    ] {
        assert_eq!(scene.connect("edge-a:22", &wrong).0, 407);
    }
    let mut body = parts(&ann).1;
    body["aud"] = json!(["somebody-else"]);
    let anothers = sign(
        &scene.plane.state().join("pki/sa.key"),
        &parts(&ann).0,
        &body,
    );
    assert_eq!(scene.connect("edge-a:22", &bearer(&anothers)).0, 407);

    // As people run it.
    let auth = world.write("corkscrew-auth", &format!("kubernetes:{ann}"));
    let (host, port) = scene.cloud.connect_users.split_once(':').unwrap();
    let mut corkscrew = Command::new(program("corkscrew", "corkscrew"));
    corkscrew.args([host, port, "edge-a", "22"]).arg(auth);
    talk(&mut corkscrew).kill().unwrap();
    let config = world.write(
        "client.toml",
        &format!(
            "server = \"grpcs://{}\"\nca = {:?}\nserver_name = \"tunnel.cloud.io\"\ntoken_file = {:?}\n",
            scene.cloud.grpc,
            world.pki.ca(),
            world.write("ann", &ann)
        ),
    );
    let mut tunnel = Command::new(binary("tunnel"));
    tunnel
        .arg("--config")
        .arg(config)
        .args(["connect", "edge-a", "22"]);
    tunnel
        .env_remove("TUNNEL_SERVER")
        .env_remove("TUNNEL_TOKEN");
    let mut tunnel = talk(&mut tunnel);

    // Taken away: nothing new, and what is open ends.
    session.echo(b"still there");
    let at = Instant::now();
    scene.plane.ask(&["delete", "clusterrolebinding", "ann"]);
    wait_until("no new session", secs(10), || {
        scene.connect("edge-a:22", &bearer(&ann)).0 == 403
    });
    assert!(session.ends(secs(10)), "the open session");
    wait_until("tunnel's session ends", secs(10), || {
        tunnel.try_wait().unwrap().is_some()
    });
    println!(
        "measured: sessions ended {:?} after the right (kubernetes.cache 2s)",
        at.elapsed()
    );
    let ended = [("reason", "revoked")];
    assert!(scene.cloud.metrics().sum("streams_closed_total", &ended) >= 1.0);
    scene.cloud.open("edge-a").echo(b"others");

    // And given back.
    scene.plane.apply(OPERATORS);
    wait_until("a new session", secs(10), || {
        scene.connect("edge-a:22", &bearer(&ann)).0 == 200
    });
    let audit = fs::read_to_string(&scene.cloud.audit).unwrap();
    assert!(
        audit.contains("kubernetes:system:serviceaccount:default:ann"),
        "{audit}"
    );
}

#[test]
fn what_is_known_holds_while_the_api_server_is_away() {
    let scene = Scene::start(|settings| settings);
    let known = scene.edge_token("edge-1", "edge-a");
    let unknown = scene.edge_token("edge-2", "edge-b");
    let (ann, ben) = (scene.operator("ann", &[]), scene.operator("ben", &[]));
    scene.world.write("token-edge-a", &known);
    let echo = Target::echo();
    let _edge = scene.world.edge(&scene.cloud, "edge-a", &echo.address());
    let bearer = |token: &str| format!("Bearer {token}");
    let mut session = scene.open("edge-a:22", &bearer(&ann));

    let server = Pid::from_raw(scene.plane.pid("apiserver"));
    kill(server, Signal::SIGSTOP).unwrap();
    let at = Instant::now();
    scene.refused("edge-b", &unknown, Code::Unavailable, "can't be asked");
    let (code, line) = scene.connect("edge-a:22", &bearer(&ben));
    assert!(code == 503 && line.contains("can't be checked"), "{line}");
    println!(
        "measured: two answers without the API server in {:?}",
        at.elapsed()
    );
    session.echo(b"an open session doesn't notice");
    scene
        .open("edge-a:22", &bearer(&ann))
        .echo(b"nor does one who was here");
    let (code, _) = scene.connect("edge-a:22", "Basic YWxpY2U6d29uZGVybGFuZA==");
    assert_eq!(code, 403, "a user of the file is known");
    kill(server, Signal::SIGCONT).unwrap();
    wait_until("asked and answered again", secs(20), || {
        scene.link("edge-b", &unknown).is_ok() && scene.connect("edge-a:22", &bearer(&ben)).0 == 403
    });
}

#[test]
fn without_the_right_to_ask_the_log_says_which_one_is_missing() {
    let scene = Scene::start(|settings| settings.set("kubernetes.cache", "0s"));
    let edge = scene.edge_token("edge-1", "edge-a");
    assert!(scene.link("edge-a", &edge).is_ok());
    scene
        .plane
        .ask(&["delete", "clusterrolebinding", "tunnel-cloud-reviews"]);
    wait_until("refused", secs(10), || scene.link("edge-a", &edge).is_err());
    scene.refused("edge-a", &edge, Code::Unavailable, "can't be asked");
    let words = ["WARN", "create tokenreviews", "403", "verb"];
    wait_until("said in the log", secs(20), || {
        let _ = scene.link("edge-a", &edge);
        scene.cloud.process.log_lines(&words) > 0
    });
    let leaked = edge.rsplit('.').next().unwrap();
    assert!(
        !scene.cloud.process.log().contains(leaked),
        "a token in the log"
    );
}

/// Starts a program that takes a stream by itself, and says something to the echo by it.
#[track_caller]
fn talk(command: &mut Command) -> Child {
    let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = piped.spawn().unwrap();
    let mut said = [0; 5];
    child.stdin.as_mut().unwrap().write_all(b"hello").unwrap();
    child
        .stdout
        .as_mut()
        .unwrap()
        .read_exact(&mut said)
        .unwrap();
    assert_eq!(&said, b"hello");
    child
}

/// A token of a ServiceAccount's.
fn token(plane: &ControlPlane, namespace: &str, account: &str, more: &[&str]) -> String {
    let line = [&["-n", namespace, "create", "token", account][..], more].concat();
    plane.ask(&line).trim().to_owned()
}

/// A token's head and body.
fn parts(token: &str) -> (Value, Value) {
    let part = |at| {
        let text: &str = token.split('.').nth(at).unwrap();
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(text).unwrap()).unwrap()
    };
    (part(0), part(1))
}

fn encode(part: &Value) -> String {
    URL_SAFE_NO_PAD.encode(part.to_string())
}

/// A token signed by ES256 with a key's file.
fn sign(key: &std::path::Path, head: &Value, body: &Value) -> String {
    let text = format!("{}.{}", encode(head), encode(body));
    let mut openssl = Command::new(program("openssl", "openssl"))
        .args(["dgst", "-sha256", "-sign"])
        .arg(key)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    openssl
        .stdin
        .take()
        .unwrap()
        .write_all(text.as_bytes())
        .unwrap();
    let output = openssl.wait_with_output().unwrap();
    assert!(output.status.success());
    // A sequence of two integers; wanted are their 32 bytes each.
    let der = output.stdout;
    let mut rest = &der[2..];
    let mut raw = Vec::new();
    for _ in 0..2 {
        let len = usize::from(rest[1]);
        let digits = &rest[2..2 + len];
        let digits = &digits[digits.len().saturating_sub(32)..];
        raw.resize(raw.len() + 32 - digits.len(), 0);
        raw.extend_from_slice(digits);
        rest = &rest[2 + len..];
    }
    format!("{text}.{}", URL_SAFE_NO_PAD.encode(raw))
}
