//! A registry that says nothing, or nothing new, or does not answer, for ten minutes.

use std::fmt;
use std::time::Duration;

use super::{Stage, settles, setup, talk};
use crate::cluster::RegistryFault;
use crate::flow::{FlowPlan, Via};
use crate::net::{FlowId, MS, Nanos, SEC};
use crate::setup::RegistryKind;

const NODES: usize = 9;
const REPLICAS: usize = 4;
/// This one comes while it lasts.
const LATE: usize = REPLICAS - 1;
/// Nodes from here on move while it lasts.
const MOVES_FROM: usize = 6;
const BEGINS_AT: Nanos = 20 * SEC;
const LASTS: Nanos = 600 * SEC;
/// A stream to each node is opened so often, by another way each time.
const OPENS_EVERY: Nanos = 30 * SEC;
/// Between the rounds, nodes move.
const MOVE_AT: Nanos = 20 * SEC;
/// After so many rounds the late replica is there.
const LATE_FROM: u64 = 10;

/// What is wrong with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outage {
    /// It knows of no node.
    Empty,
    /// It takes nothing in.
    Stale,
    /// It does not answer.
    Dead,
}

/// What it came to.
#[derive(Clone, Copy, Debug)]
pub struct Unnoticed {
    /// Streams that were open all the while, to nodes that stayed where they were.
    pub sessions: usize,
    /// The longest that one of their bytes was away before.
    pub slowest_before: Duration,
    /// And while it lasted.
    pub slowest: Duration,
    /// Streams that were opened while it lasted.
    pub opened: usize,
    /// Those of them to nodes that moved.
    pub to_moving: usize,
    /// How often nodes moved.
    pub moves: usize,
    /// How often the registry was asked.
    pub asked: u64,
}

impl fmt::Display for Unnoticed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} open sessions' slowest byte {:.3} s, {:.3} s before; {} streams opened, {} of them to nodes that moved, {} times; the registry was asked {} times",
            self.sessions,
            self.slowest.as_secs_f64(),
            self.slowest_before.as_secs_f64(),
            self.opened,
            self.to_moving,
            self.moves,
            self.asked
        )
    }
}

/// Sessions are open to nodes that stay and to nodes that move; then the registry fails for ten minutes, in the midst of
/// which another replica comes. New streams are opened at every replica and by clients.
///
/// # Panics
/// On anything that an oracle finds, and if a new stream fails.
pub fn registry_fails(seed: u64, outage: Outage) -> Unnoticed {
    let mut setup = setup(seed, NODES, REPLICAS);
    setup.cluster.service = false;
    setup.cluster.registry = RegistryKind::Hosts;
    let all_the_while = (8, 500 * MS, 2 * (LASTS / SEC + 20));
    let sessions = (0..NODES).map(|node| {
        let via = match node % 2 {
            0 => Via::Client,
            _ => Via::Connect(node / 2 % LATE),
        };
        talk(node, via, BEGINS_AT - 10 * SEC, all_the_while)
    });
    let rounds = 1..LASTS / OPENS_EVERY;
    let new = rounds.clone().flat_map(|round| {
        (0..NODES).map(move |node| {
            let via = match (round as usize + node) % (REPLICAS + 1) {
                REPLICAS => Via::Client,
                LATE if round <= LATE_FROM => Via::Client,
                at => Via::Connect(at),
            };
            let at = BEGINS_AT + round * OPENS_EVERY + node as u64 * SEC;
            talk(node, via, at, (1_000, 100 * MS, 2))
        })
    });
    let while_away = rounds.clone().flat_map(|round| {
        (MOVES_FROM..NODES).map(move |node| {
            let at = BEGINS_AT + round * OPENS_EVERY + MOVE_AT + node as u64 * 10 * MS;
            let via = Via::Connect((round as usize + node) % LATE);
            talk(node, via, at, (1_000, 100 * MS, 2))
        })
    });
    let flows: Vec<FlowPlan> = sessions.chain(new).chain(while_away).collect();
    let (mut stage, all) = Stage::new(seed, setup, &flows);
    let stay = &all[..MOVES_FROM];
    let soon = stage.now() + settles(&stage.world);
    let net = &mut stage.world.net;
    net.disturb_replica(LATE, soon, "a replica is not there yet");
    stage.world.kill_replica(LATE);
    stage.to(BEGINS_AT);
    let slowest_before = slowest(&mut stage, stay);
    stage.world.registry.fault = match outage {
        Outage::Empty => RegistryFault::Empty,
        Outage::Stale => RegistryFault::Stale,
        Outage::Dead => RegistryFault::Dead,
    };
    let mut moves = 0;
    while stage.now() < BEGINS_AT + LASTS {
        stage.to(stage.now() + MOVE_AT);
        for node in MOVES_FROM..NODES {
            let until = stage.now() + settles(&stage.world);
            stage.world.net.disturb(node, until, true, "moves");
            stage.world.reset(node);
            moves += 1;
        }
        if moves as u64 / (NODES - MOVES_FROM) as u64 == LATE_FROM {
            // It has only its peers to tell it where nodes are.
            stage.world.restart_replica(LATE);
        }
        stage.to(stage.now() + OPENS_EVERY - MOVE_AT);
    }
    let slowest = slowest(&mut stage, stay);
    stage.world.registry.fault = RegistryFault::None;
    let world = stage.end();
    for flow in &world.net.flows {
        assert!(
            flow.status == Some(200) && flow.is_complete(),
            "{outage:?}: {}",
            world.line(flow.id)
        );
    }
    let cover = world.net.cover.rows();
    let cover = cover.filter(|(what, _)| *what == "registry asked");
    Unnoticed {
        sessions: stay.len(),
        slowest_before,
        slowest,
        opened: all.len() - NODES,
        to_moving: world.net.flows[NODES..]
            .iter()
            .filter(|flow| flow.node >= MOVES_FROM)
            .count(),
        moves,
        asked: cover.map(|(_, times)| times).sum(),
    }
}

/// The longest that a byte of these was away since it was asked last.
fn slowest(stage: &mut Stage, flows: &[FlowId]) -> Duration {
    let flows = flows.iter();
    let slowest = flows.map(|flow| {
        let echo = &mut stage.world.net.flows[*flow].echo;
        std::mem::take(&mut echo.slowest)
    });
    Duration::from_nanos(slowest.max().unwrap_or(0))
}
