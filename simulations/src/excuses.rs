//! What was done to whom, and until when: a link that is lost meanwhile, or a stream that fails, is nobody's fault.

use crate::flow::{Flow, Via};
use crate::net::{FlowId, Nanos, Net, WireId};
use crate::wire::Carries;

/// What links depend on beside their node's line.
#[derive(Debug, Default)]
pub(crate) struct Excuses {
    /// Lines between two replicas, whichever of them made the link.
    pairs: Vec<Vec<Nanos>>,
    /// Replicas' processes.
    replicas: Vec<Nanos>,
    /// The way in, of all clients.
    clients: Nanos,
}

impl Excuses {
    pub(crate) fn new(replicas: usize) -> Excuses {
        Excuses {
            pairs: vec![vec![0; replicas]; replicas],
            replicas: vec![0; replicas],
            clients: 0,
        }
    }

    fn each(&mut self) -> impl Iterator<Item = &mut Nanos> {
        let all = self.pairs.iter_mut().flatten();
        all.chain(&mut self.replicas)
            .chain(std::iter::once(&mut self.clients))
    }

    pub(crate) fn of_pair(&self, a: usize, b: usize) -> Nanos {
        self.pairs[a][b].max(self.replicas[a]).max(self.replicas[b])
    }

    /// Of whoever comes to a replica, or goes on from there.
    fn of_opener(&self, at: usize) -> Nanos {
        let pairs = self.pairs[at].iter().max().copied().unwrap_or(0);
        pairs.max(self.replicas[at])
    }

    fn of_anybody(&self) -> Nanos {
        let pairs = self.pairs.iter().flatten();
        let all = pairs.chain(&self.replicas).max().copied();
        all.unwrap_or(0).max(self.clients)
    }
}

impl Net {
    /// Something is wrong with a node's way to the cloud (`link`: so wrong that links may die of it) until `until`.
    pub(crate) fn disturb(&mut self, node: usize, until: Nanos, link: bool, why: &'static str) {
        let state = &mut self.nodes[node];
        state.disturbed_at = state.disturbed_at.max(until);
        state.excused_until = state.excused_until.max(until);
        if link {
            state.link_excused_until = state.link_excused_until.max(until);
        }
        self.excuse(why, |flow| flow.node == node);
    }

    /// Processes of a node die or take each other's place until then: streams that live meanwhile may be beyond resuming.
    pub(crate) fn disturb_fatally(&mut self, node: usize, until: Nanos, why: &'static str) {
        let state = &mut self.nodes[node];
        state.fatal_until = state.fatal_until.max(until);
        for flow in self.flows.iter_mut().filter(|flow| flow.node == node) {
            if flow.is_live() || flow.opened && flow.records.contains(&None) {
                flow.fatal.get_or_insert(why);
            }
        }
    }

    /// Something is wrong with the line between two replicas.
    pub(crate) fn disturb_pair(&mut self, a: usize, b: usize, until: Nanos, why: &'static str) {
        for (from, to) in [(a, b), (b, a)] {
            let pair = &mut self.excuses.pairs[from][to];
            *pair = until.max(*pair);
        }
        // A client is where its last whole link leads, or may come to either.
        self.excuse(why, |flow| {
            let opener = flow.opener_at().or(flow.client_way.map(|(_, at)| at));
            opener.is_none_or(|at| at == a || at == b)
        });
    }

    /// Something is wrong with a replica's process: with all links that lead there, and with what is opened there.
    pub(crate) fn disturb_replica(&mut self, at: usize, until: Nanos, why: &'static str) {
        self.excuses.replicas[at] = until.max(self.excuses.replicas[at]);
        self.excuse(why, |flow| flow.opener_at() == Some(at));
        for wire in 0..self.wires.len() {
            let of = &self.wires[wire];
            if of.to != at || of.is_over() {
                continue;
            }
            match of.carries {
                Carries::Edge => self.disturb(of.node, until, true, why),
                Carries::Client(flow) => self.disturb_client(flow, until, why),
                Carries::Peer | Carries::Control => {}
            }
        }
    }

    /// No client gets in.
    pub(crate) fn disturb_clients(&mut self, until: Nanos, why: &'static str) {
        self.excuses.clients = until.max(self.excuses.clients);
        self.excuse(why, |flow| flow.plan.via == Via::Client);
    }

    /// Something is wrong with one client's line.
    pub(crate) fn disturb_client(&mut self, id: FlowId, until: Nanos, why: &'static str) {
        let flow = &mut self.flows[id];
        flow.link_excused_until = flow.link_excused_until.max(until);
        self.excuse(why, |flow| flow.id == id);
    }

    fn excuse(&mut self, why: &'static str, of: impl Fn(&Flow) -> bool) {
        for flow in self.flows.iter_mut().filter(|flow| of(flow)) {
            if flow.is_live() {
                flow.excuse.get_or_insert(why);
            }
        }
    }

    /// Until when a link may be lost without anybody's fault.
    pub(crate) fn link_excused_until(&self, wire: WireId) -> Nanos {
        let of = &self.wires[wire];
        let excuses = &self.excuses;
        match (of.carries, of.from) {
            (Carries::Edge, _) => {
                let node = self.nodes[of.node].link_excused_until;
                node.max(excuses.replicas[of.to])
            }
            (Carries::Client(flow), _) => {
                let line = self.flows[flow].link_excused_until;
                line.max(excuses.replicas[of.to]).max(excuses.clients)
            }
            (Carries::Peer | Carries::Control, Some(from)) => excuses.of_pair(from, of.to),
            (Carries::Peer | Carries::Control, None) => excuses.replicas[of.to],
        }
    }

    /// Whether something is wrong on the way of somebody who comes now.
    pub(crate) fn is_disturbed(&self, flow: FlowId) -> bool {
        let flow = &self.flows[flow];
        let opener = match flow.opener_at() {
            Some(at) => self.excuses.of_opener(at),
            None => self.excuses.of_anybody().max(flow.link_excused_until),
        };
        let node = self.nodes[flow.node].excused_until;
        self.now < opener.max(node)
    }

    /// What was wrong may still be felt until then.
    pub(crate) fn heal_excuses(&mut self, until: Nanos) {
        let own = self
            .flows
            .iter_mut()
            .map(|flow| &mut flow.link_excused_until);
        for of in self.excuses.each().chain(own).filter(|of| **of > 0) {
            *of = until;
        }
    }

    /// All is well from now on: what was wrong before then excuses nothing more.
    pub(crate) fn end_excuses(&mut self, before: Nanos) {
        let own = self
            .flows
            .iter_mut()
            .map(|flow| &mut flow.link_excused_until);
        for of in self.excuses.each().chain(own) {
            *of = before.min(*of);
        }
    }
}
