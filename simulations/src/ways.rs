//! Streams that outlive their links: whether a node's way is open, and what may and may not become of a stream meanwhile.

use proto_core::Machine;
use proto_core::reason::Reason;

use crate::flow::{Flow, TARGET, Via};
use crate::host::Host;
use crate::net::{FlowId, MS, Nanos, Net, SEC, Way, nanos};
use crate::wire::UP;
use crate::world::{Slot, World};

/// A stream resumes at the latest so long after a way is there: the longest wait for an answer, a pause, round trips.
const RESUMES_WITHIN: Nanos = 8 * SEC;
/// A `connecting` that is sent again is answered so soon: the longest dial, round trips, a transport that takes little.
const ANSWERED_WITHIN: Nanos = 4 * SEC;

impl Net {
    /// For how long a flow's way has been open, without a fault: its node's link, the one between replicas, its client's.
    pub(crate) fn way_open_for(&self, flow: FlowId) -> Nanos {
        let flow = &self.flows[flow];
        let opener = match flow.plan.via {
            Via::Connect(at) => Some((0, at)),
            Via::Client => flow.client_way,
        };
        // What is open stays with the process that has it; what is asked for goes to the newest link that takes new streams.
        let ways = self.nodes[flow.node].ways.iter();
        let way = match flow.acceptor.filter(|_| flow.status == Some(200)) {
            Some(acceptor) => ways
                .filter(|way| way.edge == acceptor)
                .max_by_key(|way| way.wire),
            None => ways.filter(|way| !way.leaves).max_by_key(|way| way.wire),
        };
        let (Some(way), Some((opener_since, opener))) = (way, opener) else {
            return 0;
        };
        let Some(pair) = self.pairs[opener][self.wires[way.wire].to] else {
            return 0;
        };
        self.now
            .saturating_sub(way.since.max(opener_since).max(pair))
    }
}

impl World {
    /// Once a second: which nodes have a whole way between their processes.
    pub(crate) fn look_for_ways(&mut self) {
        let mut wires = vec![Vec::new(); self.setup.nodes.len()];
        for wire in self.edges_wires() {
            if let Some(wires) = wires.get_mut(self.net.wires[wire].node) {
                wires.push(wire);
            }
        }
        for (node, wires) in wires.into_iter().enumerate() {
            let mut ways: Vec<Way> = Vec::new();
            for wire in wires {
                let edge = self.net.wires[wire].ends[UP].host;
                let Some(edge) = edge.filter(|_| !self.stands_still(node, wire)) else {
                    continue;
                };
                if self.is_way(wire) {
                    let leaves = match &self.hosts[edge] {
                        Slot::Edge(host) => {
                            host.leaves_at.is_some() || self.net.wires[wire].draining
                        }
                        _ => false,
                    };
                    let before = self.net.nodes[node].ways.iter();
                    let since = before.filter(|way| way.wire == wire).map(|way| way.since);
                    ways.retain(|way| way.edge != edge); // Its newest counts.
                    ways.push(Way {
                        wire,
                        edge,
                        since: since.min().unwrap_or(self.net.now),
                        leaves,
                    });
                }
            }
            self.net.nodes[node].ways = ways;
        }
    }

    fn stands_still(&self, node: usize, wire: usize) -> bool {
        if !self.net.stood_still {
            return false;
        }
        let edges = self.edges.iter().filter(|edge| edge.node == node);
        std::iter::once(self.net.wires[wire].to)
            .chain(edges.map(|edge| edge.proc))
            .any(|proc| self.net.procs[proc].paused_until > self.net.now)
    }

    /// Both ends are there and nothing is wrong with what is between them.
    fn is_way(&self, wire: usize) -> bool {
        let wire = &self.net.wires[wire];
        let stays = self.replicas[wire.to]
            .as_ref()
            .is_some_and(|replica| !replica.cloud.is_draining());
        let linked = wire
            .ends
            .iter()
            .all(|end| end.host.is_some() && end.link.is_some() && !end.deaf && !end.mute);
        linked && stays && !wire.base && wire.is_flowing(self.net.now, self.shape_of(wire.node))
    }

    /// What became of a stream that could have been resumed, if it shouldn't have.
    pub(crate) fn check_resumed(&mut self, id: FlowId) -> Option<String> {
        let flow = &self.net.flows[id];
        let due = self.config.streams.resume
            && self.may_go_on(flow)
            && flow.status == Some(200)
            && flow.is_benign();
        if !due {
            return None;
        }
        if flow.records == [Some(Reason::Done); 2] && flow.is_complete() {
            self.net.cover.hit(match flow.resumed {
                0 => "complete, never resumed",
                1 | 2 => "complete, resumed once",
                _ => "complete, resumed more than once",
            });
            return None;
        }
        Some(String::from("a stream that could have gone on has not"))
    }

    /// Both of its processes live, and neither has given it up.
    pub(crate) fn may_go_on(&self, flow: &Flow) -> bool {
        let harmed = matches!(flow.excuse, Some("rogue" | "client left" | "no replica"));
        !flow.base
            && !flow.stray
            && !flow.orphaned
            && !flow.expired
            && !harmed
            && flow.fatal.is_none()
    }
}

impl<M: Machine> Host<M> {
    /// The grace is over: it began when the way was lost, and no way was there for a while before its end.
    pub(crate) fn check_grace(&self, net: &mut Net, flow: FlowId, since: Option<Nanos>) {
        net.cover.hit("grace expired");
        let (now, side) = (net.clock(self.proc).as_nanos(), self.side());
        let open_for = net.way_open_for(flow);
        let of = &mut net.flows[flow];
        of.expired = true;
        let early_detached = of.detached_early;
        let other_lives = of.records[1 - side].is_none() && !of.orphaned;
        if of.excuse == Some("rogue") || of.fatal.is_some() || of.told_expired[1 - side] {
            return;
        }
        let (least, most) = self.graces();
        let waited = since.map_or(0, |since| now.saturating_sub(since));
        let slack = 3 * self.habits.lag + 10 * MS; // It is told late.
        // Its end is told when `closed` has left.
        let late = waited > most + slack + 5 * SEC && !net.stood_still && !early_detached;
        // One that stood still finds bytes unacked for longer than is waited for on any link.
        let unacked = side == TARGET && since.is_none() && net.stood_still;
        let early = waited + slack < least && !net.leapt && !unacked;
        if early || late {
            net.fail("grace", || {
                format!("flow {flow} side {side}: expired after {waited}, not {least} to {most} ns")
            });
        } else if open_for > RESUMES_WITHIN && other_lives {
            net.fail("resumption", || {
                format!("flow {flow} side {side}: expired with a way for {open_for} ns")
            });
        }
    }

    /// The shortest and the longest that a stream is kept. The acceptor has a grace of its own for an opener that has not been heard since
    /// `connected`.
    fn graces(&self) -> (Nanos, Nanos) {
        match self.side() {
            TARGET => (
                self.grace.min(self.grace_unheard),
                self.grace.max(self.grace_unheard),
            ),
            _ => (self.grace, self.grace),
        }
    }

    /// A stream that goes on was not kept for longer than the grace.
    pub(crate) fn check_kept(&self, net: &mut Net, flow: FlowId) {
        let of = &net.flows[flow];
        let (side, now) = (self.side(), net.clock(self.proc).as_nanos());
        let waited = of.detached_at[side].map_or(0, |since| now.saturating_sub(since));
        let (_, most) = self.graces();
        let excused = net.stood_still || of.detached_early || of.fatal.is_some();
        if waited > most + 3 * self.habits.lag + 10 * MS && !excused {
            net.fail("grace", || {
                format!("flow {flow} side {side}: goes on after {waited} of {most} ns")
            });
        }
    }

    /// Nobody waits in vain for an answer that a way was there for.
    pub(crate) fn check_answer(&self, net: &mut Net, flow: FlowId) {
        let of = &net.flows[flow];
        let harmed = matches!(of.excuse, Some("rogue" | "client left" | "no replica"));
        let due = of.is_benign() && !of.base && !of.orphaned && !harmed && of.fatal.is_none();
        let open_for = net.way_open_for(flow);
        if due && open_for > ANSWERED_WITHIN && !net.stood_still {
            net.fail("resumption", || {
                format!("flow {flow}: no answer with a way for {open_for} ns")
            });
        }
    }
}

/// How long a stream is kept, of a configuration.
pub(crate) fn graces(config: &proto_core::Config) -> [Nanos; 2] {
    [config.streams.grace, config.streams.grace_unheard].map(nanos)
}
