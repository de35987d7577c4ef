//! A replica's process: the CONNECT front, the core's `Cloud`, and a hub for each node that has a link or a stream here.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use proto_core::cloud::{Admission, CloudConfig, Left};
use proto_core::connect::{Connect, ConnectRequest, Limits, Step};
use proto_core::hub::{LinkUp, OpenRequest};
use proto_core::name::NodeName;
use proto_core::output::LinkLoss;
use proto_core::registry::{Answers, AnswersConfig};
use proto_core::replica::Holder;
use proto_core::{Budget, Cloud, Dialect, Instance, LinkId, Machine, NodeHub, ReplicaId};

use crate::flow::{Ask, CLIENT, End};
use crate::host::{Host, Is};
use crate::net::{Event, FlowId, HostId, MS, Nanos, SEC, nanos};
use crate::pattern;
use crate::sniff::{FORBIDDEN_PORT_MIN, node_name};
use crate::wire::{DOWN, Item};
use crate::world::{Slot, World};

pub(crate) struct Replica {
    pub(crate) cloud: Cloud,
    pub(crate) budget: Budget,
    pub(crate) hubs: BTreeMap<usize, HostId>,
    /// Which of the processes that had its place it is.
    pub(crate) generation: u32,
    pub(crate) peers: HostId,
    pub(crate) me: ReplicaId,
    /// Control links to others, who they are and where.
    pub(crate) ways: BTreeMap<LinkId, (ReplicaId, usize)>,
    pub(crate) answers: Answers,
    /// Who else holds which nodes.
    pub(crate) elsewhere: BTreeMap<NodeName, Vec<Holder>>,
    pub(crate) leaves_at: Option<Nanos>,
    /// It has ended what was left.
    ended: bool,
    /// The others follow.
    pub(crate) rolls: bool,
}

/// A node's name; the rogue's and ours alike.
pub(crate) fn name(node: usize) -> NodeName {
    NodeName::parse(&node_name(node)).expect("it is a name")
}

/// The node that has this name.
pub(crate) fn number(name: &NodeName) -> Option<usize> {
    name.as_str().rsplit_once('-')?.1.parse().ok()
}

impl World {
    pub(crate) fn start_replica(&mut self, replica: usize) {
        let budget = Budget::new(self.setup.cloud_bytes_max);
        let mut cloud = Cloud::new(
            CloudConfig::default(),
            budget.clone(),
            self.net.clock(replica),
        );
        cloud.set_listed((0..self.net.nodes.len()).map(name));
        let (peers, me) = self.start_peers(replica, &budget);
        self.generations += 1;
        self.replicas[replica] = Some(Replica {
            cloud,
            budget,
            hubs: BTreeMap::new(),
            generation: self.generations,
            peers,
            me,
            ways: BTreeMap::new(),
            answers: Answers::new(AnswersConfig::default()),
            elsewhere: BTreeMap::new(),
            leaves_at: None,
            ended: false,
            rolls: false,
        });
    }

    /// SIGKILL.
    pub(crate) fn kill_replica(&mut self, at: usize) {
        let Some(replica) = self.replicas[at].take() else {
            return;
        };
        let here = |flow: &crate::flow::Flow| flow.opener_at() == Some(at);
        for flow in self.net.flows.iter_mut().filter(|flow| here(flow)) {
            flow.orphaned |= flow.is_live() || flow.opened && flow.records[0].is_none();
        }
        self.kill(replica.peers, MS);
        for host in replica.hubs.into_values() {
            if self.kill(host, 1_000_000) {
                self.net.cover.hit("replica restarted with streams");
            }
        }
        for flow in 0..self.net.flows.len() {
            if here(&self.net.flows[flow]) && self.net.flows[flow].front.take().is_some() {
                self.net.close_sock(flow, CLIENT, true);
            }
        }
    }

    /// The node's hub; one is made if there is none.
    pub(crate) fn hub(&mut self, at: usize, node: usize) -> Option<HostId> {
        let replica = self.replicas[at].as_mut()?;
        if let Some(host) = replica.hubs.get(&node) {
            return Some(*host);
        }
        let holders = replica.elsewhere.get(&name(node)).cloned();
        let leaves = replica.leaves_at;
        let machine = NodeHub::new(
            name(node),
            self.config.clone(),
            replica.budget.quarter(),
            self.seeds.seed(),
        );
        let (habits, config) = (self.setup.cloud_habits, self.config.clone());
        let host = self.add_host(|id| {
            let hub = Host::new(machine, id, at, node, Is::Hub, habits, &config);
            Slot::Hub(Box::new(hub))
        });
        if let Some(replica) = self.replicas[at].as_mut() {
            replica.hubs.insert(node, host);
        }
        let (now, jitter) = (self.net.clock(at), self.setup.cluster.drain_jitter);
        if let Slot::Hub(host) = &mut self.hosts[host] {
            if let Some(holders) = holders {
                host.machine.set_holders(holders, now);
            }
            if let Some(at) = leaves {
                host.leaves_at = Some(at);
                host.machine.drain(Duration::from_nanos(jitter), now);
            }
        }
        Some(host)
    }

    /// A hub without links and streams goes.
    pub(crate) fn drop_idle_hub(&mut self, host: HostId) {
        let Slot::Hub(hub) = &self.hosts[host] else {
            return;
        };
        if hub.machine.is_idle() && hub.is_quiet() {
            let (at, node) = (hub.proc, hub.node);
            if let Some(deadline) = hub.machine.deadline() {
                self.net.fail("nothing left", || {
                    format!("an idle hub has a deadline: {deadline:?}")
                });
            }
            if hub.opened != hub.ended {
                let (opened, ended) = (hub.opened, hub.ended);
                self.net.fail("one record", || {
                    format!("{opened} streams opened at a hub, {ended} ended")
                });
            }
            self.net.cover.hit("hub dropped");
            self.hosts[host] = Slot::Empty;
            if let Some(replica) = &mut self.replicas[at] {
                replica.hubs.remove(&node);
            }
        }
    }

    /// An edge's request for a link has come.
    pub(crate) fn accept(
        &mut self,
        wire: usize,
        version_1: bool,
        instance: Option<Instance>,
        draining: bool,
    ) {
        let (at, node) = (self.net.wires[wire].to, self.net.wires[wire].node);
        let now = self.net.clock(at);
        let Some(replica) = &mut self.replicas[at] else {
            return self.net.cut(wire, DOWN, 1_000_000);
        };
        let admitted = replica.cloud.admit_link(now);
        self.net.asked.push((at, self.net.now, admitted.is_ok()));
        if let Err(refusal) = admitted {
            let why = LinkLoss::Unavailable {
                pushback: refusal.pushback,
            };
            return self.net.leave(wire, DOWN, why);
        }
        let Some(host) = self.hub(at, node) else {
            return;
        };
        let dialect = if version_1 {
            Dialect::V1
        } else {
            Dialect::Base
        };
        self.net.set_base(wire, dialect == Dialect::Base);
        self.net.wires[wire].up_at = Some(self.net.now);
        self.net.send(wire, DOWN, Item::Headers { version_1 });
        let up = LinkUp {
            dialect,
            instance,
            spelling: name(node),
            remote: String::from("192.0.2.1:1"),
            draining,
            wall_ms: self.setup.cluster.skews_ms[at] + now.as_nanos() / MS,
        };
        let net = &mut self.net;
        if let Slot::Hub(host) = &mut self.hosts[host] {
            let same = |other: &Instance| {
                up.instance
                    .as_ref()
                    .is_some_and(|own| own.is_same_process(other))
            };
            let infos = host.machine.link_infos();
            if infos
                .iter()
                .filter_map(|link| link.instance.as_ref())
                .any(same)
            {
                net.cover.hit("link overlap");
            }
            let link = host.machine.link_up(up, now);
            host.add_link(net, link, wire, DOWN);
            host.settle(net);
        }
        self.check_host(host);
    }

    // Leaving.

    /// SIGTERM.
    pub(crate) fn drain_replica(&mut self, at: usize) {
        let now = self.net.clock(at);
        let jitter = self.setup.cluster.drain_jitter;
        let Some(replica) = &mut self.replicas[at] else {
            return;
        };
        if replica.leaves_at.is_some() || self.net.finishing || self.net.now > self.setup.heal_at {
            return;
        }
        replica.cloud.drain();
        replica.leaves_at = Some(now.as_nanos());
        let (generation, hubs) = (replica.generation, replica.hubs.clone());
        let until = self.net.now + jitter + self.net.drain_max + self.reconnects();
        self.net.disturb_replica(at, until, "replica drained");
        let mut streams = 0;
        for host in hubs.into_values() {
            if let Slot::Hub(hub) = &mut self.hosts[host] {
                streams += hub.machine.stream_infos().len();
                let jitter = Duration::from_nanos(jitter);
                hub.leaves_at = Some(now.as_nanos());
                hub.input(&mut self.net, |hub, now| hub.drain(jitter, now));
            }
            self.check_host(host);
        }
        self.net.cover.hit(match streams {
            0 => "replica drained",
            _ => "replica drained with streams",
        });
        self.net.after(SEC / 4, Event::DrainLook(at, generation));
    }

    /// It ends once nothing would be lost, or when its time is over.
    pub(crate) fn drain_look(&mut self, at: usize, generation: u32) {
        let now = self.net.clock(at).as_nanos();
        let jitter = self.setup.cluster.drain_jitter;
        let (drain_max, others) = (self.net.drain_max, self.setup.cluster.replicas > 1);
        let Some(replica) = &mut self.replicas[at] else {
            return;
        };
        let leaves_at = replica
            .leaves_at
            .filter(|_| replica.generation == generation);
        let Some(leaves_at) = leaves_at else { return };
        if replica.ended {
            let rolls = replica.rolls;
            self.kill_replica(at);
            if rolls && at + 1 == self.setup.cluster.replicas {
                self.net.cover.hit("rolled: all replicas");
            }
            let next = (at + 1) % self.setup.cluster.replicas;
            self.net.after(SEC / 2, Event::RestartReplica(at));
            if rolls && next > 0 {
                self.roll_next = Some(next);
            }
            return;
        }
        let (mut links, mut streams) = (0, 0);
        for host in replica.hubs.values() {
            if let Slot::Hub(hub) = &self.hosts[*host] {
                let infos = hub.machine.link_infos();
                links += infos.iter().filter(|link| !link.kind.is_peer()).count() as u64;
                streams += hub.machine.stream_infos().len() as u64;
            }
        }
        let leaving_for = now.saturating_sub(leaves_at);
        let left = Left { links, streams };
        let (waited, jitter_of) = (
            Duration::from_nanos(leaving_for),
            Duration::from_nanos(jitter),
        );
        let drained = left.is_drained(others, waited, jitter_of);
        if drained || leaving_for >= drain_max {
            self.net.cover.hit(match drained {
                true => "replica has nothing left",
                false => "replica's time is over",
            });
            replica.ended = true;
            let (hubs, peers) = (replica.hubs.clone(), replica.peers);
            for host in hubs.into_values() {
                if let Slot::Hub(hub) = &mut self.hosts[host] {
                    hub.input(&mut self.net, |hub, now| hub.shut_down(now));
                }
                self.check_host(host);
            }
            if let Slot::Peers(host) = &mut self.hosts[peers] {
                host.input(&mut self.net, |peers, now| peers.shut_down(now));
            }
        }
        self.net.after(SEC / 4, Event::DrainLook(at, generation));
    }

    pub(crate) fn restart_replica(&mut self, at: usize) {
        if self.replicas[at].is_some() {
            return;
        }
        self.start_replica(at);
        self.find_peers(at);
        if let Some(next) = self.roll_next.take() {
            self.roll(next);
        }
    }

    /// It leaves in a while, and after it the next.
    pub(crate) fn roll(&mut self, at: usize) {
        if let Some(replica) = &mut self.replicas[at] {
            replica.rolls = true;
            self.net.after(SEC, Event::DrainReplica(at));
        }
    }

    /// How long after a fault a link may take to be there again.
    pub(crate) fn reconnects(&self) -> Nanos {
        2 * nanos(self.setup.reconnect.max) + 12 * SEC
    }

    // The CONNECT front.

    /// A piece of the client's header arrives; the last brings the early bytes.
    pub(crate) fn front(&mut self, id: FlowId, piece: usize) {
        if piece == usize::MAX {
            return self.client_leaves(id);
        }
        let plan = self.net.flows[id].plan;
        if piece == 0 {
            self.arrive(id);
        }
        let Some(front) = self.net.flows[id].front.take() else {
            return;
        };
        let header = header(id, plan.node, plan.ask);
        let cut = |piece: usize| header.len() * piece / plan.pieces;
        let mut bytes = header.as_bytes()[cut(piece)..cut(piece + 1)].to_vec();
        if piece + 1 == plan.pieces && plan.ask != Ask::Unfinished {
            let early = pattern::slice(id, CLIENT, 0, plan.early as usize);
            bytes.extend_from_slice(early);
            let sock = &mut self.net.flows[id].socks[CLIENT];
            sock.written = plan.early;
            if plan.early > 0 {
                self.net.cover.hit("early bytes behind the request");
            }
        }
        match front.handle_bytes(&bytes) {
            Step::More(front) => {
                let at = self.net.flows[id].opener_at().unwrap_or(0);
                let deadline = self.net.when(at, front.deadline());
                self.net.flows[id].front = Some(front);
                if piece == 0 {
                    self.net.schedule(deadline, Event::FrontTimeout(id));
                }
            }
            Step::Request(request) => self.admit(id, &request),
            Step::Refuse(reply) => self.refuse(id, &reply.into_bytes()),
        }
    }

    pub(crate) fn arrive(&mut self, id: FlowId) {
        let (now, node) = (self.net.now, self.net.flows[id].node);
        let opener_at = self.net.flows[id].opener_at();
        let up = opener_at.is_none_or(|at| self.replicas[at].is_some());
        let front = opener_at
            .filter(|_| up)
            .map(|at| Connect::new(Limits::default(), self.net.clock(at)));
        let state = &self.net.nodes[node];
        let excuse = match () {
            () if state.rogue => Some("rogue"),
            () if self.net.is_disturbed(id) => Some("opened while disturbed"),
            () => None,
        };
        let fatal = now < state.fatal_until;
        let flow = &mut self.net.flows[id];
        flow.asked_at = Some(now);
        flow.excuse = flow.excuse.or(excuse);
        if fatal {
            flow.fatal = Some("opened while processes came and went");
        }
        flow.socks[CLIENT].connected = up;
        if up {
            flow.front = front;
        } else {
            // Nothing listens: no connection, no reply.
            flow.orphaned = true;
            flow.excuse = Some("no replica");
            flow.socks[CLIENT].end = Some(End::Reset);
        }
    }

    pub(crate) fn front_timeout(&mut self, id: FlowId) {
        let now = self.net.clock(self.net.flows[id].opener_at().unwrap_or(0));
        let Some(front) = self.net.flows[id].front.take() else {
            return;
        };
        match front.handle_timeout(now) {
            Ok(front) => self.net.flows[id].front = Some(front),
            Err(reply) => self.refuse(id, &reply.into_bytes()),
        }
    }

    fn client_leaves(&mut self, id: FlowId) {
        let flow = &mut self.net.flows[id];
        flow.excuse.get_or_insert("client left");
        flow.front = None;
        let sock = &mut flow.socks[CLIENT];
        if sock.end.is_none() && sock.connected {
            sock.end = Some(End::Own);
            sock.broken = true;
            if let Some((host, stream)) = sock.at {
                self.net.after(1, Event::Socket(host, stream));
            }
        }
    }

    fn refuse(&mut self, id: FlowId, reply: &Bytes) {
        self.net.reply_to(id, reply);
        self.net.close_sock(id, CLIENT, false);
    }

    fn admit(&mut self, id: FlowId, request: &ConnectRequest) {
        let at = self.net.flows[id].opener_at().unwrap_or(0);
        let now = self.net.clock(at);
        let Some(replica) = &mut self.replicas[at] else {
            return;
        };
        let admission = replica.cloud.admit_connect(request, None, now);
        let (target, wait, only_if_found, offline_since) = match admission {
            Admission::Refuse(reply) => return self.refuse(id, &reply.into_bytes()),
            Admission::Open {
                target,
                wait,
                only_if_found,
                offline_since,
                ..
            } => (target, wait, only_if_found, offline_since),
        };
        let node = self.net.flows[id].node;
        let Some(host) = self.hub(at, node) else {
            return;
        };
        let open = OpenRequest {
            target,
            user: None,
            user_budget: None,
            client: String::from("198.51.100.1:1"),
            trace_id: None,
            early: request.early.clone(),
            wait,
            only_if_found,
            offline_since,
            resume: true,
        };
        let net = &mut self.net;
        let flow = &mut net.flows[id];
        flow.opened = true;
        flow.socks[CLIENT].taken = request.early.len() as u64;
        if let Slot::Hub(host) = &mut self.hosts[host] {
            host.opened += 1;
            if !host.machine.is_linked() {
                net.cover.hit("waited for the node's link");
            }
            let stream = host.machine.open(open, now);
            host.add_local(net, stream, id);
            host.settle(net);
        }
        self.check_host(host);
    }
}

fn header(flow: FlowId, node: usize, ask: Ask) -> String {
    let node = match ask {
        Ask::UnknownNode => String::from("no-such-node"),
        _ => node_name(node),
    };
    let port = match ask {
        Ask::ForbiddenPort => FORBIDDEN_PORT_MIN + flow,
        _ => usize::from(crate::flow::port_of(flow)),
    };
    format!("CONNECT {node}:{port} HTTP/1.1\r\nHost: {node}\r\nTraceid: t{flow}\r\n\r\n")
}
