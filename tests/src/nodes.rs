//! A real cluster of two nodes, each with containerd and a kubelet in a network of its own: the cloud's, where the
//! control plane is too, and an edge's, which reaches the cloud and lets nobody in. Needs root.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::kubernetes::{ControlPlane, Setup, programs};
use crate::netns::Networks;
use crate::openssh::success;
use crate::pages::repository;
use crate::wait::{secs, wait_until};

/// The address of the cloud's node, at which an edge finds NodePorts.
pub const CLOUD: &str = "10.77.0.1";
/// The edge's address.
pub const EDGE: &str = "10.77.0.2";

/// The two nodes, `cloud-a` and `edge-a`, and their control plane.
#[derive(Debug)]
pub struct Nodes {
    /// The networks.
    pub networks: Networks,
    /// The control plane; ask it by [`Nodes::kubectl`], it is in the cloud's network.
    pub plane: ControlPlane,
    dir: PathBuf,
}

impl Nodes {
    /// Starts everything, with its files in `dir`, and waits until both nodes are ready. They have the image
    /// `localhost/pause:test` and no other.
    pub fn start(dir: &Path) -> Self {
        fs::create_dir_all(dir).unwrap();
        let networks = Networks::new();
        let setup = Setup {
            environment: vec![
                ("BIND", CLOUD),
                ("DNS_PORT", "53"),
                // Services that extend the API are asked at their endpoints: the control plane has no kube-proxy of its own.
                ("APISERVER_FLAGS", "--enable-aggregator-routing=true"),
                ("WITH", "controller-manager scheduler coredns"),
            ],
        };
        let plane = networks.cloud.enter(|| ControlPlane::start(dir, &setup));
        let nodes = Self {
            networks,
            plane,
            dir: dir.to_owned(),
        };
        nodes.image("localhost/pause:test", &programs(&[]).join("pause"));
        let networks = &nodes.networks;
        nodes.node("cloud-a", &networks.cloud.path(), CLOUD, "10.244.1.0/24");
        nodes.node("edge-a", &networks.edge.path(), EDGE, "10.244.2.0/24");
        wait_until("both nodes are ready", secs(90), || {
            let line = ["get", "nodes", "--no-headers"];
            let listed = nodes.kubectl(&line);
            listed
                .lines()
                .filter(|line| line.split_whitespace().nth(1) == Some("Ready"))
                .count()
                == 2
        });
        nodes
    }

    /// What `kubectl` prints, which must succeed, as the administrator in the cloud's network.
    #[track_caller]
    pub fn kubectl(&self, line: &[&str]) -> String {
        self.networks.cloud.enter(|| self.plane.ask(line))
    }

    /// A node's folder: its containerd's socket, what its machine has in /etc/tunnel, its Pods' logs.
    pub fn folder(&self, node: &str) -> PathBuf {
        self.dir.join(node)
    }

    /// Makes an image and lays it before both nodes.
    fn image(&self, name: &str, program: &Path) {
        let archive = repository("deploy/images/archive");
        let file = name.replace(['/', ':'], "-") + ".tar";
        for node in ["cloud-a", "edge-a"] {
            let folder = self.dir.join(node).join("images");
            fs::create_dir_all(&folder).unwrap();
            let made = Command::new(&archive)
                .arg(folder.join(&file))
                .arg(name)
                .arg(program)
                .output()
                .unwrap();
            success("deploy/images/archive", &made);
        }
    }

    fn node(&self, name: &str, network: &str, address: &str, pods: &str) {
        let mut command = self.plane.script("node-up");
        command
            .arg(self.plane.state())
            .arg(self.dir.join(name))
            .args([name, network, address, pods])
            .env("CLUSTER_DNS", CLOUD);
        if name == "cloud-a" {
            command.env("NODE_PORTS", "10.77.0.0/16");
        }
        success("node-up", &command.output().unwrap());
    }
}

impl Drop for Nodes {
    fn drop(&mut self) {
        for name in ["edge-a", "cloud-a"] {
            let node = self.dir.join(name);
            let _ = self.plane.script("node-down").arg(&node).arg(name).status();
            if std::thread::panicking() {
                for log in ["init.log", "import.log", "kubelet.log"] {
                    let text = fs::read_to_string(node.join(log)).unwrap_or_default();
                    let lines: Vec<&str> = text.lines().collect();
                    let end = lines[lines.len().saturating_sub(20)..].join("\n");
                    eprintln!("--- {log} of {name} ---\n{end}");
                }
            }
        }
    }
}
