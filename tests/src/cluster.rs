//! Several replicas on one machine, each with a loopback address of its own.

use std::net::TcpListener;
use std::process::Command;

use crate::binaries::binary;
use crate::pki::Identity;
use crate::wait::{secs, wait_until};
use crate::world::Settings;
use crate::{Cloud, Connect, World};

/// Replicas, from 0. Each knows the gRPC addresses of all of them, its own too, unless a test says otherwise.
#[derive(Debug)]
pub struct Cluster {
    /// The running ones.
    pub replicas: Vec<Cloud>,
    settings: Vec<Settings>,
}

impl Cluster {
    /// Starts `count` replicas with certificates of replicas.
    pub fn start(world: &World, count: usize) -> Self {
        Self::start_with(world, count, |_, _, settings| settings)
    }

    /// The same with other settings: `change` is given a replica's number and the gRPC addresses of all.
    pub fn start_with(
        world: &World,
        count: usize,
        change: impl Fn(usize, &[String], Settings) -> Settings,
    ) -> Self {
        let addresses: Vec<String> = (0..count).map(|at| free(&ip(at))).collect();
        let settings: Vec<Settings> = (0..count)
            .map(|at| {
                let identity = world.pki.replica(&format!("replica-{at}"));
                let own = settings(world, at, &identity, &addresses);
                change(at, &addresses, own)
            })
            .collect();
        let replicas = (0..count)
            .map(|at| start(world, at, settings[at].clone()))
            .collect();
        Self { replicas, settings }
    }

    /// Starts a replica that has ended, at the same address, with the same settings.
    pub fn restart(&mut self, world: &World, at: usize) {
        self.replicas[at] = start(world, at, self.settings[at].clone());
    }

    /// Waits until each replica has said to each other what it holds.
    pub fn wait_linked(&self) {
        let others = self.replicas.len() - 1;
        for replica in &self.replicas {
            wait_until("the replicas have found each other", secs(10), || {
                let links = replica.metrics().sum("links", &[("kind", "peer")]);
                links >= (2 * others) as f64
            });
        }
    }

    /// A stream to a node through a replica, once that replica knows of it.
    pub fn open(&self, at: usize, node: &str) -> Connect {
        let target = format!("{node}:22");
        let proxy = &self.replicas[at].connect;
        let mut open = None;
        wait_until("the replica finds the node", secs(10), || {
            open = Connect::try_open(proxy, &target).unwrap().ok();
            open.is_some()
        });
        open.unwrap()
    }
}

/// A replica's loopback address.
pub fn ip(at: usize) -> String {
    format!("127.0.0.{}", 11 + at)
}

fn settings(world: &World, at: usize, own: &Identity, addresses: &[String]) -> Settings {
    let text = |path: &std::path::Path| path.to_str().unwrap().to_owned();
    world
        .cloud_settings_at(&ip(at))
        .set("grpc.listen", addresses[at].clone())
        .set("grpc.cert", text(&own.cert))
        .set("grpc.key", text(&own.key))
        .set("peers.addresses", addresses.to_vec())
        .set("limits.node_wait", "3s")
        .set("log.audit", text(&world.path(&format!("audit-{at}.jsonl"))))
}

fn start(world: &World, at: usize, settings: Settings) -> Cloud {
    let command = Command::new(binary("tunnel-cloud"));
    world.cloud_by(&format!("cloud-{at}"), settings, command)
}

/// An address at which nobody listens.
pub fn free(ip: &str) -> String {
    let listener = TcpListener::bind((ip, 0)).unwrap();
    listener.local_addr().unwrap().to_string()
}
