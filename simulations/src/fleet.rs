//! The edges' processes: starting, connecting, dying, starting again.

use proto_core::edge::{DialectChoice, EdgeConfig};
use proto_core::output::{AttemptId, LinkLoss};
use proto_core::target::Targets;
use proto_core::{Budget, Edge};

use crate::faults::Policy;
use crate::host::Host;
use crate::net::{Event, HostId, MS, Proc, SEC, nanos};
use crate::replica::name;
use crate::wire::{DOWN, Item, Shape, UP, Wire};
use crate::world::{EdgeProc, Slot, World};

impl World {
    pub(crate) fn add_edge(&mut self, node: usize, twin: bool) -> usize {
        let proc = self.net.procs.len();
        self.net.procs.push(Proc::default());
        self.edges.push(EdgeProc {
            node,
            proc,
            host: None,
            budget: Budget::new(self.setup.edge_bytes_max),
            twin,
        });
        let edge = self.edges.len() - 1;
        self.start_edge(edge);
        edge
    }

    pub(crate) fn start_edge(&mut self, edge: usize) {
        let (node, proc) = (self.edges[edge].node, self.edges[edge].proc);
        let plan = self.plan_of(node);
        let budget = Budget::new(self.setup.edge_bytes_max);
        self.edges[edge].budget = budget.clone();
        let ports: Vec<String> = (1000..=1999)
            .chain(60_000..=60_050)
            .map(|port: u32| format!("127.0.0.1:{port}"))
            .collect();
        let config = EdgeConfig {
            node: name(node),
            addresses: 2,
            targets: Targets::parse(ports, std::iter::empty::<(u16, String)>())
                .expect("they are targets"),
            reconnect: self.setup.reconnect,
            dialect: plan.dialect,
            limits: (*self.config).clone(),
        };
        let limits = self.config.clone();
        let machine = Edge::new(config, budget, self.seeds.seed(), self.net.clock(proc));
        let (min, max) = (
            nanos(self.setup.reconnect.min),
            nanos(self.setup.reconnect.max),
        );
        let host = self.add_host(|id| {
            let mut host = Host::new(machine, id, proc, node, UP, plan.habits, &limits);
            (host.reconnect_min, host.reconnect_max) = (min, max);
            Slot::Edge(Box::new(host))
        });
        self.edges[edge].host = Some(host);
        if let Slot::Edge(host) = &mut self.hosts[host] {
            host.wake_in(&mut self.net, 1);
        }
    }

    /// SIGKILL; the cloud learns of it after `loss_delay`, if ever.
    pub(crate) fn kill_edge(&mut self, edge: usize, loss_delay: u64) {
        let (node, now) = (self.edges[edge].node, self.net.now);
        self.net.disturb_fatally(node, now, "edge killed");
        if let Some(host) = self.edges[edge].host.take()
            && self.kill(host, loss_delay)
        {
            self.net.cover.hit("edge restarted with streams");
        }
        if self.edges[edge].budget.used() != 0 {
            self.net
                .fail("nothing left", || "a dead edge's budget is in use".into());
        }
    }

    pub(crate) fn restart(&mut self, edge: usize) {
        if self.edges[edge].host.is_none() {
            self.start_edge(edge);
        }
    }

    pub(crate) fn shape_of(&self, node: usize) -> Shape {
        self.plan_of(node).shape
    }

    /// An edge's driver makes a connection.
    pub(crate) fn attempt(&mut self, id: HostId, attempt: AttemptId) {
        let Slot::Edge(host) = &mut self.hosts[id] else {
            return;
        };
        let Some(connect) = host
            .attempt
            .take()
            .filter(|connect| connect.attempt == attempt)
        else {
            return;
        };
        let (node, proc) = (host.node, host.proc);
        let (policy, until) = self.policies[node];
        let policy = if self.net.now < until {
            policy
        } else {
            Policy::Normal
        };
        let shape = self.shape_of(node);
        let failure = match policy {
            _ if self.replica.is_none() => Some((shape.latency, LinkLoss::Refused)),
            Policy::Refuse => Some((shape.latency, LinkLoss::Refused)),
            Policy::Hang => Some((10 * SEC, LinkLoss::Broken)),
            Policy::Unavailable => Some((
                shape.latency,
                LinkLoss::Unavailable {
                    pushback: Some(std::time::Duration::from_secs(3)),
                },
            )),
            Policy::Normal | Policy::AcceptThenClose | Policy::Rogue => None,
        };
        if let Some((delay, why)) = failure {
            return self
                .net
                .after(delay + MS / 10, Event::AttemptFailed(id, attempt, why));
        }
        let wire = self.net.wires.len();
        let base = self.plan_of(node).dialect == DialectChoice::Base;
        self.net.wires.push(Wire::new(node, base, shape));
        let now = self.net.clock(proc);
        let Slot::Edge(host) = &mut self.hosts[id] else {
            return;
        };
        let Some(link) = host
            .machine
            .link_started(attempt, String::from("203.0.113.1:9000"), now)
        else {
            return;
        };
        host.add_link(&mut self.net, link, wire);
        let item = Item::Request {
            version_1: connect.version_1,
            instance: connect.version_1.then_some(connect.instance),
        };
        self.net.send(wire, UP, item);
        match policy {
            Policy::AcceptThenClose => {
                self.net.cut(wire, UP, crate::net::NEVER);
                self.net.leave(wire, DOWN, LinkLoss::Closed);
            }
            Policy::Rogue => self.net.wires[wire].ends[DOWN].rogue = true,
            _ => {}
        }
        if let Slot::Edge(host) = &mut self.hosts[id] {
            host.settle(&mut self.net);
        }
        self.check_host(id);
    }

    pub(crate) fn attempt_failed(&mut self, id: HostId, attempt: AttemptId, why: LinkLoss) {
        if let Slot::Edge(host) = &mut self.hosts[id] {
            host.attempt_failed(&mut self.net, why);
            host.input(&mut self.net, |edge, now| {
                edge.connect_failed(attempt, why, now)
            });
        }
        self.check_host(id);
    }
}
