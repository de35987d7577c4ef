//! The operators' commands: each holds one stream, by links to whichever replica takes them.

use bytes::Bytes;
use proto_core::auth::Rights;
use proto_core::client::ClientConfig;
use proto_core::hub::ClientUp;
use proto_core::output::{ClientOutput, LinkLoss, NotOpened};
use proto_core::reason::ConnectRefusal;
use proto_core::target::Target;
use proto_core::{Budget, Client, Machine};

use crate::flow::{CLIENT, Via};
use crate::host::{Habits, Host, Is};
use crate::net::{Event, FlowId, HostId, MS, Net, Proc, nanos};
use crate::pattern;
use crate::replica::name;
use crate::wire::{Carries, DOWN, Item};
use crate::world::{ClientProc, Slot, World};

impl World {
    /// Somebody calls the command.
    pub(crate) fn start_client(&mut self, id: FlowId) {
        self.arrive(id);
        let plan = self.net.flows[id].plan;
        let (node, proc) = (plan.node, self.net.procs.len());
        self.net.procs.push(Proc::default());
        let budget = Budget::new(self.setup.edge_bytes_max);
        let config = ClientConfig {
            node: name(node),
            addresses: self.setup.cluster.replicas,
            reconnect: self.setup.reconnect,
            limits: (*self.config).clone(),
        };
        let (now, seed) = (self.net.clock(proc), self.cluster_seeds.seed());
        let machine = Client::new(config, budget.clone(), seed, now);
        let limits = self.config.clone();
        let (min, max) = (
            nanos(self.setup.reconnect.min),
            nanos(self.setup.reconnect.max),
        );
        let host = self.add_host(|id| {
            let mut host = Host::new(
                machine,
                id,
                proc,
                node,
                Is::Client,
                Habits::default(),
                &limits,
            );
            (host.reconnect_min, host.reconnect_max) = (min, max);
            Slot::Client(Box::new(host))
        });
        self.clients.push(ClientProc {
            host,
            flow: id,
            budget,
        });
        let early = pattern::slice(id, CLIENT, 0, plan.early as usize);
        let flow = &mut self.net.flows[id];
        flow.opened = true;
        flow.socks[CLIENT].connected = true;
        (flow.socks[CLIENT].written, flow.socks[CLIENT].taken) = (plan.early, plan.early);
        let Some(target) = Target::loopback(flow.port()) else {
            return;
        };
        if let Slot::Client(host) = &mut self.hosts[host] {
            let stream = host.machine.open(&target, Bytes::from_static(early), now);
            host.add_local(&mut self.net, stream, id);
            host.settle(&mut self.net);
        }
        self.net.cover.hit("client started");
    }

    /// A client's request for a link has come.
    pub(crate) fn accept_client(&mut self, wire: usize) {
        let (replica, node) = (self.net.wires[wire].to, self.net.wires[wire].node);
        let now = self.net.clock(replica);
        let Some(of) = self.replicas[replica].as_mut() else {
            return self.net.cut(wire, DOWN, MS);
        };
        let admitted = of.cloud.admit_link(now);
        self.net
            .asked
            .push((replica, self.net.now, admitted.is_ok()));
        if let Err(refusal) = admitted {
            let why = LinkLoss::Unavailable {
                pushback: refusal.pushback,
            };
            return self.net.leave(wire, DOWN, why);
        }
        let up = ClientUp {
            user: None,
            rights: Rights::everything(),
            remote: String::from("203.0.113.7:1"),
            only_if_found: None,
            offline_since: of.cloud.offline_since(&name(node)),
            resume: true,
        };
        let Some(host) = self.hub(replica, node) else {
            return;
        };
        self.net.send(wire, DOWN, Item::Headers { version_1: true });
        if let Slot::Hub(host) = &mut self.hosts[host] {
            let link = host.machine.client_up(up, now);
            host.add_link(&mut self.net, link, wire, DOWN);
            host.settle(&mut self.net);
        }
        self.check_host(host);
    }

    /// Its stream is over: the command ends.
    pub(crate) fn client_done(&mut self, id: HostId) {
        if let Slot::Client(host) = &mut self.hosts[id] {
            host.input(&mut self.net, |client, now| client.shut_down(now));
        }
        self.check_client(id);
    }

    /// One that has ended leaves nothing behind.
    pub(crate) fn check_client(&mut self, id: HostId) {
        let Slot::Client(host) = &self.hosts[id] else {
            return;
        };
        if !host.machine.has_ended() || !host.is_quiet() {
            return;
        }
        let deadline = host.machine.deadline();
        let client = self.clients.iter().find(|client| client.host == id);
        let used = client.map_or(0, |client| client.budget.used());
        if used > 0 || deadline.is_some() || !host.machine.is_idle() {
            self.net.fail("nothing left", || {
                format!("a client has ended with {used} bytes, deadline {deadline:?}")
            });
        }
        self.hosts[id] = Slot::Empty;
    }

    /// The wires of clients, all or of one flow.
    pub(crate) fn client_wires(&self, of: Option<FlowId>) -> Vec<usize> {
        let live = |id: &usize| {
            let wire = &self.net.wires[*id];
            match wire.carries {
                Carries::Client(flow) => of.is_none_or(|of| of == flow) && !wire.is_over(),
                Carries::Edge | Carries::Peer | Carries::Control => false,
            }
        };
        self.net.live.iter().copied().filter(live).collect()
    }

    /// Once a second: which clients have a whole way to a replica that stays.
    pub(crate) fn look_for_client_ways(&mut self) {
        let (shape, now) = (self.setup.cluster.client_shape, self.net.now);
        let mut ways = vec![None; self.net.flows.len()];
        for wire in self.client_wires(None) {
            let wire = &self.net.wires[wire];
            let Carries::Client(flow) = wire.carries else {
                continue;
            };
            let linked = wire
                .ends
                .iter()
                .all(|end| end.link.is_some() && !end.mute && !end.deaf);
            let stays = self.replicas[wire.to]
                .as_ref()
                .is_some_and(|of| !of.cloud.is_draining());
            let awake = self.net.procs[wire.to].paused_until <= now;
            if linked && stays && awake && wire.is_flowing(now, shape) {
                ways[flow] = Some(wire.to);
            }
        }
        for (flow, way) in self.net.flows.iter_mut().zip(ways) {
            if flow.plan.via == Via::Client {
                let since = flow.client_way.filter(|(_, at)| Some(*at) == way);
                flow.client_way = way.map(|at| since.unwrap_or((now, at)));
            }
        }
    }
}

impl<M: Machine> Host<M> {
    /// What a client's user hears.
    pub(crate) fn told(&mut self, net: &mut Net, told: ClientOutput) {
        let (id, status) = match told {
            ClientOutput::Opened { id } => (id, 200),
            ClientOutput::NotOpened { id, why } => match why {
                NotOpened::NoLink(_) => (id, 503),
                NotOpened::Refused { reason, .. } => (id, ConnectRefusal::from(reason).status()),
            },
            ClientOutput::Reconnecting => return net.cover.hit("client says that it reconnects"),
            ClientOutput::Back => return net.cover.hit("client says that it is back"),
        };
        if let Some(flow) = self.flows.get(&id).copied() {
            net.answered(flow, Some(status));
        }
    }

    pub(crate) fn client_ended(&self, net: &mut Net) {
        if self.is == Is::Client {
            net.after(MS, Event::ClientDone(self.id));
        }
    }
}
