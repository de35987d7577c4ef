//! The edges' processes: starting, connecting, dying, starting again.

use std::sync::LazyLock;

use proto_core::edge::{DialectChoice, EdgeConfig};
use proto_core::output::{AttemptId, LinkLoss};
use proto_core::target::Targets;
use proto_core::{Budget, Edge};

use crate::faults::Policy;
use crate::host::{Host, Is};
use crate::net::{Event, HostId, MS, Proc, SEC, nanos};
use crate::replica::name;
use crate::wire::{Carries, DOWN, Item, Shape, UP, Wire};
use crate::world::{EdgeProc, Slot, World, with_host};

/// What every edge allows: the ports of flows, and a few of those that only rogues ask for.
static TARGETS: LazyLock<Targets> = LazyLock::new(|| targets((1000..=1999).chain(60_000..=60_050)));

fn targets(ports: impl Iterator<Item = u16>) -> Targets {
    let ports = ports.map(|port| format!("127.0.0.1:{port}"));
    let map = std::iter::empty::<(u16, String)>();
    Targets::parse(ports, map).expect("they are targets")
}

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
            leaves: false,
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
        let targets = match &self.setup.ports {
            Some(of_nodes) => targets(of_nodes[node].iter().copied()),
            None => TARGETS.clone(),
        };
        let config = EdgeConfig {
            node: name(node),
            addresses: self.setup.cluster.replicas.max(2),
            targets,
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
            let mut host = Host::new(machine, id, proc, node, Is::Edge, plan.habits, &limits);
            (host.reconnect_min, host.reconnect_max) = (min, max);
            Slot::Edge(Box::new(host))
        });
        self.edges[edge].host = Some(host);
        self.edge_of.insert(host, edge);
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
        // Another may have its place.
        let is_free = self.serving(self.edges[edge].node).is_empty();
        if self.edges[edge].host.is_none() && is_free {
            self.edges[edge].leaves = false;
            self.start_edge(edge);
        }
    }

    pub(crate) fn shape_of(&self, node: usize) -> Shape {
        self.plan_of(node).shape
    }

    /// An edge's driver makes a connection.
    pub(crate) fn attempt(&mut self, id: HostId, attempt: AttemptId) {
        let mut asked = None;
        with_host!(&mut self.hosts[id], host => {
            let connect = host.attempt.take();
            let connect = connect.filter(|connect| connect.attempt == attempt);
            asked = connect.map(|connect| (connect, host.node, host.proc, host.is));
        });
        let Some((connect, node, proc, is)) = asked else {
            return;
        };
        let (policy, until) = match is {
            Is::Client => self.client_policy,
            Is::Edge | Is::Hub | Is::Peers => self.policies[node],
        };
        let avoid = match is {
            Is::Edge => self.net.nodes[node].avoid,
            Is::Hub | Is::Client | Is::Peers => (0, 0),
        };
        let to = self.choose(connect.address, avoid);
        let policy = if self.net.now < until {
            policy
        } else {
            Policy::Normal
        };
        let shape = match is {
            Is::Client => self.setup.cluster.client_shape,
            Is::Edge | Is::Hub | Is::Peers => self.shape_of(node),
        };
        let failure = match policy {
            _ if self.replicas[to].is_none() => Some((shape.latency, LinkLoss::Refused)),
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
        let now = self.net.clock(proc);
        let remote = String::from("203.0.113.1:9000");
        let drains = connect.version_1 && connect.draining;
        let (carries, item, link) = match &mut self.hosts[id] {
            Slot::Edge(host) => {
                let item = Item::Request {
                    version_1: connect.version_1,
                    instance: connect.version_1.then_some(connect.instance),
                    draining: drains,
                };
                let link = host.machine.link_started(attempt, remote, now);
                (Carries::Edge, item, link)
            }
            Slot::Client(host) => {
                let flow = self.clients.iter().find(|client| client.host == id);
                let Some(flow) = flow.map(|client| client.flow) else {
                    return;
                };
                let link = host.machine.link_started(attempt, remote, now);
                (Carries::Client(flow), Item::Client, link)
            }
            Slot::Empty | Slot::Hub(_) | Slot::Peers(_) => return,
        };
        let Some(link) = link else { return };
        let mut made = Wire::new(carries, node, to, shape);
        made.draining = drains;
        made.base = carries == Carries::Edge && self.plan_of(node).dialect == DialectChoice::Base;
        self.net.add_wire(made);
        with_host!(&mut self.hosts[id], host => host.add_link(&mut self.net, link, wire, UP));
        self.net.send(wire, UP, item);
        match policy {
            Policy::AcceptThenClose => {
                self.net.cut(wire, UP, crate::net::NEVER);
                self.net.leave(wire, DOWN, LinkLoss::Closed);
            }
            Policy::Rogue => self.net.wires[wire].ends[DOWN].rogue = true,
            _ => {}
        }
        with_host!(&mut self.hosts[id], host => host.settle(&mut self.net));
        self.check_host(id);
    }

    /// The replica that an attempt comes to.
    fn choose(&mut self, address: usize, (avoid, until): (usize, u64)) -> usize {
        let replicas = self.setup.cluster.replicas;
        let avoids = replicas > 1 && self.net.now < until;
        let takes = |at: &usize| {
            let replica = self.replicas[*at].as_ref();
            let is_ready = replica.is_some_and(|replica| !replica.cloud.is_draining());
            is_ready && !(avoids && *at == avoid)
        };
        let ready: Vec<usize> = (0..replicas).filter(takes).collect();
        match address % replicas {
            _ if self.setup.cluster.service && replicas > 1 && !ready.is_empty() => {
                self.net.dice.pick(&ready)
            }
            at if avoids && at == avoid => (at + 1) % replicas,
            at => at,
        }
    }

    pub(crate) fn attempt_failed(&mut self, id: HostId, attempt: AttemptId, why: LinkLoss) {
        match &mut self.hosts[id] {
            Slot::Edge(host) => {
                host.attempt_failed(&mut self.net, why);
                host.input(&mut self.net, |edge, now| {
                    edge.connect_failed(attempt, why, now)
                });
            }
            Slot::Client(host) => {
                host.attempt_failed(&mut self.net, why);
                host.input(&mut self.net, |client, now| {
                    client.connect_failed(attempt, why, now)
                });
            }
            Slot::Empty | Slot::Hub(_) | Slot::Peers(_) => {}
        }
        self.check_host(id);
    }
}
