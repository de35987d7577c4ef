//! Fixed scenarios: a fleet that is given instead of drawn, and a script of what happens to it. The machines, the drivers, the network
//! and the oracles are those of the drawn worlds; what a scenario asks for beyond them is in its report. docs/simulations.md lists them.

mod crowd;
mod detached;
mod hops;
mod registry;
mod replicas;

use std::time::Duration;

use proto_core::Config;
use proto_core::edge::{DialectChoice, Reconnect};

use crate::cluster::RegistryFault;
use crate::draw::{Concern, Draw};
use crate::flow::{AppPlan, Ask, Dial, Fin, Flow, FlowPlan, Read, SLOW, Via, port_of};
use crate::host::Habits;
use crate::net::{Event, FlowId, MS, NEVER, Nanos, SEC, nanos};
use crate::setup::{ClusterPlan, NodePlan, RegistryKind, Setup};
use crate::wire::Shape;
use crate::world::{Slot, World};

pub use crowd::{Crowded, crowd};
pub use detached::{Detached, expire, resume};
pub use hops::{Opens, hops};
pub use registry::{Outage, Unnoticed, registry_fails};
pub use replicas::{Settled, replica_dies, rolling_drain};

/// Far behind the end of every scenario, and not so far that sums overflow.
const LATER: Nanos = NEVER / 4;
/// How often a scenario looks at what it waits for.
const LOOK: Nanos = SEC / 4;

/// How long after something was done to a link it may take to be there again, and its streams with it.
pub(crate) fn settles(world: &World) -> Nanos {
    world.reconnects() + 8 * SEC
}

/// A fleet with a script.
pub(crate) struct Stage {
    pub(crate) world: World,
}

/// What the fleet is like, unless a scenario changes it: lines of 5 to 80 ms, the default limits.
pub(crate) fn setup(seed: u64, nodes: usize, replicas: usize) -> Setup {
    let draw = &mut Draw::new(seed, Concern::Setup);
    let line = |latency| Shape {
        latency,
        bytes_per_second: 64 << 20,
        room: 64,
    };
    let node = |latency| NodePlan {
        dialect: DialectChoice::V1,
        shape: line(latency),
        habits: Habits::default(),
    };
    Setup {
        config: Config::default(),
        reconnect: Reconnect::default(),
        tight: false,
        cloud_bytes_max: 1 << 30,
        edge_bytes_max: 64 << 20,
        nodes: (0..nodes)
            .map(|_| node(draw.log_range(5 * MS, 80 * MS)))
            .collect(),
        cloud_habits: Habits::default(),
        flows: Vec::new(),
        heal_at: LATER,
        cluster: ClusterPlan {
            replicas,
            service: true,
            client_one_in: Some(2),
            registry: RegistryKind::Slices,
            registry_fault: RegistryFault::None,
            peer_shape: line(MS),
            client_shape: line(30 * MS),
            skews_ms: vec![1_000_000_000; replicas],
            drain_jitter: 5 * SEC,
        },
        ports: None,
    }
}

/// A stream whose client sends `chunk` bytes in each `gap`, so many times, and has them sent back.
pub(crate) fn talk(
    node: usize,
    via: Via,
    at: Nanos,
    (chunk, gap, times): (u64, Nanos, u64),
) -> FlowPlan {
    let app = AppPlan {
        send: chunk * times,
        chunk,
        gap,
        fin: Fin::AfterSend,
        read: Read::Fast,
        reset_at: None,
        echo: false,
        paced: true,
    };
    let target = AppPlan {
        send: 0,
        chunk: NEVER,
        gap: MS,
        echo: true,
        paced: false,
        ..app
    };
    FlowPlan {
        node,
        via,
        at,
        ask: Ask::Properly,
        pieces: 1,
        early: 0,
        dial: Dial::Connects(MS),
        apps: [app, target],
    }
}

impl Stage {
    /// Each node's edge lets be dialed what these flows ask for, and nothing else.
    pub(crate) fn new(seed: u64, mut setup: Setup, flows: &[FlowPlan]) -> (Stage, Vec<FlowId>) {
        let mut ports = vec![Vec::new(); setup.nodes.len()];
        for (id, flow) in flows.iter().enumerate() {
            ports[flow.node].push(port_of(id));
        }
        setup.ports = Some(ports);
        let mut world = World::of(seed, setup, Vec::new());
        world.net.schedule(SEC, Event::Tick);
        let all = flows.iter().map(|flow| world.net.add_flow(*flow)).collect();
        (Stage { world }, all)
    }

    pub(crate) fn now(&self) -> Nanos {
        self.world.net.now
    }

    /// Runs up to a time.
    ///
    /// # Panics
    /// What an oracle finds is told.
    pub(crate) fn to(&mut self, at: Nanos) {
        self.world.run_until(at);
        if let Some(failure) = self.world.net.failure.take() {
            let mut story = self.world.unsettled();
            story.truncate(100);
            story.extend(self.world.net.trace.last());
            panic!("{failure:?}\n{}", story.join("\n"));
        }
    }

    /// Runs until `settled` says so, and tells how long that took.
    ///
    /// # Panics
    /// At `patience` it takes too long.
    pub(crate) fn until(
        &mut self,
        what: &str,
        patience: Nanos,
        mut settled: impl FnMut(&World) -> Result<(), String>,
    ) -> Duration {
        let began = self.now();
        loop {
            let took = self.now() - began;
            match settled(&self.world) {
                Ok(()) => return Duration::from_nanos(took),
                Err(why) => assert!(took < patience, "{what} after {took} ns: {why}"),
            }
            self.to(self.now() + LOOK);
        }
    }

    /// Every stream comes to its end, everybody leaves, and nothing is left.
    pub(crate) fn end(mut self) -> World {
        // "If only acks are missing at the grace's end, that is `done`."
        let patience = nanos(self.world.config.streams.grace) + 200 * SEC;
        self.until("over", patience, |world| {
            let told = |flow: &Flow| flow.orphaned || !flow.records.contains(&None);
            let flows = world.net.flows.iter();
            let mut left = flows.filter(|flow| flow.is_live() || flow.opened && !told(flow));
            match left.next() {
                None => Ok(()),
                Some(flow) => Err(world.line(flow.id)),
            }
        });
        let now = self.now();
        let net = &mut self.world.net;
        net.schedule(now, Event::ShutDown);
        net.schedule(now + 78 * SEC, Event::EndPeers);
        self.to(now + 80 * SEC);
        self.world.check_end();
        self.to(now + 80 * SEC);
        self.world
    }
}

impl World {
    /// Nodes without a link to any replica.
    pub(crate) fn unlinked(&self) -> usize {
        let mut linked = vec![false; self.setup.nodes.len()];
        for replica in self.replicas.iter().flatten() {
            for (node, host) in &replica.hubs {
                if let Slot::Hub(hub) = &self.hosts[*host]
                    && *node < linked.len()
                {
                    linked[*node] |= hub.machine.is_linked();
                }
            }
        }
        linked.into_iter().filter(|linked| !linked).count()
    }

    pub(crate) fn all_linked(&self) -> Result<(), String> {
        match self.unlinked() {
            0 => Ok(()),
            unlinked => Err(format!("{unlinked} nodes have no link")),
        }
    }

    /// Whether each of these streams is open, and what its client has sent comes back.
    pub(crate) fn all_move(&self, flows: impl Iterator<Item = FlowId>) -> Result<(), String> {
        let now = self.net.now;
        let mut still = flows.filter(|flow| {
            let flow = &self.net.flows[*flow];
            let waits = flow.echo.awaited.is_some_and(|(_, at)| now - at > SLOW);
            flow.status != Some(200) || waits
        });
        match still.next() {
            None => Ok(()),
            Some(first) => Err(format!(
                "{} streams don't move; {}",
                1 + still.count(),
                self.line(first)
            )),
        }
    }

    /// The most links that a replica took within any second, and the most that it was asked for, since then.
    pub(crate) fn links_a_second(&self, since: Nanos) -> (usize, usize) {
        let mut most = (0, 0);
        for replica in 0..self.net.replicas {
            let asked = self.net.asked.iter();
            let asked = asked.filter(|(at, when, _)| *at == replica && *when >= since);
            let all: Vec<Nanos> = asked.clone().map(|(_, when, _)| *when).collect();
            let taken: Vec<Nanos> = asked.filter(|of| of.2).map(|(_, when, _)| *when).collect();
            most = (most.0.max(densest(&taken)), most.1.max(densest(&all)));
        }
        most
    }
}

/// The most of these times that lie within one second.
fn densest(times: &[Nanos]) -> usize {
    let mut from = 0;
    let mut most = 0;
    for (at, time) in times.iter().enumerate() {
        while times[from] + SEC <= *time {
            from += 1;
        }
        most = most.max(at + 1 - from);
    }
    most
}
