//! Ten thousand streams whose ends lose each other, for ever or for a while.

use std::fmt;
use std::time::Duration;

use proto_core::Machine;
use proto_core::reason::Reason;

use super::{Stage, settles, setup, talk};
use crate::faults::Policy;
use crate::flow::{CLIENT, FlowPlan, TARGET, Via};
use crate::net::{FlowId, MS, NEVER, Nanos, SEC, nanos};
use crate::world::Slot;

const NODES: usize = 20;
const REPLICAS: usize = 3;
const BEGIN_AT: Nanos = 5 * SEC;
const CUT_AT: Nanos = 80 * SEC;
/// For so long, where they come back.
const AWAY: Nanos = 20 * SEC;

/// What it came to.
#[derive(Clone, Copy, Debug)]
pub struct Detached {
    /// Streams.
    pub streams: usize,
    /// Bytes of all budgets in use while they were detached.
    pub held: u64,
    /// The same in the end.
    pub left: u64,
    /// From the cut until the last was over, or moved.
    pub took: Duration,
}

impl fmt::Display for Detached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} streams, {} MiB reserved for them and {} bytes in the end, {:.1} s after the cut",
            self.streams,
            self.held >> 20,
            self.left,
            self.took.as_secs_f64()
        )
    }
}

/// No edge comes back within the grace.
///
/// # Panics
/// On anything that an oracle finds, on a stream whose ends are not told, and on anything that is left.
pub fn expire(seed: u64, streams: usize) -> Detached {
    let (mut stage, all) = open(seed, streams);
    cut(&mut stage, NEVER);
    let grace = nanos(stage.world.config.streams.grace);
    stage.to(CUT_AT + grace / 2);
    let held = used(&stage);
    assert_eq!(detached(&stage), 2 * all.len(), "both ends of each");
    let took = Duration::from_nanos(grace / 2)
        + stage.until("expired", grace, |world| {
            let flows = all.iter().map(|flow| &world.net.flows[*flow]);
            let over = flows.filter(|flow| flow.is_over()).count();
            match over == all.len() {
                true => Ok(()),
                false => Err(format!("{over} of {} are over", all.len())),
            }
        });
    for flow in &all {
        let flow = &stage.world.net.flows[*flow];
        assert_eq!(flow.records, [Some(Reason::GraceExpired); 2]);
        let told = [CLIENT, TARGET].map(|side| flow.socks[side].closed.is_some());
        assert_eq!(told, [true; 2], "{}", stage.world.line(flow.id));
    }
    // Last words, and links between replicas that nothing goes by.
    stage.to(stage.now() + grace + 60 * SEC);
    let left = used(&stage);
    for replica in stage.world.replicas.iter().flatten() {
        assert!(replica.hubs.is_empty(), "{} hubs", replica.hubs.len());
    }
    for slot in &stage.world.hosts {
        match slot {
            Slot::Client(client) => panic!("a client is left: {:?}", client.machine.deadline()),
            Slot::Edge(edge) => assert!(edge.machine.stream_infos().is_empty()),
            Slot::Empty | Slot::Hub(_) | Slot::Peers(_) => {}
        }
    }
    let streams = all.len();
    stage.end();
    Detached {
        streams,
        held,
        left,
        took,
    }
}

/// All come back within the grace.
///
/// # Panics
/// On anything that an oracle finds, and on a stream that isn't complete.
pub fn resume(seed: u64, streams: usize) -> Detached {
    let (mut stage, all) = open(seed, streams);
    let back_at = CUT_AT + AWAY;
    cut(&mut stage, back_at);
    stage.to(back_at - SEC);
    let held = used(&stage);
    assert_eq!(detached(&stage), 2 * all.len(), "both ends of each");
    let waited = Duration::from_nanos(AWAY - SEC);
    let took = stage.until("moving", 60 * SEC, |world| {
        world.all_move(all.iter().copied())
    });
    let streams = all.len();
    let world = stage.end();
    for flow in &all {
        let flow = &world.net.flows[*flow];
        assert!(flow.is_complete(), "{}", world.line(flow.id));
        assert!(flow.resumed > 0, "{}", world.line(flow.id));
    }
    let replicas = world.replicas.iter().flatten();
    let replicas = replicas.map(|replica| replica.budget.used());
    let edges = world.edges.iter().map(|edge| edge.budget.used());
    Detached {
        streams,
        held,
        left: replicas.chain(edges).sum(),
        took: waited + took,
    }
}

/// A third at each replica, and one of five by clients of their own. What they send last is sent while they are detached.
fn open(seed: u64, streams: usize) -> (Stage, Vec<FlowId>) {
    let mut setup = setup(seed, NODES, REPLICAS);
    setup.config.streams.window_bytes_min = 16 << 10;
    setup.config.streams.grace = Duration::from_secs(60);
    let open_for = CUT_AT - BEGIN_AT - 10 * SEC;
    let flows: Vec<FlowPlan> = (0..streams)
        .map(|number| {
            let via = match number % 5 {
                0 => Via::Client,
                _ => Via::Connect(number / 5 % REPLICAS),
            };
            let at = BEGIN_AT + number as u64 * open_for / streams as u64;
            // The second chunk comes when all have lost their way, and never ends before.
            talk(number % NODES, via, at, (100, CUT_AT + SEC - at, 2))
        })
        .collect();
    let (mut stage, all) = Stage::new(seed, setup, &flows);
    stage.to(CUT_AT - 500 * MS);
    stage
        .world
        .all_move(all.iter().copied())
        .expect("all are open");
    stage.to(CUT_AT);
    (stage, all)
}

/// Every edge's line is cut, and no try of any comes through before then.
fn cut(stage: &mut Stage, until: Nanos) {
    let excused = until.saturating_add(settles(&stage.world));
    for node in 0..NODES {
        let net = &mut stage.world.net;
        net.disturb(node, excused, true, "all edges are away");
        stage.world.policies[node] = (Policy::Refuse, until);
        stage.world.reset(node);
    }
}

fn used(stage: &Stage) -> u64 {
    let replicas = stage.world.replicas.iter().flatten();
    let edges = stage.world.edges.iter().map(|edge| edge.budget.used());
    let clients = stage.world.clients.iter();
    replicas
        .map(|replica| replica.budget.used())
        .chain(edges)
        .chain(clients.map(|client| client.budget.used()))
        .sum()
}

/// Ends of streams that wait for a way.
fn detached(stage: &Stage) -> usize {
    let count = |infos: Vec<proto_core::output::StreamInfo>| {
        let waits = |info: &&proto_core::output::StreamInfo| {
            info.state == proto_core::output::StreamState::Detached
        };
        infos.iter().filter(waits).count()
    };
    let hosts = stage.world.hosts.iter();
    hosts
        .map(|slot| match slot {
            Slot::Hub(host) => count(host.machine.stream_infos()),
            Slot::Edge(host) => count(host.machine.stream_infos()),
            Slot::Client(host) => count(host.machine.stream_infos()),
            Slot::Empty | Slot::Peers(_) => 0,
        })
        .sum()
}
