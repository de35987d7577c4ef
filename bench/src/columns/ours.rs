//! tunnel-cloud and tunnel-edge, as an operator would run them.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use tunnel_tests::binaries::binary;
use tunnel_tests::world::{Settings, TOKEN, World};
use tunnel_tests::{Cloud, Edge};

use super::Line;
use crate::Result;
use crate::column::{Column, Door};
use crate::proc::Pids;

/// The column of the small edge.
const SMALL: &str = "small";
/// The column whose streams end with their link.
const NO_RESUME: &str = "no-resume";
/// The column that goes by way of a second replica.
const RELAYED: &str = "relayed";

/// Both halves, running.
#[derive(Debug)]
pub(crate) struct Ours {
    // Dropped in this order: the edge would only log the cloud's end.
    edge: Edge,
    /// The half that is entered.
    pub(crate) cloud: Cloud,
    /// The replica that is entered instead, and relays.
    relay: Option<Cloud>,
    /// Its name in the table.
    name: &'static str,
    /// Their files.
    pub(crate) world: World,
}

impl Ours {
    /// Starts both, with tokens for `idle` further nodes ([`idle_node`]).
    pub(crate) fn start(target: &str, line: Line, idle: usize) -> Result<Self> {
        Self::start_as("ours", target, line, idle)
    }

    /// The same with the small edge, if `TUNNEL_SMALL_EDGE` says where it is.
    pub(crate) fn start_small(target: &str, line: Line, idle: usize) -> Result<Option<Self>> {
        if small_edge().is_none() {
            return Ok(None);
        }
        Self::start_as(SMALL, target, line, idle).map(Some)
    }

    /// The same, with streams that end with their link.
    pub(crate) fn start_without_resume(target: &str, line: Line) -> Result<Self> {
        Self::start_as(NO_RESUME, target, line, 0)
    }

    /// The same, entered at a second replica, which passes on what it is asked for.
    pub(crate) fn start_relayed(target: &str, line: Line) -> Result<Self> {
        Self::start_as(RELAYED, target, line, 0)
    }

    fn start_as(name: &'static str, target: &str, line: Line, idle: usize) -> Result<Self> {
        let world = World::new();
        let mut tokens = format!("node-A:{TOKEN}\n");
        for n in 0..idle {
            tokens += &format!("{}:{TOKEN}\n", idle_node(n));
        }
        world.write("tokens", &tokens);
        let mut cloud = world.cloud_settings().quiet();
        let is_resumed = name != NO_RESUME;
        cloud = cloud.set("streams.resume", is_resumed);
        let settings = |grpc: &str| {
            world
                .edge_settings("node-A", grpc, target)
                .quiet()
                .set("streams.resume", is_resumed)
        };
        let mut edge_room = None;
        if idle > 0 {
            // A thousand edges at once and a thousand streams of one: more than the defaults let one node have.
            cloud = cloud
                .set("grpc.links_per_second_max", 100_000)
                .set("streams.buffers_bytes_max", 1i64 << 30);
            edge_room = Some(1i64 << 30);
        }
        let mut relay = None;
        if name == RELAYED {
            let grpc = format!("127.0.0.1:{}", super::free_port()?);
            let own = world.pki.replica("replica");
            let peers = |settings: Settings| {
                settings
                    .set("grpc.cert", text(&own.cert))
                    .set("grpc.key", text(&own.key))
            };
            let second = peers(cloud.clone()).set("peers.addresses", vec![grpc.clone()]);
            let command = Command::new(binary("tunnel-cloud"));
            let second = world.cloud_by("relay", second, command);
            cloud = peers(cloud)
                .set("grpc.listen", grpc)
                .set("peers.addresses", vec![second.grpc.clone()]);
            relay = Some(second);
        }
        let cloud = world.cloud_with(cloud);
        let mut edge = settings(&line.to(&cloud.grpc)?);
        if let Some(bytes) = edge_room {
            edge = edge.set("streams.buffers_bytes_max", bytes);
        }
        let program = match small_edge() {
            Some(small) if name == SMALL => small,
            _ => binary("tunnel-edge"),
        };
        let mut edge = world.edge_by("node-A", edge, Command::new(program));
        edge.process
            .wait_status("link", "up", std::time::Duration::from_secs(10));
        let ours = Self {
            edge,
            cloud,
            relay,
            name,
            world,
        };
        if ours.relay.is_some() {
            ours.wait_for_relay()?;
        }
        Ok(ours)
    }

    /// Until the second replica has heard where the node is.
    fn wait_for_relay(&self) -> Result<()> {
        let begun = Instant::now();
        loop {
            match self.door().open(b"") {
                Ok(_) => return Ok(()),
                Err(error) if begun.elapsed() > Duration::from_secs(10) => return Err(error.into()),
                // It says 404 or 503 until then.
                Err(_) => std::thread::sleep(Duration::from_millis(50)),
            }
        }
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
            proxy: self.relay.as_ref().unwrap_or(&self.cloud).connect.clone(),
            target: "node-A:22".to_owned(),
        }
    }

    /// As a column.
    pub(crate) fn column(self) -> Result<Column> {
        Ok(Column {
            name: self.name,
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

/// Where the small edge is.
fn small_edge() -> Option<PathBuf> {
    std::env::var_os("TUNNEL_SMALL_EDGE").map(PathBuf::from)
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}
