//! Replicas, an edge with an SSH server, and a user, in networks of their own (root).

use std::process::Command;

use crate::binaries::binary;
use crate::metrics::Metrics;
use crate::netns::{Networks, replica_address};
use crate::openssh::{Ssh, Sshd};
use crate::wait::secs;
use crate::world::{Cloud, Edge, Settings, World};

/// See the module. What runs ends before its networks go.
#[derive(Debug)]
pub struct Fleet {
    /// The replicas; the first one's is at [`replica_address`]`(1)`.
    pub clouds: Vec<Cloud>,
    /// node-A.
    pub edge: Edge,
    /// What node-A's port 22 is.
    pub sshd: Sshd,
    /// The user's configuration; its proxies lead to the first replica, its links to any.
    pub ssh: Ssh,
    /// Keys, tokens, configuration, logs.
    pub world: World,
    /// Where all of it runs.
    pub networks: Networks,
}

impl Fleet {
    /// Starts all and waits for the edge's link. `edge` may change the edge's settings.
    pub fn start(
        replicas: usize,
        edge: impl FnOnce(Settings, &Networks, &[Cloud]) -> Settings,
    ) -> Self {
        let (networks, world) = (Networks::new(), World::new());
        let clouds: Vec<Cloud> = (1..=replicas)
            .map(|number| {
                let settings = world.cloud_settings_at(&replica_address(number));
                let command = Command::new(binary("tunnel-cloud"));
                let name = format!("cloud-{number}");
                networks
                    .cloud
                    .enter(|| world.cloud_by(&name, settings, command))
            })
            .collect();
        let sshd = networks.edge.enter(|| Sshd::start(&world));
        let addresses: Vec<String> = clouds.iter().map(|cloud| cloud.grpc.clone()).collect();
        let settings = world
            .edge_settings("node-A", "", &sshd.address())
            .set("cloud.addresses", addresses.clone());
        let settings = edge(settings, &networks, &clouds);
        let edge = networks.edge.enter(|| {
            let mut edge = world.edge_with("node-A", settings);
            edge.process.wait_status("link", "up", secs(10));
            edge
        });
        let ssh = Ssh::new(&world, &clouds[0]).by_links(&world, &addresses.join(","));
        Self {
            clouds,
            edge,
            sshd,
            ssh,
            world,
            networks,
        }
    }

    /// A replica's metrics now; numbers begin with 1.
    pub fn cloud_metrics(&self, number: usize) -> Metrics {
        let cloud = &self.clouds[number - 1];
        self.networks.cloud.enter(|| cloud.metrics())
    }

    /// The edge's metrics now.
    pub fn edge_metrics(&self) -> Metrics {
        self.networks.edge.enter(|| self.edge.metrics())
    }
}
