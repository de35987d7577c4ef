//! The replica's process: the CONNECT front, the core's `Cloud`, and a hub for each node that has a link or a stream here.

use std::collections::BTreeMap;

use bytes::Bytes;
use proto_core::cloud::{Admission, CloudConfig};
use proto_core::connect::{Connect, ConnectRequest, Limits, Step};
use proto_core::hub::{LinkUp, OpenRequest};
use proto_core::name::NodeName;
use proto_core::output::LinkLoss;
use proto_core::{Budget, Cloud, Dialect, Instance, Machine, NodeHub};

use crate::flow::{Ask, CLIENT, End};
use crate::host::Host;
use crate::net::{CLOUD, Event, FlowId, HostId};
use crate::pattern;
use crate::sniff::{FORBIDDEN_PORT_MIN, node_name};
use crate::wire::{DOWN, Item};
use crate::world::{Slot, World};

pub(crate) struct Replica {
    pub(crate) cloud: Cloud,
    pub(crate) budget: Budget,
    pub(crate) hubs: BTreeMap<usize, HostId>,
}

/// A node's name; the rogue's and ours alike.
pub(crate) fn name(node: usize) -> NodeName {
    NodeName::parse(&node_name(node)).expect("it is a name")
}

impl World {
    pub(crate) fn start_replica(&mut self) {
        let budget = Budget::new(self.setup.cloud_bytes_max);
        let mut cloud = Cloud::new(
            CloudConfig::default(),
            budget.clone(),
            self.net.clock(CLOUD),
        );
        cloud.set_listed((0..self.net.nodes.len()).map(name));
        self.replica = Some(Replica {
            cloud,
            budget,
            hubs: BTreeMap::new(),
        });
    }

    /// SIGKILL.
    pub(crate) fn kill_replica(&mut self) {
        let Some(replica) = self.replica.take() else {
            return;
        };
        for flow in &mut self.net.flows {
            flow.orphaned |= flow.is_live() || flow.opened && flow.records[0].is_none();
        }
        for host in replica.hubs.into_values() {
            if self.kill(host, 1_000_000) {
                self.net.cover.hit("replica restarted with streams");
            }
        }
        for flow in 0..self.net.flows.len() {
            if self.net.flows[flow].front.take().is_some() {
                self.net.close_sock(flow, CLIENT, true);
            }
        }
    }

    /// The node's hub; one is made if there is none.
    fn hub(&mut self, node: usize) -> Option<HostId> {
        let replica = self.replica.as_mut()?;
        if let Some(host) = replica.hubs.get(&node) {
            return Some(*host);
        }
        let machine = NodeHub::new(
            name(node),
            self.config.clone(),
            replica.budget.quarter(),
            self.seeds.seed(),
        );
        let (habits, config) = (self.setup.cloud_habits, self.config.clone());
        let host = self.add_host(|id| {
            let hub = Host::new(machine, id, CLOUD, node, DOWN, habits, &config);
            Slot::Hub(Box::new(hub))
        });
        if let Some(replica) = self.replica.as_mut() {
            replica.hubs.insert(node, host);
        }
        Some(host)
    }

    /// A hub without links and streams goes.
    pub(crate) fn drop_idle_hub(&mut self, host: HostId) {
        let Slot::Hub(hub) = &self.hosts[host] else {
            return;
        };
        if hub.machine.is_idle() && hub.is_quiet() && hub.opened > 0 {
            let node = hub.node;
            if let Some(deadline) = hub.machine.deadline() {
                self.net.fail("nothing left", || {
                    format!("an idle hub has a deadline: {deadline:?}")
                });
            }
            self.net.cover.hit("hub dropped");
            self.hosts[host] = Slot::Empty;
            if let Some(replica) = &mut self.replica {
                replica.hubs.remove(&node);
            }
        }
    }

    /// An edge's request for a link has come.
    pub(crate) fn accept(&mut self, wire: usize, version_1: bool, instance: Option<Instance>) {
        let now = self.net.clock(CLOUD);
        let node = self.net.wires[wire].node;
        let Some(replica) = &mut self.replica else {
            return self.net.cut(wire, DOWN, 1_000_000);
        };
        if let Err(refusal) = replica.cloud.admit_link(now) {
            let why = LinkLoss::Unavailable {
                pushback: refusal.pushback,
            };
            return self.net.leave(wire, DOWN, why);
        }
        let Some(host) = self.hub(node) else { return };
        let dialect = if version_1 {
            Dialect::V1
        } else {
            Dialect::Base
        };
        self.net.wires[wire].base = dialect == Dialect::Base;
        self.net.send(wire, DOWN, Item::Headers { version_1 });
        let up = LinkUp {
            dialect,
            instance,
            spelling: name(node),
            remote: String::from("192.0.2.1:1"),
            draining: false,
            wall_ms: 0,
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
            host.add_link(net, link, wire);
            host.settle(net);
        }
        self.check_host(host);
    }

    // The CONNECT front.

    /// A piece of the client's header arrives; the last brings the early bytes.
    pub(crate) fn front(&mut self, id: FlowId, piece: usize) {
        let now = self.net.clock(CLOUD);
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
                let deadline = self.net.when(CLOUD, front.deadline());
                self.net.flows[id].front = Some(front);
                if piece == 0 {
                    self.net.schedule(deadline, Event::FrontTimeout(id));
                }
            }
            Step::Request(request) => self.admit(id, &request),
            Step::Refuse(reply) => self.refuse(id, &reply.into_bytes()),
        }
        let _ = now;
    }

    fn arrive(&mut self, id: FlowId) {
        let (now, node) = (self.net.now, self.net.flows[id].node);
        let front = Connect::new(Limits::default(), self.net.clock(CLOUD));
        let up = self.replica.is_some();
        let state = &self.net.nodes[node];
        let excuse = match () {
            () if state.rogue => Some("rogue"),
            () if now < state.excused_until => Some("opened while disturbed"),
            () => None,
        };
        let flow = &mut self.net.flows[id];
        flow.asked_at = Some(now);
        flow.excuse = flow.excuse.or(excuse);
        if now < state.fatal_until {
            flow.fatal = Some("opened while processes came and went");
        }
        flow.socks[CLIENT].connected = up;
        if up {
            flow.front = Some(front);
        } else {
            // Nothing listens: no connection, no reply.
            flow.orphaned = true;
            flow.excuse = Some("no replica");
            flow.socks[CLIENT].end = Some(End::Reset);
        }
    }

    pub(crate) fn front_timeout(&mut self, id: FlowId) {
        let now = self.net.clock(CLOUD);
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
        let now = self.net.clock(CLOUD);
        let Some(replica) = &mut self.replica else {
            return;
        };
        let (target, wait, offline_since) = match replica.cloud.admit_connect(request, None, now) {
            Admission::Refuse(reply) => return self.refuse(id, &reply.into_bytes()),
            Admission::Open {
                target,
                wait,
                offline_since,
                ..
            } => (target, wait, offline_since),
        };
        let node = self.net.flows[id].node;
        let Some(host) = self.hub(node) else { return };
        let open = OpenRequest {
            target,
            user: None,
            user_budget: None,
            client: String::from("198.51.100.1:1"),
            trace_id: None,
            early: request.early.clone(),
            wait,
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
