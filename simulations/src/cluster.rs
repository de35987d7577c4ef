//! What is between the replicas: control links, links for nodes, who is told what, and the registry.

use std::collections::BTreeMap;
use std::net::IpAddr;

use proto_core::output::{AttemptId, ClusterOutput, LinkLoss};
use proto_core::registry::{Ask, believed};
use proto_core::replica::{Held, Holder};
use proto_core::{Budget, Machine, Peers, ReplicaId, WallTime};

use crate::host::{Host, Is};
use crate::net::{Event, HostId, MS, Nanos, SEC};
use crate::replica::{name, number};
use crate::setup::RegistryKind;
use crate::wire::{Carries, DOWN, Item, UP, Wire};
use crate::world::{Slot, World};

/// How a line between two replicas is, one way of making connections.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct PeerLine {
    pub(crate) refused_until: Nanos,
    pub(crate) held_until: Nanos,
}

/// What answers where a node is.
#[derive(Debug)]
pub(crate) struct Registry {
    /// The replicas that say they hold a node.
    held: BTreeMap<usize, Vec<usize>>,
    /// What it says meanwhile.
    pub(crate) fault: RegistryFault,
}

impl Registry {
    pub(crate) fn new(fault: RegistryFault) -> Registry {
        Registry {
            held: BTreeMap::new(),
            fault,
        }
    }
}

/// What is wrong with it, until all is healed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum RegistryFault {
    #[default]
    None,
    Empty,
    /// It takes nothing in.
    Stale,
    /// It names the wrong replica.
    Wrong,
    Dead,
}

fn address(replica: usize) -> IpAddr {
    IpAddr::from([10, 0, 0, replica as u8 + 1])
}

impl World {
    /// The control links' machine of a replica that starts.
    pub(crate) fn start_peers(&mut self, replica: usize, budget: &Budget) -> (HostId, ReplicaId) {
        let config = proto_core::peers::PeersConfig {
            reconnect: self.setup.reconnect,
            ..proto_core::peers::PeersConfig::default()
        };
        let (limits, seed) = (self.config.clone(), self.cluster_seeds.seed());
        let machine = Peers::new(config, limits.clone(), budget.clone(), seed);
        let me = machine.me();
        let (habits, node) = (self.setup.cloud_habits, self.control_node());
        let host = self.add_host(|id| {
            let host = Host::new(machine, id, replica, node, Is::Peers, habits, &limits);
            Slot::Peers(Box::new(host))
        });
        (host, me)
    }

    /// It learns where the others are.
    pub(crate) fn find_peers(&mut self, replica: usize) {
        let addresses: Vec<String> = (0..self.setup.cluster.replicas)
            .map(|number| number.to_string())
            .collect();
        if addresses.len() > 1 {
            self.tell_peers(replica, |peers, now| peers.set_addresses(addresses, now));
        }
    }

    fn tell_peers(&mut self, replica: usize, tell: impl FnOnce(&mut Peers, proto_core::Instant)) {
        let host = self.replicas[replica].as_ref().map(|of| of.peers);
        if let Some(Slot::Peers(host)) = host.map(|host| &mut self.hosts[host]) {
            host.input(&mut self.net, tell);
        }
    }

    /// Does what a replica's machine wants of the others.
    pub(crate) fn wish(&mut self, host: HostId, wish: ClusterOutput) {
        let (replica, node) = match &self.hosts[host] {
            Slot::Hub(host) => (host.proc, host.node),
            Slot::Peers(host) => (host.proc, host.node),
            Slot::Empty | Slot::Edge(_) | Slot::Client(_) => return,
        };
        let now = self.net.clock(replica);
        let Some(of) = self.replicas[replica].as_mut() else {
            return;
        };
        match wish {
            ClusterOutput::ConnectPeer {
                attempt,
                replica: to,
            } => {
                let to = of.ways.iter().find(|(_, (id, _))| *id == to);
                let to = to.map(|(_, (_, to))| *to);
                match to.filter(|to| self.lines[replica][*to].refused_until <= self.net.now) {
                    None => self.net.after(MS, Event::PeerRefused(host, attempt)),
                    Some(to) => self.peer_request(host, Carries::Peer, (replica, to), attempt),
                }
            }
            ClusterOutput::DialPeer { attempt, address } => {
                let to = address.parse().unwrap_or(0);
                let line = self.lines[replica][to];
                if self.replicas[to].is_none() || line.refused_until > self.net.now {
                    let latency = self.setup.cluster.peer_shape.latency + MS / 10;
                    return self.net.after(latency, Event::PeerRefused(host, attempt));
                }
                self.peer_request(host, Carries::Control, (replica, to), attempt);
            }
            ClusterOutput::Held(held) => self.held(replica, node, held),
            ClusterOutput::FindNode => match of.answers.ask(&name(node), now) {
                Ask::Known(addresses) => self.found(replica, node, &addresses),
                Ask::Waiting => {}
                Ask::Now => {
                    let delay = match self.registry.fault {
                        RegistryFault::Dead => 5 * SEC,
                        _ => self.net.dice.time(MS, 50 * MS),
                    };
                    self.net.cover.hit("registry asked");
                    let generation = of.generation;
                    self.net
                        .after(delay, Event::Found(replica, generation, node));
                }
            },
            ClusterOutput::WrongNode(wrong) => {
                self.net.cover.hit("registry's answer proved wrong");
                let at = of.ways.values().find(|(id, _)| *id == wrong);
                if let Some((_, at)) = at {
                    of.answers.wrong(&name(node), address(*at), now);
                }
            }
            ClusterOutput::Holders { node, holders } => self.holders(replica, node, holders),
        }
        self.check_host(host);
    }

    fn held(&mut self, replica: usize, node: usize, held: Vec<Held>) {
        self.both_hold(replica, node, &held);
        if self.registry.fault != RegistryFault::Stale {
            let of = self.registry.held.entry(node).or_default();
            of.retain(|other| *other != replica);
            if !held.is_empty() {
                of.push(replica);
            }
        }
        self.tell_peers(replica, |peers, _| peers.held(&name(node), held));
    }

    /// Counts the times when another replica holds a link of the same process, and those when the newer one has the earlier clock.
    fn both_hold(&mut self, replica: usize, node: usize, held: &[Held]) {
        let own = held.iter().filter(|held| !held.draining);
        for own in own {
            for at in (0..self.replicas.len()).filter(|at| *at != replica) {
                let hub = self.replicas[at].as_ref().and_then(|of| of.hubs.get(&node));
                let Some(Slot::Hub(host)) = hub.map(|hub| &self.hosts[*hub]) else {
                    continue;
                };
                let links = host.machine.link_infos();
                let others = links.iter().filter_map(|link| link.instance.as_ref());
                for other in others {
                    let skews = &self.setup.cluster.skews_ms;
                    self.net
                        .cover
                        .hit(match other.is_same_process(&own.instance) {
                            true if skews[replica] < skews[at] => {
                                "two replicas hold a node, the newer with the earlier clock"
                            }
                            true => "two replicas hold a node",
                            false => "two replicas hold two processes of a node",
                        });
                }
            }
        }
    }

    fn holders(&mut self, replica: usize, node: proto_core::name::NodeName, holders: Vec<Holder>) {
        let now = self.net.clock(replica);
        let wall = WallTime::from_unix_seconds(now.as_nanos() / SEC);
        let Some(of) = self.replicas[replica].as_mut() else {
            return;
        };
        of.cloud
            .set_elsewhere(&node, !holders.is_empty(), now, wall);
        let number = number(&node).filter(|number| *number < self.net.nodes.len());
        let hub = number.and_then(|number| of.hubs.get(&number).copied());
        match holders.is_empty() {
            true => of.elsewhere.remove(&node),
            false => of.elsewhere.insert(node, holders.clone()),
        };
        if let Some(Slot::Hub(host)) = hub.map(|hub| &mut self.hosts[hub]) {
            host.input(&mut self.net, |hub, now| hub.set_holders(holders, now));
        }
        if let Some(hub) = hub {
            self.check_host(hub);
        }
    }

    /// The registry answers.
    pub(crate) fn look_up(&mut self, replica: usize, generation: u32, node: usize) {
        let now = self.net.clock(replica);
        let kind = self.setup.cluster.registry;
        let mut at = self.registry.held.get(&node).cloned().unwrap_or_default();
        match self.registry.fault {
            _ if kind == RegistryKind::Memory => at.clear(),
            RegistryFault::Empty | RegistryFault::Dead => at.clear(),
            RegistryFault::Wrong => at = vec![(node + 1) % self.setup.cluster.replicas],
            RegistryFault::None | RegistryFault::Stale => {}
        }
        if kind == RegistryKind::Slices {
            at.retain(|at| self.replicas[*at].is_some());
        }
        let addresses = at.into_iter().map(address).collect();
        let Some(of) = self.replicas[replica].as_mut() else {
            return;
        };
        if of.generation == generation {
            let found = of.answers.answered(&name(node), addresses, now);
            if !found.is_empty() {
                self.net.cover.hit("registry says where a node is");
            }
            self.found(replica, node, &found);
        }
    }

    fn found(&mut self, replica: usize, node: usize, addresses: &[IpAddr]) {
        let Some(of) = self.replicas[replica].as_ref() else {
            return;
        };
        let ways = of.ways.values().map(|(id, at)| (*id, address(*at)));
        let found = believed(addresses, ways);
        if let Some(Slot::Hub(host)) = of.hubs.get(&node).map(|hub| &mut self.hosts[*hub]) {
            host.input(&mut self.net, |hub, now| hub.handle_found(found, now));
        }
    }

    /// A request for a link leaves for another replica.
    fn peer_request(
        &mut self,
        host: HostId,
        carries: Carries,
        (from, to): (usize, usize),
        attempt: AttemptId,
    ) {
        let node = match &self.hosts[host] {
            Slot::Hub(host) => host.node,
            _ => self.control_node(),
        };
        let id = self.net.wires.len();
        let mut wire = Wire::new(carries, node, to, self.setup.cluster.peer_shape);
        (wire.from, wire.attempt) = (Some(from), Some(attempt));
        wire.ends[UP].host = Some(host);
        self.net.add_wire(wire);
        let held = self.lines[from][to].held_until;
        for direction in [UP, DOWN] {
            self.net.hold(id, direction, held);
        }
        let (item, patience) = match carries {
            Carries::Control => {
                let me = self.replicas[from].as_ref().map(|of| of.me);
                let Some(me) = me else { return };
                (Item::Control(me), 10 * SEC)
            }
            _ => (Item::Peer, 5 * SEC),
        };
        self.net.send(id, UP, item);
        self.net.after(patience, Event::PeerTimeout(id));
    }

    /// No answer has come, and none will be heard.
    pub(crate) fn peer_timeout(&mut self, wire: usize) {
        let Some(attempt) = self.net.wires[wire].attempt.take() else {
            return;
        };
        self.net.leave(wire, UP, LinkLoss::Closed);
        if let Some(host) = self.net.wires[wire].ends[UP].host {
            self.peer_refused(host, attempt);
        }
    }

    pub(crate) fn peer_refused(&mut self, id: HostId, attempt: AttemptId) {
        let why = LinkLoss::Refused;
        match &mut self.hosts[id] {
            Slot::Hub(host) => host.input(&mut self.net, |hub, now| {
                hub.peer_link_failed(attempt, why, now)
            }),
            Slot::Peers(host) => host.input(&mut self.net, |peers, now| {
                peers.link_failed(attempt, why, now)
            }),
            Slot::Empty | Slot::Edge(_) | Slot::Client(_) => {}
        }
        self.check_host(id);
    }

    /// Another replica asks for a link, for one node.
    pub(crate) fn accept_peer(&mut self, wire: usize) {
        let (replica, node) = (self.net.wires[wire].to, self.net.wires[wire].node);
        let Some(host) = self.hub(replica, node) else {
            return self.net.cut(wire, DOWN, MS);
        };
        self.net.send(wire, DOWN, Item::Headers { version_1: true });
        if let Slot::Hub(host) = &mut self.hosts[host] {
            let now = self.net.clock(replica);
            let link = host.machine.peer_up(String::from("a replica"), now);
            host.add_link(&mut self.net, link, wire, DOWN);
            host.settle(&mut self.net);
        }
        self.check_host(host);
    }

    /// The same, on which it says what it holds.
    pub(crate) fn accept_control(&mut self, wire: usize, from: ReplicaId) {
        let replica = self.net.wires[wire].to;
        let Some(of) = &self.replicas[replica] else {
            return self.net.cut(wire, DOWN, MS);
        };
        let (host, me) = (of.peers, of.me);
        self.net.send(wire, DOWN, Item::Joined(me));
        let Slot::Peers(host) = &mut self.hosts[host] else {
            return;
        };
        let now = self.net.clock(replica);
        match host.machine.link_made(from, String::from("a replica"), now) {
            Some(link) => host.add_link(&mut self.net, link, wire, DOWN),
            None => self.net.leave(wire, DOWN, LinkLoss::Closed),
        }
        host.settle(&mut self.net);
    }

    /// A link to another replica is there.
    pub(crate) fn peer_headers(&mut self, wire: usize, id: HostId) {
        let Some(attempt) = self.net.wires[wire].attempt.take() else {
            return;
        };
        if let Slot::Hub(host) = &mut self.hosts[id] {
            let now = self.net.clock(host.proc);
            let link = host
                .machine
                .peer_link_up(attempt, String::from("a replica"), now);
            match link {
                Some(link) => host.add_link(&mut self.net, link, wire, UP),
                None => self.net.leave(wire, UP, LinkLoss::Closed),
            }
            host.settle(&mut self.net);
        }
    }

    /// So is a control link.
    pub(crate) fn joined(&mut self, wire: usize, id: HostId, replica: ReplicaId) {
        let Some(attempt) = self.net.wires[wire].attempt.take() else {
            return;
        };
        if let Slot::Peers(host) = &mut self.hosts[id] {
            let (from, to) = (host.proc, self.net.wires[wire].to);
            let now = self.net.clock(from);
            let remote = String::from("a replica");
            match host.machine.link_up(attempt, replica, remote, now) {
                Some(link) => {
                    host.add_link(&mut self.net, link, wire, UP);
                    if let Some(of) = self.replicas[from].as_mut() {
                        of.ways.insert(link, (replica, to));
                    }
                    self.net.cover.hit("another replica reached");
                }
                None => self.net.leave(wire, UP, LinkLoss::Closed),
            }
            host.settle(&mut self.net);
        }
    }

    /// The wires that one replica has made to another.
    pub(crate) fn peer_wires(&self, from: usize, to: usize) -> Vec<usize> {
        let live = |wire: &usize| {
            let wire = &self.net.wires[*wire];
            wire.from == Some(from) && wire.to == to && !wire.is_over()
        };
        self.net.live.iter().copied().filter(live).collect()
    }

    /// Once a second: between which replicas the way is whole, both ways.
    pub(crate) fn look_for_pairs(&mut self) {
        let replicas = self.setup.cluster.replicas;
        let (shape, now) = (self.setup.cluster.peer_shape, self.net.now);
        let is_up = |at: usize| self.replicas[at].is_some();
        let is_awake = |at: usize| self.net.procs[at].paused_until <= now;
        let mut joined = vec![vec![false; replicas]; replicas];
        for wire in &self.net.live {
            let wire = &self.net.wires[*wire];
            let is_whole = wire.carries == Carries::Control
                && wire.ends.iter().all(|end| end.link.is_some() && !end.mute)
                && wire.is_flowing(now, shape);
            if let (true, Some(from)) = (is_whole, wire.from) {
                joined[from][wire.to] = true;
            }
        }
        let mut whole = vec![vec![false; replicas]; replicas];
        for (from, row) in whole.iter_mut().enumerate() {
            for (to, whole) in row.iter_mut().enumerate() {
                let ready = is_up(from) && is_up(to) && is_awake(from) && is_awake(to);
                *whole = ready && (from == to || joined[from][to] && joined[to][from]);
            }
        }
        for (from, row) in whole.into_iter().enumerate() {
            // One whose line to any other is held may still believe what that has said.
            let all = (0..replicas).all(|to| row[to] || !is_up(to));
            for (to, whole) in row.into_iter().enumerate() {
                let since = &mut self.net.pairs[from][to];
                *since = match whole && all {
                    true => since.or(Some(now)),
                    false => None,
                };
            }
        }
    }

    /// Nobody is told of links that are meant for nobody: their own index among the nodes.
    pub(crate) fn control_node(&self) -> usize {
        self.setup.nodes.len()
    }
}
