//! Replicas as processes beside a real control plane, each with a Pod made for it, in a network of the test's own: an
//! EndpointSlice may not name an address of loopback. Needs root.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::binaries::binary;
use crate::kubernetes::{ControlPlane, Setup};
use crate::netns::Namespace;
use crate::wait::{secs, wait_until};
use crate::world::Settings;
use crate::{Cloud, Connect, World};

/// The namespace of all objects.
pub const NAMESPACE: &str = "edge-system";

/// See the module. What runs ends before its control plane.
#[derive(Debug)]
pub struct InCluster {
    /// The running ones, from 0.
    pub replicas: Vec<Option<Cloud>>,
    /// The control plane.
    pub plane: ControlPlane,
    /// Keys, tokens, configuration, logs; the control plane's files too, so it goes last.
    pub world: World,
    settings: Vec<Settings>,
}

/// Runs a test in a network that has an address for each replica.
pub fn alone(test: impl FnOnce() + Send) {
    let network = Namespace::new();
    for at in 0..4 {
        network.ip(&format!("address add {}/32 dev lo", address(at)));
    }
    network.enter(test);
}

/// A replica's address.
pub fn address(at: usize) -> String {
    format!("10.77.3.{}", at + 1)
}

/// A replica's Pod.
pub fn pod(at: usize) -> String {
    format!("cloud-{at}")
}

impl InCluster {
    /// Starts `count` replicas that find each other by their addresses, and may do what docs/registry.md says.
    pub fn start(count: usize) -> Self {
        Self::start_with(count, &Setup::default(), |_, settings| settings)
    }

    /// The same with another control plane, and other settings for each.
    pub fn start_with(
        count: usize,
        setup: &Setup<'_>,
        change: impl Fn(usize, Settings) -> Settings,
    ) -> Self {
        let rbac = Path::new(env!("CARGO_MANIFEST_DIR")).join("cluster/registry-rbac.yaml");
        Self::start_as(count, setup, &fs::read_to_string(rbac).unwrap(), change)
    }

    /// The same, and before them these objects are there: what the replicas may do, and what they find.
    pub fn start_as(
        count: usize,
        setup: &Setup<'_>,
        objects: &str,
        change: impl Fn(usize, Settings) -> Settings,
    ) -> Self {
        let world = World::new();
        let plane = ControlPlane::start(&world.path("cluster"), setup);
        plane.ask(&["create", "namespace", NAMESPACE]);
        plane.apply(&format!(
            "apiVersion: v1\nkind: ServiceAccount\nmetadata: {{name: tunnel-cloud, namespace: {NAMESPACE}}}\n---\n\
             apiVersion: v1\nkind: Service\nmetadata: {{name: tunnel-nodes, namespace: {NAMESPACE}}}\n\
             spec: {{clusterIP: None, ports: [{{name: ssh, port: 22}}]}}\n"
        ));
        plane.apply(objects);
        let mut cluster = Self {
            replicas: Vec::new(),
            settings: Vec::new(),
            world,
            plane,
        };
        let peers: Vec<String> = (0..count)
            .map(|at| crate::cluster::free(&address(at)))
            .collect();
        for at in 0..count {
            let settings = cluster.own_settings(at, &peers);
            cluster.settings.push(change(at, settings));
            cluster.replicas.push(None);
            cluster.make_pod(at);
            cluster.begin(at);
        }
        cluster
    }

    /// A running replica.
    pub fn replica(&self, at: usize) -> &Cloud {
        self.replicas[at].as_ref().expect("it runs")
    }

    /// Starts a replica, in the Pod that is there.
    pub fn begin(&mut self, at: usize) {
        let server = self.plane.server();
        let (host, port) = server
            .strip_prefix("https://")
            .and_then(|rest| rest.rsplit_once(':'))
            .expect("a URL");
        let mut command = Command::new(binary("tunnel-cloud"));
        command
            .env("POD_NAME", pod(at))
            .env("POD_NAMESPACE", NAMESPACE)
            .env("POD_IP", address(at))
            .env("KUBERNETES_SERVICE_HOST", host)
            .env("KUBERNETES_SERVICE_PORT", port);
        let settings = self.settings[at].clone();
        self.replicas[at] = Some(self.world.cloud_by(&pod(at), settings, command));
    }

    /// Makes a replica's Pod, which no node runs, and lays down its token.
    pub fn make_pod(&self, at: usize) {
        let pod = pod(at);
        wait_until("the ServiceAccount is there", secs(20), || {
            let line = ["-n", NAMESPACE, "get", "serviceaccount", "tunnel-cloud"];
            self.plane.kubectl(&line).output().unwrap().status.success()
        });
        self.plane.apply(&format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {pod}, namespace: {NAMESPACE}, labels: {{app: tunnel-cloud}}}}\n\
             spec: {{serviceAccountName: tunnel-cloud, automountServiceAccountToken: false, containers: [{{name: main, image: none}}]}}\n"
        ));
        let bound = ["--bound-object-kind", "Pod", "--bound-object-name", &pod];
        let line = [
            &["-n", NAMESPACE, "create", "token", "tunnel-cloud"],
            &bound[..],
        ]
        .concat();
        let token = self.plane.ask(&line);
        self.world.write(&format!("{pod}-token"), token.trim());
    }

    /// Deletes a replica's Pod, and ends the process as a kubelet would that has no patience.
    pub fn delete(&mut self, at: usize) {
        if let Some(mut cloud) = self.replicas[at].take() {
            cloud.process.kill();
        }
        self.kubectl(&["delete", "pod", &pod(at), "--grace-period=0", "--force"]);
    }

    /// What `kubectl` prints, in the namespace.
    #[track_caller]
    pub fn kubectl(&self, line: &[&str]) -> String {
        self.plane.ask(&[&["-n", NAMESPACE], line].concat())
    }

    /// All slices of nodes.
    pub fn slices(&self) -> Vec<Value> {
        let label = "-lendpointslice.kubernetes.io/managed-by=tunnel-cloud";
        let list = self.plane.get(&["-n", NAMESPACE, "endpointslices", label]);
        list["items"].as_array().unwrap().clone()
    }

    /// Where the slices say that a label is.
    pub fn registered(&self, label: &str) -> Vec<String> {
        let mut found = Vec::new();
        for slice in self.slices() {
            for endpoint in slice["endpoints"].as_array().into_iter().flatten() {
                if endpoint["hostname"] == label {
                    let addresses = endpoint["addresses"].as_array().unwrap();
                    found.extend(addresses.iter().map(|ip| ip.as_str().unwrap().to_owned()));
                }
            }
        }
        found.sort();
        found
    }

    /// Waits until they say so.
    #[track_caller]
    pub fn wait_registered(&self, label: &str, at: &[usize]) {
        let expected: Vec<String> = at.iter().map(|at| address(*at)).collect();
        wait_until("the slices say where the node is", secs(20), || {
            self.registered(label) == expected
        });
    }

    /// Writes of all replicas that run.
    pub fn writes(&self, result: &str) -> f64 {
        let running = self.replicas.iter().flatten();
        running
            .map(|cloud| {
                cloud
                    .metrics()
                    .sum("registry_writes_total", &[("result", result)])
            })
            .sum()
    }

    /// Waits until each replica that runs has said to each other what it holds.
    pub fn wait_linked(&self) {
        let running = self.replicas.iter().flatten().count();
        for replica in self.replicas.iter().flatten() {
            wait_until("the replicas have found each other", secs(10), || {
                let links = replica.metrics().sum("links", &[("kind", "peer")]);
                links >= (2 * (running - 1)) as f64
            });
        }
    }

    /// A stream to a node through a replica.
    #[track_caller]
    pub fn open(&self, at: usize, node: &str) -> Connect {
        Connect::open(&self.replica(at).connect, &format!("{node}:22"))
    }

    /// Requests that have changed slices, by the API server's own count.
    pub fn requests(&self) -> f64 {
        self.requests_for("endpointslices")
    }

    /// Requests that have changed objects of a kind, by the API server's own count.
    pub fn requests_for(&self, resource: &str) -> f64 {
        let resource = format!("resource=\"{resource}\"");
        let text = self.plane.ask(&["get", "--raw", "/metrics"]);
        let changes = |line: &&str| {
            line.starts_with("apiserver_request_total{")
                && line.contains(&resource)
                && ["POST", "PUT", "PATCH", "DELETE"]
                    .iter()
                    .any(|verb| line.contains(&format!("verb=\"{verb}\"")))
        };
        text.lines()
            .filter(changes)
            .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
            .sum()
    }

    /// What a replica has logged.
    pub fn log(&self, at: usize) -> String {
        let file = self.world.path("log").join(format!("{}.log", pod(at)));
        fs::read_to_string(file).unwrap_or_default()
    }

    fn own_settings(&self, at: usize, peers: &[String]) -> Settings {
        let text = |path: &Path| path.to_str().unwrap().to_owned();
        let identity = self.world.pki.replica(&format!("replica-{at}"));
        self.world
            .cloud_settings_at(&address(at))
            .set("grpc.listen", peers[at].clone())
            .set("grpc.cert", text(&identity.cert))
            .set("grpc.key", text(&identity.key))
            .set("peers.addresses", peers.to_vec())
            .set("limits.node_wait", "3s")
            .set(
                "log.audit",
                text(&self.world.path(&format!("audit-{at}.jsonl"))),
            )
            .set("registry.dns_server", self.plane.dns())
            .set(
                "kubernetes.ca",
                text(&self.plane.state().join("pki/ca.crt")),
            )
            .set(
                "kubernetes.token_file",
                text(&self.world.path(&format!("{}-token", pod(at)))),
            )
    }
}
