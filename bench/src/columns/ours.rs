//! tunnel-cloud and tunnel-edge, as an operator would run them.

use tunnel_tests::world::{TOKEN, World};
use tunnel_tests::{Cloud, Edge};

use super::Line;
use crate::Result;
use crate::column::{Column, Door};
use crate::proc::Pids;

/// Both halves, running.
#[derive(Debug)]
pub(crate) struct Ours {
    // Dropped in this order: the edge would only log the cloud's end.
    edge: Edge,
    /// The half that is entered.
    pub(crate) cloud: Cloud,
    /// Their files.
    pub(crate) world: World,
}

impl Ours {
    /// Starts both, with tokens for `idle` further nodes ([`idle_node`]).
    pub(crate) fn start(target: &str, line: Line, idle: usize) -> Result<Self> {
        let world = World::new();
        let mut tokens = format!("node-A:{TOKEN}\n");
        for n in 0..idle {
            tokens += &format!("{}:{TOKEN}\n", idle_node(n));
        }
        world.write("tokens", &tokens);
        let mut cloud = world
            .cloud_settings()
            .set("log.level", "info")
            .set("log.audit", "off");
        let settings = |grpc: &str| {
            world
                .edge_settings("node-A", grpc, target)
                .set("log.level", "info")
                .set("log.audit", "off")
        };
        let mut edge_room = None;
        if idle > 0 {
            // A thousand edges at once and a thousand streams of one: more than the defaults let one node have.
            cloud = cloud
                .set("grpc.links_per_second_max", 100_000)
                .set("streams.buffers_bytes_max", 1i64 << 30);
            edge_room = Some(1i64 << 30);
        }
        let cloud = world.cloud_with(cloud);
        let mut edge = settings(&line.to(&cloud.grpc)?);
        if let Some(bytes) = edge_room {
            edge = edge.set("streams.buffers_bytes_max", bytes);
        }
        let mut edge = world.edge_with("node-A", edge);
        edge.process
            .wait_status("link", "up", std::time::Duration::from_secs(10));
        Ok(Self { edge, cloud, world })
    }

    /// The half that is entered.
    pub(crate) fn cloud_pid(&self) -> Pids {
        Pids::One(self.cloud.process.id())
    }

    /// The half beside the target.
    pub(crate) fn edge_pid(&self) -> Pids {
        Pids::One(self.edge.process.id())
    }

    /// How a stream is opened.
    pub(crate) fn door(&self) -> Door {
        Door::Connect {
            proxy: self.cloud.connect.clone(),
            target: "node-A:22".to_owned(),
        }
    }

    /// As a column.
    pub(crate) fn column(self) -> Result<Column> {
        Ok(Column {
            name: "ours",
            door: self.door(),
            cloud: self.cloud_pid(),
            edge: self.edge_pid(),
            _parts: vec![Box::new(self)],
        })
    }
}

/// The name of the n-th idle node.
pub(crate) fn idle_node(n: usize) -> String {
    format!("idle-{n}")
}
