//! The oracles that look at the whole: memory, progress, convergence, and what is left behind. Those that watch one thing are where it
//! happens: `sniff` (wires), `host` and `tell` (drivers), `flow` (replies), `net` (time).

use proto_core::Machine;
use proto_core::reason::Reason;

use crate::flow::{Ask, CLIENT, Read, TARGET};
use crate::net::{HostId, SEC};
use crate::world::{Slot, World};

/// Ticks of one second that a stream may stand still with data, credit and a live link.
const STUCK_TICKS_MAX: u32 = 4;

/// What one stream may send before the next one's turn.
const QUANTUM_BYTES: u64 = 64 * 1024;

impl World {
    /// After each event of a host.
    pub(crate) fn check_host(&mut self, id: HostId) {
        match &self.hosts[id] {
            Slot::Empty | Slot::Peers(_) => {}
            Slot::Client(_) => self.check_client(id),
            Slot::Hub(hub) => {
                if let Some(replica) = &self.replicas[hub.proc] {
                    let (used, max) = (replica.budget.used(), replica.budget.bytes_max());
                    if used > max && used > max + self.base_slack(None) {
                        let slack = self.base_slack(None);
                        self.net.fail("memory", || {
                            format!("the replica promises {used} of {max} + {slack}")
                        });
                    }
                }
                self.drop_idle_hub(id);
            }
            Slot::Edge(host) => {
                let node = host.node;
                let Some(edge) = self.edge_of.get(&id).map(|edge| &self.edges[*edge]) else {
                    return;
                };
                let (used, max) = (edge.budget.used(), edge.budget.bytes_max());
                if used > max && used > max + self.base_slack(Some(node)) {
                    let slack = self.base_slack(Some(node));
                    self.net.fail("memory", || {
                        format!("edge {node} promises {used} of {max} + {slack}")
                    });
                }
            }
        }
    }

    /// Base has no credit: each stream may hold its buffer and the message that filled it, whatever the budget says.
    fn base_slack(&self, node: Option<usize>) -> u64 {
        let wires = self
            .net
            .wires
            .iter()
            .filter(|wire| node.is_none_or(|node| wire.node == node));
        if !wires.clone().any(|wire| wire.base) {
            return 0;
        }
        let streams = &self.config.streams;
        let each = streams.base_buffer_bytes_max
            + self.config.links.message_bytes_max as u64
            + streams.window_bytes_min;
        let many = self.config.links.streams_per_link_max as u64;
        let flows = self
            .net
            .flows
            .iter()
            .filter(|flow| node.is_none_or(|node| flow.node == node))
            .count() as u64;
        each * flows.min(many * self.net.nodes.len() as u64)
    }

    /// Once a second.
    pub(crate) fn check_tick(&mut self) {
        self.check_held();
        self.check_pending();
        self.check_progress();
    }

    /// Bytes between the sockets are bytes in somebody's memory.
    fn check_held(&mut self) {
        let mut of_nodes = vec![(0, 0); self.setup.nodes.len()];
        let flows = self.net.flows.iter();
        for flow in flows.filter(|flow| !flow.base && flow.is_live() && flow.excuse.is_none()) {
            let between = |from: usize| {
                let (from, to) = (&flow.socks[from], &flow.socks[1 - from]);
                from.taken.saturating_sub(to.given)
            };
            if let Some((held, clients)) = of_nodes.get_mut(flow.node) {
                *held += between(CLIENT) + between(TARGET);
                *clients += 1;
            }
        }
        for (node, (held, clients)) in of_nodes.into_iter().enumerate() {
            if held == 0 {
                continue;
            }
            let edges = self.node_edges(node) as u64;
            let max = self.setup.cloud_bytes_max * self.setup.cluster.replicas as u64
                + self.setup.edge_bytes_max * (edges + clients);
            if held > max {
                self.net.fail("memory", || {
                    format!("node {node}: {held} bytes are on their way, of {max}")
                });
            }
        }
    }

    /// What waits for one socket is no more than its window, whatever its peer sends.
    fn check_pending(&mut self) {
        let streams = &self.config.streams;
        // A limit that is set anew may add the early bytes to the window, once.
        let window = streams.window_bytes_max.max(4096) + 4096;
        let base = streams.base_buffer_bytes_max + self.config.links.message_bytes_max as u64;
        for slot in &self.hosts {
            let (node, most) = match slot {
                Slot::Empty | Slot::Peers(_) => continue,
                Slot::Client(host) => (host.node, host.most_pending()),
                Slot::Hub(host) => (host.node, host.most_pending()),
                Slot::Edge(host) => (host.node, host.most_pending()),
            };
            let max = match self.net.nodes[node].has_base {
                true => window.max(base),
                false => window,
            };
            if most > max {
                self.net.fail("memory", || {
                    format!("node {node}: {most} bytes wait for one socket, of {max}")
                });
                return;
            }
        }
    }

    /// A stream with data, credit and a live link moves.
    fn check_progress(&mut self) {
        for id in 0..self.net.flows.len() {
            let flow = &self.net.flows[id];
            if !flow.is_live() {
                continue;
            }
            let stalls = self.node_may_stall(flow.node);
            let resumes = self.config.streams.resume
                && self.may_go_on(flow)
                && self.net.way_open_for(id) > 10 * SEC;
            let flow = &mut self.net.flows[id];
            let connected = flow
                .socks
                .iter()
                .all(|sock| sock.connected && sock.at.is_some());
            let calm = (flow.excuse.is_none() || resumes) && flow.status == Some(200) && connected;
            for from in [CLIENT, TARGET] {
                let (source, sink) = (&flow.socks[from], &flow.socks[1 - from]);
                let moved = source.taken + sink.given + u64::from(sink.fin_given);
                let wants =
                    source.written > sink.given || source.fin && !sink.fin_given && !flow.base;
                let can = sink.room() > 0 && flow.plan.apps[1 - from].read != Read::Never;
                let (before, ticks) = flow.stuck[from];
                let still = calm && wants && can && !stalls && moved == before;
                flow.stuck[from] = (moved, if still { ticks + 1 } else { 0 });
            }
            let stuck = flow
                .stuck
                .iter()
                .map(|(_, ticks)| *ticks)
                .max()
                .unwrap_or(0);
            if stuck > STUCK_TICKS_MAX && stuck > STUCK_TICKS_MAX + self.turns(id) {
                let line = self.line(id);
                self.net.fail("progress", || line);
            }
        }
    }

    /// Seconds until it is a stream's turn: all others on its link may each send a quantum before it.
    fn turns(&self, id: usize) -> u32 {
        let node = self.net.flows[id].node;
        let streams = self
            .net
            .flows
            .iter()
            .filter(|flow| flow.node == node && flow.is_live())
            .count() as u64;
        let plan = self.plan_of(node);
        let messages =
            (QUANTUM_BYTES / self.config.links.content_bytes_max.min(1024) as u64 + 2) * streams;
        let habits = [plan.habits, self.setup.cloud_habits];
        let room = habits
            .iter()
            .map(|habits| habits.room)
            .min()
            .unwrap_or(1)
            .min(plan.shape.room);
        let lag = habits
            .iter()
            .map(|habits| habits.lag * 2 + habits.no_room)
            .sum::<u64>();
        let each = (plan.shape.latency + lag) / room.max(1) as u64;
        let cluster = &self.setup.cluster;
        let others = match (cluster.replicas, cluster.client_one_in) {
            (1, None) => 0,
            _ => {
                (cluster.peer_shape.latency + cluster.client_shape.latency + 3 * lag)
                    / room.clamp(1, 16) as u64
            }
        };
        u32::try_from(messages * (each + others) * 2 / SEC).unwrap_or(u32::MAX)
    }

    /// In the base dialect one slow reader holds up its link.
    fn node_may_stall(&self, node: usize) -> bool {
        self.net.nodes[node].has_base
            && self
                .net
                .flows
                .iter()
                .any(|flow| flow.node == node && !flow.reads_fast())
    }

    /// Everything is over by the computed time, and came out as it should.
    pub(crate) fn check_converged(&mut self) {
        for id in 0..self.net.flows.len() {
            let flow = &self.net.flows[id];
            if flow.asked_at.is_none() {
                continue;
            }
            let line = self.line(id);
            let flow = &self.net.flows[id];
            if !flow.is_over() {
                return self.net.fail("convergence", || line);
            }
            let answered = flow.replies == 1 || flow.replies == 0 && self.may_be_unanswered(id);
            if !flow.stray && !answered {
                return self.net.fail("one reply", || line);
            }
            if flow.opened && !flow.orphaned && flow.records[0].is_none() {
                return self.net.fail("one record", || line);
            }
            let proof = self.proofs.contains(&id);
            let limited = self.net.tight
                && (flow.status == Some(503) || flow.base && flow.status == Some(502));
            if proof && flow.status != Some(200) && !limited {
                return self.net.fail("convergence", || {
                    format!("a new stream after healing: {line}")
                });
            }
            if let Some(wrong) = self.outcome(id) {
                return self.net.fail("outcome", || format!("{wrong}: {line}"));
            }
        }
    }

    fn may_be_unanswered(&self, id: usize) -> bool {
        let flow = &self.net.flows[id];
        matches!(flow.plan.ask, Ask::Leaves(_)) || self.net.flows[id].orphaned
    }

    /// What a stream that nothing happened to must have come to.
    fn outcome(&mut self, id: usize) -> Option<String> {
        let flow = &self.net.flows[id];
        let done = flow.records == [Some(Reason::Done); 2];
        let own_doing = flow.plan.apps.iter().any(|app| app.reset_at.is_some());
        let gentle =
            !own_doing && flow.excuse != Some("rogue") && flow.excuse != Some("client left");
        if done && gentle && !flow.base && !flow.is_complete() {
            return Some("told as done, but not complete".into());
        }
        if let Some(wrong) = self.check_resumed(id) {
            return Some(wrong);
        }
        let flow = &self.net.flows[id];
        if flow.excuse.is_some() {
            return None;
        }
        let expected: &[u16] = match (flow.plan.ask, flow.plan.dial) {
            (Ask::Unfinished, _) => &[408],
            (Ask::UnknownNode, _) => &[404],
            (Ask::ForbiddenPort, _) => &[403],
            (Ask::Leaves(_), _) => return None,
            (Ask::Properly, crate::flow::Dial::Fails(_)) => &[502],
            (Ask::Properly, crate::flow::Dial::Swallowed) => &[504],
            // A target that resets before `connected` has left is as good as none.
            (Ask::Properly, crate::flow::Dial::Connects(_))
                if flow.plan.apps[TARGET].reset_at.is_some() =>
            {
                &[200, 502]
            }
            (Ask::Properly, crate::flow::Dial::Connects(_)) => &[200],
        };
        let status = flow.status.unwrap_or(0);
        // What waits behind a stuck reader in the base dialect isn't answered.
        let stalled = status == 504 && self.node_may_stall(flow.node);
        let limited = self.net.tight && (status == 503 || flow.base && status == 502) || stalled;
        if !expected.contains(&status) && !limited {
            return Some(format!("status {status}, not {expected:?}"));
        }
        // Base can't say that one direction has ended, and ends a stream whose reader is stuck.
        let whole = flow.is_benign()
            && status == 200
            && (!flow.base || flow.reads_fast() && !self.node_may_stall(flow.node));
        if whole && !flow.is_complete() && !(flow.base && self.base_is_complete(id)) {
            return Some("not complete".into());
        }
        if whole && flow.records[CLIENT] == Some(Reason::Reset) {
            return Some("told as reset".into());
        }
        let flow = &self.net.flows[id];
        if whole {
            let what = if flow.base {
                "complete, base"
            } else {
                "complete, version 1"
            };
            let first = match (flow.plan.apps[0].fin, flow.plan.apps[1].fin) {
                (crate::flow::Fin::AfterSend, crate::flow::Fin::AfterPeer) => {
                    Some("half-closed first by the client")
                }
                (crate::flow::Fin::AfterPeer, crate::flow::Fin::AfterSend) => {
                    Some("half-closed first by the target")
                }
                _ => None,
            };
            self.net.cover.hit(what);
            if let Some(first) = first {
                self.net.cover.hit(first);
            }
        }
        None
    }

    /// In base an end comes with `closed`, both directions at once: what was read is what counts.
    fn base_is_complete(&self, id: usize) -> bool {
        let flow = &self.net.flows[id];
        [CLIENT, TARGET].into_iter().all(|side| {
            let (from, to) = (&flow.socks[side], &flow.socks[1 - side]);
            to.consumed == from.taken
        })
    }

    /// After everybody has shut down there is nothing.
    pub(crate) fn check_end(&mut self) {
        for id in 0..self.hosts.len() {
            let (deadline, what) = match &self.hosts[id] {
                Slot::Empty => continue,
                Slot::Client(host) => (
                    host.machine.deadline(),
                    format!("client for node {}", host.node),
                ),
                Slot::Peers(host) => (
                    host.machine.deadline(),
                    format!("peers of replica {}", host.proc),
                ),
                Slot::Hub(host) => (
                    host.machine.deadline(),
                    format!("hub of node {}", host.node),
                ),
                Slot::Edge(host) => (
                    host.machine.deadline(),
                    format!("edge of node {}", host.node),
                ),
            };
            if !self.is_idle(id) {
                return self
                    .net
                    .fail("nothing left", || format!("{what} is not idle"));
            }
            if let Some(deadline) = deadline {
                return self.net.fail("nothing left", || {
                    format!("{what} has a deadline: {deadline:?}")
                });
            }
        }
        let edges = self
            .edges
            .iter()
            .map(|edge| edge.budget.used())
            .sum::<u64>();
        let cloud = self
            .replicas
            .iter()
            .flatten()
            .map(|replica| replica.budget.used())
            .sum::<u64>();
        if edges + cloud > 0 {
            return self.net.fail("nothing left", || {
                format!("budgets in use: edges {edges}, replica {cloud}")
            });
        }
        let links: usize = self
            .replicas
            .iter()
            .flatten()
            .map(|replica| replica.cloud.links())
            .sum();
        if links > 0 {
            self.net
                .fail("nothing left", || format!("the cloud counts {links} links"));
        }
    }

    /// One flow, for people.
    pub(crate) fn line(&self, id: usize) -> String {
        let flow = &self.net.flows[id];
        let sock = |side: usize| {
            let sock = &flow.socks[side];
            format!(
                "[w{} t{} fin {} | g{} c{} fin {} | at {:?} closed {:?} end {:?}]",
                sock.written,
                sock.taken,
                sock.fin,
                sock.given,
                sock.consumed,
                sock.fin_given,
                sock.at,
                sock.closed,
                sock.end
            )
        };
        format!(
            "flow {id} fatal {:?} node {} port {} base {} asked {:.3} s status {:?} replies {} records {:?} excuse {:?}\n    client {}\n    target {}\n    {:?}",
            flow.fatal,
            flow.node,
            flow.port(),
            flow.base,
            flow.asked_at.map_or(0.0, crate::trace::seconds),
            flow.status,
            flow.replies,
            flow.records,
            flow.excuse,
            sock(CLIENT),
            sock(TARGET),
            flow.plan,
        )
    }

    /// A line for each node and each flow that isn't over.
    pub(crate) fn unsettled(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for slot in &self.hosts {
            let (what, node, links, deadline, streams) = match slot {
                Slot::Empty => continue,
                Slot::Client(host) => (
                    "client",
                    host.node,
                    host.machine.link_infos(),
                    host.machine.deadline(),
                    host.machine.stream_infos(),
                ),
                Slot::Peers(host) => (
                    "peers",
                    host.proc,
                    host.machine.link_infos(),
                    host.machine.deadline(),
                    host.machine.stream_infos(),
                ),
                Slot::Hub(host) => (
                    "hub",
                    host.node,
                    host.machine.link_infos(),
                    host.machine.deadline(),
                    host.machine.stream_infos(),
                ),
                Slot::Edge(host) => (
                    "edge",
                    host.node,
                    host.machine.link_infos(),
                    host.machine.deadline(),
                    host.machine.stream_infos(),
                ),
            };
            lines.push(format!(
                "{what} of node {node}: {} links, {} streams, deadline {deadline:?}",
                links.len(),
                streams.len()
            ));
            for stream in streams.iter().filter(|_| what != "edge") {
                let (target, state) = (&stream.target, stream.state);
                lines.push(format!("    {} to {target}, {state:?}", stream.topic));
            }
        }
        for flow in self.net.flows.iter().filter(|flow| flow.is_live()) {
            lines.push(self.line(flow.id));
        }
        for (at, wire) in self
            .net
            .wires
            .iter()
            .enumerate()
            .filter(|(_, wire)| !wire.is_over())
        {
            lines.push(format!("wire {at}: {}", wire.line()));
        }
        lines
    }
}
