//! What goes wrong, or is done, where there are several replicas and clients: lines between replicas and of clients, processes that leave in
//! good order and their successors, edges that hop, two replicas that both hold a node.

use proto_core::Machine;

use crate::draw::{Concern, Draw};
use crate::faults::{Fault, Kind, Policy};
use crate::net::{Event, HostId, MS, Nanos, SEC};
use crate::setup::{CLUSTERS, replicas_of};
use crate::wire::{Carries, DOWN, UP};
use crate::world::{Slot, World};

/// Where there are clients.
const WITH_CLIENTS: &[Kind] = &[
    Kind::ReplicaDrain,
    Kind::EdgeDrain,
    Kind::EdgeUpgrade,
    Kind::ClientReset,
    Kind::ClientHeld,
    Kind::ClientNoWay,
];

/// Where there are other replicas.
const WITH_PEERS: &[Kind] = &[
    Kind::PeerReset,
    Kind::PeerStall,
    Kind::PeerBlackholeOneWay,
    Kind::PeerBlackholeBoth,
    Kind::PeerUnreachable,
    Kind::Rolling,
    Kind::Hops,
    Kind::TwoHold,
];

/// An edge hops so often.
pub(crate) const HOP: Nanos = 2 * SEC;

/// The part of a seed's plan that is for clusters; `calm`: there is none.
pub(crate) fn draw(seed: u64, calm: bool) -> Vec<Fault> {
    let mut plan = Vec::new();
    if seed < CLUSTERS || calm {
        return plan;
    }
    let draw = &mut Draw::new(seed, Concern::Upsets);
    let peers = match replicas_of(seed) {
        1 => &[],
        _ => WITH_PEERS,
    };
    for kind in WITH_CLIENTS.iter().chain(peers) {
        let present = draw.one_in(2);
        for _ in 0..draw.range(1, 2) {
            let fault = Fault::draw(*kind, draw);
            if present {
                plan.push(fault);
            }
        }
    }
    plan
}

/// Whether a seed's world is long enough for a rolling update.
pub(crate) fn rolls(seed: u64) -> bool {
    let rolling = |fault: &Fault| fault.kind == Kind::Rolling;
    draw(seed, false).iter().any(rolling)
}

/// Whether a seed's plan of the other kinds is left out, so that the clusters' are seen alone.
pub(crate) fn is_alone(seed: u64) -> bool {
    seed >= CLUSTERS && Draw::new(seed, Concern::Alone).one_in(3)
}

/// What one of these faults is about.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Upset {
    pub(crate) kind: Kind,
    pub(crate) dice: u64,
    pub(crate) lasts: Nanos,
    pub(crate) node: usize,
    pub(crate) replica: usize,
}

impl Upset {
    fn side(self) -> usize {
        (self.dice >> 8) as usize % 2
    }

    fn other(self, replicas: usize) -> usize {
        let others = replicas.saturating_sub(1).max(1);
        (self.replica + 1 + (self.dice >> 12) as usize % others) % replicas
    }
}

impl World {
    /// Does it. When it ends is the caller's to see to.
    pub(crate) fn upset(&mut self, of: Upset) {
        let (now, end) = (self.net.now, self.net.now + of.lasts);
        let reconnects = self.reconnects();
        let pair = (of.replica, of.other(self.setup.cluster.replicas));
        match of.kind {
            Kind::PeerReset => {
                self.net
                    .disturb_pair(pair.0, pair.1, now + reconnects, "replicas' line cut");
                if self.cut_pair(pair) {
                    self.net.cover.hit("replicas' line cut");
                }
            }
            Kind::PeerStall | Kind::PeerBlackholeOneWay | Kind::PeerBlackholeBoth => {
                let until = match of.kind {
                    Kind::PeerStall => now + of.lasts % (4 * SEC),
                    _ => end,
                };
                self.net
                    .disturb_pair(pair.0, pair.1, until + reconnects, "replicas' line held");
                self.hold_pair(pair, until, of.kind == Kind::PeerBlackholeOneWay);
            }
            Kind::PeerUnreachable => {
                self.net
                    .disturb_pair(pair.0, pair.1, end + reconnects, "replica unreachable");
                self.lines[pair.0][pair.1].refused_until = end;
                if of.side() == 0 {
                    self.lines[pair.1][pair.0].refused_until = end;
                }
                self.cut_pair(pair);
                self.net.cover.hit("replica unreachable for another");
            }
            Kind::ReplicaDrain => self.drain_replica(of.replica),
            Kind::Rolling => self.roll(0),
            Kind::EdgeDrain => self.drain_edges(of.node),
            Kind::EdgeUpgrade => {
                let gap = of.lasts % (2 * SEC);
                let until = now + gap + self.net.drain_max + reconnects + SEC;
                self.net.disturb(of.node, until, true, "edge upgraded");
                let first = of.side() == 0;
                self.upgrade(of.node, first, 2);
                self.net.after(gap, Event::Upgrade(of.node, !first));
                self.net.cover.hit(match first {
                    true => "edge upgraded: the old one leaves first",
                    false => "edge upgraded: the new one comes first",
                });
            }
            Kind::Hops => self.hop(of.node),
            Kind::TwoHold => {
                let late = now + of.lasts % (8 * SEC);
                self.net
                    .disturb(of.node, late + reconnects, true, "two replicas hold it");
                self.avoid_here(of.node, late);
                self.reset_one_first(of.node, UP, late);
            }
            Kind::ClientReset | Kind::ClientHeld => self.upset_clients(of),
            Kind::ClientNoWay => {
                let policy = [
                    Policy::Refuse,
                    Policy::Hang,
                    Policy::Unavailable,
                    Policy::AcceptThenClose,
                ][(of.dice >> 16) as usize % 4];
                let until = end.min(now + 3 * SEC);
                self.net
                    .disturb_clients(until + reconnects, "no way in for clients");
                self.client_policy = (policy, until);
                for wire in self.client_wires(None) {
                    self.cut_wire(wire);
                }
                self.net.cover.hit("no way in for clients");
            }
            _ => {}
        }
    }

    /// It is over.
    pub(crate) fn end_upset(&mut self, of: Upset) {
        let pair = (of.replica, of.other(self.setup.cluster.replicas));
        match of.kind {
            Kind::PeerStall | Kind::PeerBlackholeOneWay | Kind::PeerBlackholeBoth => {
                for (from, to) in [pair, (pair.1, pair.0)] {
                    self.lines[from][to].held_until = 0;
                    for wire in self.peer_wires(from, to) {
                        self.net.release(wire);
                    }
                }
            }
            Kind::ClientHeld => {
                for wire in self.client_wires(None) {
                    self.net.release(wire);
                }
            }
            _ => {}
        }
    }

    /// Both ends hear of the break.
    fn cut_wire(&mut self, wire: usize) {
        let latency = self.shape_of_wire(wire).latency;
        self.net.cut(wire, UP, latency);
        self.net.cut(wire, DOWN, latency);
    }

    fn cut_pair(&mut self, pair: (usize, usize)) -> bool {
        let mut wires = self.peer_wires(pair.0, pair.1);
        wires.extend(self.peer_wires(pair.1, pair.0));
        let busy = wires
            .iter()
            .any(|wire| self.net.wires[*wire].carries == Carries::Peer);
        for wire in wires {
            self.cut_wire(wire);
        }
        busy
    }

    /// Nothing comes from the first to the second (`one_way`) or between the two; connections aren't made at all.
    fn hold_pair(&mut self, pair: (usize, usize), until: Nanos, one_way: bool) {
        for (from, to, direction) in [(pair.0, pair.1, UP), (pair.1, pair.0, DOWN)] {
            let line = &mut self.lines[from][to].held_until;
            *line = until.max(*line);
            for wire in self.peer_wires(from, to) {
                self.net.hold(wire, direction, until);
                if !one_way {
                    self.net.hold(wire, 1 - direction, until);
                }
                if self.net.wires[wire].carries == Carries::Peer {
                    self.net.cover.hit(match one_way {
                        true => "replicas' line held one way",
                        false => "replicas' line held",
                    });
                }
            }
        }
    }

    fn upset_clients(&mut self, of: Upset) {
        let all = self.client_wires(None);
        let wires = match all.len() {
            0 => return,
            // One laptop, or the net that all of them are in.
            len if !of.dice.is_multiple_of(3) => vec![all[(of.dice >> 16) as usize % len]],
            _ => all,
        };
        let until = match of.side() {
            0 => self.net.now + of.lasts,
            _ => self.net.now + of.lasts % (4 * SEC),
        };
        let reconnects = self.reconnects();
        for wire in wires {
            let Carries::Client(flow) = self.net.wires[wire].carries else {
                continue;
            };
            if of.kind == Kind::ClientReset {
                let until = self.net.now + reconnects;
                self.net.disturb_client(flow, until, "client's line cut");
                self.cut_wire(wire);
                self.net.cover.hit("client's line cut");
                continue;
            }
            self.net
                .disturb_client(flow, until + reconnects, "client's line held");
            for direction in [UP, DOWN] {
                // Both, or either.
                if (of.dice >> 20) % 4 != direction as u64 {
                    self.net.hold(wire, direction, until);
                }
            }
            self.net.cover.hit("client's line held");
        }
    }

    // Edges that move and leave.

    /// An edge's next links lead to another replica than now.
    fn avoid_here(&mut self, node: usize, until: Nanos) {
        if let Some(wire) = self.wires_of(node).last() {
            let at = self.net.wires[*wire].to;
            self.net.nodes[node].avoid = (at, until);
        }
    }

    fn hop(&mut self, node: usize) {
        let until = self.net.now + HOP + self.reconnects();
        self.net.disturb(node, until, true, "hops");
        self.avoid_here(node, self.net.now + HOP);
        self.reset(node);
        self.net.cover.hit("edge hops");
    }

    /// The edge processes of a node that have not left and leave nobody their place.
    pub(crate) fn serving(&self, node: usize) -> Vec<usize> {
        let serves = |edge: &usize| {
            let of = &self.edges[*edge];
            of.node == node && !of.twin && !of.leaves && of.host.is_some()
        };
        (0..self.edges.len()).filter(serves).collect()
    }

    /// All that a node has ever had.
    pub(crate) fn node_edges(&self, node: usize) -> usize {
        let of_node = |edge: &&crate::world::EdgeProc| edge.node == node;
        self.edges.iter().filter(of_node).count()
    }

    /// SIGTERM; it starts again when it has ended.
    fn drain_edges(&mut self, node: usize) {
        let until = self.net.now + self.net.drain_max + self.reconnects() + 5 * SEC;
        for edge in self.serving(node) {
            self.net.disturb(node, until, true, "edge drained");
            self.drain_edge(edge);
        }
    }

    fn drain_edge(&mut self, edge: usize) {
        self.edges[edge].leaves = true;
        let Some(id) = self.edges[edge].host else {
            return;
        };
        if let Slot::Edge(host) = &mut self.hosts[id] {
            let streams = host.machine.stream_infos().len();
            host.leaves_at = Some(self.net.clock(host.proc).as_nanos());
            host.input(&mut self.net, |edge, now| edge.drain(now));
            self.net.cover.hit(match streams {
                0 => "edge drained",
                _ => "edge drained with streams",
            });
        }
        self.check_host(id);
        self.net.after(SEC / 4, Event::EdgeLook(edge));
    }

    /// One of an upgrade's two steps. A successor starts where fewer than so many serve.
    pub(crate) fn upgrade(&mut self, node: usize, leaves: bool, fewer: usize) {
        if self.net.now >= self.setup.heal_at {
            return;
        }
        let serving = self.serving(node);
        match leaves {
            // The successor isn't meant.
            true => {
                if let Some(edge) = serving.first().copied() {
                    self.drain_edge(edge);
                }
            }
            false if serving.len() < fewer && self.node_edges(node) < 6 => {
                self.add_edge(node, false);
            }
            false => {}
        }
    }

    /// An edge that has ended by itself leaves nothing behind, and starts again if nobody has its place.
    pub(crate) fn edge_look(&mut self, edge: usize) {
        let Some(id) = self.edges[edge].host.filter(|_| self.edges[edge].leaves) else {
            return;
        };
        let Slot::Edge(host) = &self.hosts[id] else {
            return;
        };
        if !host.machine.has_ended() || !host.is_quiet() {
            return self.net.after(SEC / 4, Event::EdgeLook(edge));
        }
        let now = self.net.clock(host.proc).as_nanos();
        let over = host
            .leaves_at
            .is_some_and(|at| at + self.net.drain_max <= now);
        self.net.cover.hit(match over {
            true => "edge's time is over",
            false => "edge has nothing left",
        });
        let (used, deadline) = (self.edges[edge].budget.used(), host.machine.deadline());
        if used > 0 || deadline.is_some() {
            self.net.fail("nothing left", || {
                format!("an edge has ended with {used} bytes, deadline {deadline:?}")
            });
        }
        self.end_edge(edge, id);
        self.net.after(SEC / 2, Event::Restart(edge));
    }

    /// The process of one that has left is gone, with what it remembers of its streams.
    fn end_edge(&mut self, edge: usize, id: HostId) {
        for flow in &mut self.net.flows {
            if flow.acceptor == Some(id) && flow.is_live() {
                flow.fatal.get_or_insert("its process left");
            }
        }
        self.edges[edge].host = None;
        self.kill(id, MS);
    }

    /// Who leaves still leaves now: a second SIGTERM, and Kubernetes' SIGKILL.
    pub(crate) fn end_leaving(&mut self) {
        let until = self.proof_at() - SEC;
        self.roll_next = None;
        for at in 0..self.replicas.len() {
            let leaves = self.replicas[at]
                .as_ref()
                .is_some_and(|of| of.leaves_at.is_some());
            if leaves {
                self.net.disturb_replica(at, until, "drain cut short");
                self.kill_replica(at);
            }
            if self.replicas[at].is_none() {
                self.restart_replica(at);
            }
        }
        for edge in 0..self.edges.len() {
            let node = self.edges[edge].node;
            let serving = self.serving(node);
            // An upgrade that is cut short leaves the successor.
            let is_succeeded = serving.contains(&edge) && serving.last() != Some(&edge);
            if !self.edges[edge].leaves && !is_succeeded {
                continue;
            }
            self.net.disturb(node, until, true, "drain cut short");
            if self.edges[edge].host.is_some() {
                self.kill_edge(edge, MS);
            }
            self.restart(edge);
        }
    }
}
