//! What a run is made of, drawn from its seed: nodes, limits, lines, drivers' habits, flows.

use std::time::Duration;

use proto_core::Config;
use proto_core::edge::{DialectChoice, Reconnect};
use proto_core::reason::Reason;

use crate::cluster::RegistryFault;
use crate::draw::{Concern, Draw};
use crate::flow::{AppPlan, Ask, Dial, Fin, FlowPlan, Read, Via};
use crate::host::Habits;
use crate::net::{MS, NEVER, Nanos, SEC};
use crate::wire::Shape;

/// See the module.
#[derive(Debug)]
pub(crate) struct Setup {
    pub(crate) config: Config,
    pub(crate) reconnect: Reconnect,
    pub(crate) tight: bool,
    pub(crate) cloud_bytes_max: u64,
    pub(crate) edge_bytes_max: u64,
    pub(crate) nodes: Vec<NodePlan>,
    pub(crate) cloud_habits: Habits,
    pub(crate) flows: Vec<FlowPlan>,
    pub(crate) heal_at: Nanos,
    pub(crate) cluster: ClusterPlan,
    /// The ports that each node's edge lets be dialed. `None`: those of the first thousand flows, and of strays.
    pub(crate) ports: Option<Vec<Vec<u16>>>,
}

/// How many replicas there are, and what joins them.
#[derive(Clone, Debug)]
pub(crate) struct ClusterPlan {
    pub(crate) replicas: usize,
    /// Edges and clients come to any replica that takes links, as by a Service; else they try addresses in turn.
    pub(crate) service: bool,
    /// One in so many flows is opened by a client.
    pub(crate) client_one_in: Option<u64>,
    pub(crate) registry: RegistryKind,
    pub(crate) registry_fault: RegistryFault,
    /// Lines between replicas.
    pub(crate) peer_shape: Shape,
    pub(crate) client_shape: Shape,
    /// Milliseconds that each replica's wall clock is ahead.
    pub(crate) skews_ms: Vec<u64>,
    pub(crate) drain_jitter: Nanos,
}

/// What answers where a node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RegistryKind {
    /// Nothing.
    Memory,
    /// A replica's lines go with it.
    Slices,
    /// They stay.
    Hosts,
}

/// Worlds of lower seeds have one replica and no clients of our own; from here on there are several of both.
pub const CLUSTERS: u64 = 1_000_000;

/// How many replicas a seed's world has.
pub(crate) fn replicas_of(seed: u64) -> usize {
    draw_replicas(seed, &mut Draw::new(seed, Concern::Cluster))
}

fn draw_replicas(seed: u64, draw: &mut Draw) -> usize {
    match seed < CLUSTERS {
        true => 1,
        false => draw.pick(&[1, 2, 2, 2, 3, 3, 4]),
    }
}

impl ClusterPlan {
    fn draw(seed: u64, draw: &mut Draw) -> ClusterPlan {
        let replicas = draw_replicas(seed, draw);
        let quiet = seed < CLUSTERS;
        let mut shape = |most| Shape {
            latency: draw.log_range(MS / 10, most),
            bytes_per_second: draw.log_range(8 << 20, 1 << 30),
            room: draw.pick(&[16, 64]),
        };
        let (peer_shape, client_shape) = (shape(20 * MS), shape(100 * MS));
        ClusterPlan {
            replicas,
            service: draw.one_in(2),
            client_one_in: (!quiet).then(|| draw.pick(&[2, 3, 5])),
            registry_fault: draw.pick(&[
                RegistryFault::None,
                RegistryFault::Empty,
                RegistryFault::Stale,
                RegistryFault::Wrong,
                RegistryFault::Dead,
            ]),
            registry: draw.pick(&[
                RegistryKind::Memory,
                RegistryKind::Slices,
                RegistryKind::Hosts,
            ]),
            peer_shape,
            client_shape,
            skews_ms: (0..replicas)
                .map(|_| match draw.one_in(2) {
                    true => 1_000_000_000,
                    false => 1_000_000_000 + draw.log_range(1, 600_000),
                })
                .collect(),
            drain_jitter: draw.time(0, 3 * SEC),
        }
    }
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct NodePlan {
    pub(crate) dialect: DialectChoice,
    pub(crate) shape: Shape,
    pub(crate) habits: Habits,
}

/// Faults of drivers that are in this run.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct DriverFaults {
    pub(crate) lag: bool,
    pub(crate) timeouts: bool,
    pub(crate) room: bool,
    pub(crate) bytes: bool,
    pub(crate) late_loss: bool,
}

impl Setup {
    pub(crate) fn draw(seed: u64, drivers: DriverFaults, rolls: bool) -> Setup {
        let draw = &mut Draw::new(seed, Concern::Setup);
        let tight = draw.one_in(4);
        let mut config = Config::default();
        let streams = &mut config.streams;
        streams.window_bytes_min = draw.log_range(4096, 65_536);
        streams.window_bytes_max = streams.window_bytes_min * draw.log_range(1, 32);
        streams.base_buffer_bytes_max = draw.log_range(8_192, 262_144);
        let long = Duration::from_secs(draw.range(10, 300));
        let resume = &mut Draw::new(seed, Concern::Resume);
        streams.resume = !resume.one_in(5);
        let short = Duration::from_secs(resume.range(5, 15));
        streams.grace = resume.pick(&[short, long]);
        streams.grace_unheard = Duration::from_secs(resume.range(5, 10));
        config.links.content_bytes_max = draw.log_range(1024, 65_536) as usize;
        if tight {
            config.links.pending_per_node_max = draw.range(1, 8) as usize;
            config.links.streams_per_link_max = draw.range(1, 16) as usize;
        }
        let reconnect = Reconnect {
            min: Duration::from_millis(draw.log_range(10, 500)),
            max: Duration::from_millis(draw.log_range(1_000, 10_000)),
            reset_after: Duration::from_secs(draw.range(1, 10)),
        };
        let cluster = &mut Draw::new(seed, Concern::Cluster);
        let plan = ClusterPlan::draw(seed, cluster);
        config.links.drain_max = Duration::from_secs(cluster.range(5, 20));
        config.streams.relay_bytes_max = cluster.log_range(4096, 262_144);
        let (low, high) = if tight {
            (64 << 10, 1 << 20)
        } else {
            (16 << 20, 64 << 20)
        };
        let (cloud_bytes_max, edge_bytes_max) =
            (draw.log_range(low * 4, high * 4), draw.log_range(low, high));
        let habits = &mut Draw::new(seed, Concern::Habits);
        let nodes = (0..draw.range(1, 4))
            .map(|_| NodePlan::draw(draw, habits, drivers))
            .collect();
        let heal_at = draw.time(5 * SEC, 30 * SEC);
        // A rolling update takes its time.
        let heal_at = if rolls { heal_at + 40 * SEC } else { heal_at };
        let mut setup = Setup {
            config,
            reconnect,
            tight,
            cloud_bytes_max,
            edge_bytes_max,
            nodes,
            cloud_habits: draw_habits(habits, drivers),
            flows: Vec::new(),
            heal_at,
            cluster: plan,
            ports: None,
        };
        setup.draw_flows(seed, cluster);
        setup
    }

    /// Bytes that a node's transports take in good time, a message at a time as they may be.
    fn room_for(&self, node: usize) -> u64 {
        let (shape, own) = (self.nodes[node].shape, self.nodes[node].habits);
        let each = [own, self.cloud_habits].map(|habits| {
            let room = habits.room.min(shape.room).max(1) as u64;
            (shape.latency + 2 * habits.lag + habits.no_room) / room
        });
        let relayed = match self.cluster.replicas {
            1 => 0,
            _ => {
                let room = self.cloud_habits.room.clamp(1, 16) as u64;
                let own = self.cluster.peer_shape.latency + 2 * self.cloud_habits.lag;
                (own + self.cloud_habits.no_room) / room
            }
        };
        let clients = match self.cluster.client_one_in {
            None => 0,
            Some(_) => self.cluster.client_shape.latency / 16 + self.cloud_habits.no_room,
        };
        let each = each[0].max(each[1]).max(1) + relayed + clients;
        self.config.links.content_bytes_max as u64 * (20 * SEC / each)
    }

    fn draw_flows(&mut self, seed: u64, cluster: &mut Draw) {
        let draw = &mut Draw::new(seed, Concern::Flows);
        let count = draw.log_range(1, 40);
        let bytes_max = draw.log_range(1_000, 400_000);
        for _ in 0..count {
            let node = draw.index(self.nodes.len());
            let at = draw.time(0, self.heal_at * 9 / 10);
            let mut plan = draw_flow(draw, node, at, bytes_max);
            let habits = [&self.cloud_habits, &self.nodes[node].habits];
            let slow = habits
                .iter()
                .any(|habits| habits.read_bytes_max < 100 || habits.write_bytes_max < 100);
            let room_for = self.room_for(node) / count;
            for app in &mut plan.apps {
                // Byte by byte is for short streams.
                app.send = if slow { app.send.min(1_000) } else { app.send };
                app.send = app.send.min(room_for.max(1_000));
            }
            plan.early = plan.early.min(plan.apps[0].send);
            plan.via = Via::Connect(cluster.index(self.cluster.replicas));
            if self
                .cluster
                .client_one_in
                .is_some_and(|n| cluster.one_in(n))
            {
                plan.via = Via::Client;
                plan.pieces = 1;
                if !matches!(plan.ask, Ask::Leaves(_)) {
                    plan.ask = Ask::Properly;
                }
            }
            self.flows.push(plan);
        }
    }
}

impl NodePlan {
    pub(crate) fn draw(draw: &mut Draw, habits: &mut Draw, drivers: DriverFaults) -> NodePlan {
        let latency = draw.log_range(MS / 10, 200 * MS);
        // A transport that takes little at a time over a long line is a slow line, which is a fault.
        let room = match latency < 5 * MS {
            true => draw.pick(&[1, 2, 8, 64]),
            false => draw.pick(&[16, 64]),
        };
        NodePlan {
            dialect: draw.pick(&[
                DialectChoice::Auto,
                DialectChoice::V1,
                DialectChoice::V1,
                DialectChoice::Base,
            ]),
            shape: Shape {
                latency,
                bytes_per_second: draw.log_range(4 << 20, 1 << 30),
                room,
            },
            habits: draw_habits(habits, drivers),
        }
    }
}

fn draw_habits(draw: &mut Draw, faults: DriverFaults) -> Habits {
    let mut habits = Habits::default();
    if faults.lag && draw.one_in(2) {
        habits.lag = draw.log_range(10_000, 20 * MS);
    }
    if faults.timeouts {
        habits.timeouts_twice = draw.one_in(2);
        habits.timeouts_early = draw.one_in(2);
    }
    if faults.room && draw.one_in(2) {
        habits.room = 1;
        habits.no_room = draw.pick(&[0, 30 * MS, 80 * MS]);
    }
    if faults.bytes && draw.one_in(2) {
        habits.read_bytes_max = draw.pick(&[1, 7, 1000]);
        habits.write_bytes_max = draw.pick(&[1, 7, 1000]);
    }
    if faults.late_loss && draw.one_in(2) {
        habits.loss_lag = draw.log_range(MS, 3 * SEC);
    }
    habits
}

fn draw_app(draw: &mut Draw, bytes_max: u64) -> AppPlan {
    AppPlan {
        send: if draw.one_in(5) {
            0
        } else {
            draw.log_range(1, bytes_max)
        },
        chunk: if draw.one_in(2) {
            NEVER
        } else {
            draw.log_range(100, 50_000)
        },
        gap: draw.log_range(MS / 10, 50 * MS),
        fin: draw.pick(&[Fin::AfterSend, Fin::AfterSend, Fin::AfterPeer]),
        read: match draw.below(8) {
            0 => Read::Never,
            1 => Read::Slow(draw.log_range(100, 10_000)),
            _ => Read::Fast,
        },
        reset_at: draw.one_in(10).then(|| draw.log_range(1, bytes_max)),
        echo: false,
        paced: false,
    }
}

fn draw_flow(draw: &mut Draw, node: usize, at: Nanos, bytes_max: u64) -> FlowPlan {
    let client = draw_app(draw, bytes_max);
    let target = AppPlan {
        echo: draw.one_in(3),
        ..draw_app(draw, bytes_max)
    };
    FlowPlan {
        node,
        via: Via::Connect(0),
        at,
        ask: match draw.below(40) {
            0 => Ask::Unfinished,
            1 => Ask::UnknownNode,
            2 => Ask::ForbiddenPort,
            3 => Ask::Leaves(draw.log_range(MS, 5 * SEC)),
            _ => Ask::Properly,
        },
        pieces: draw.pick(&[1, 1, 2, 5]),
        early: if draw.one_in(2) {
            0
        } else {
            draw.log_range(1, 7_000)
        },
        dial: match draw.below(16) {
            0 => Dial::Fails(Reason::Refused),
            1 => Dial::Fails(Reason::Unreachable),
            2 => Dial::Fails(Reason::NameNotFound),
            3 => Dial::Swallowed,
            _ => Dial::Connects(draw.log_range(MS / 10, 500 * MS)),
        },
        apps: [client, target],
    }
}

/// What answers behind an edge whose cloud is a rogue.
pub(crate) fn stray_plan(node: usize, draw: &mut Draw) -> FlowPlan {
    FlowPlan {
        dial: Dial::Connects(MS),
        ask: Ask::Properly,
        ..draw_flow(draw, node, 0, 100_000)
    }
}
