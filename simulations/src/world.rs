//! A whole fleet in one thread: the machines that ship, their drivers, the network and the apps, one event after the other.

use std::collections::BTreeMap;
use std::sync::Arc;

use proto_core::{Budget, Client, Config, Edge, NodeHub, Peers, WallTime};

use crate::cluster::{PeerLine, Registry};

use crate::draw::{Concern, Draw};
use crate::excuses::Excuses;
use crate::faults::{Fault, Policy};
use crate::flow::{FlowPlan, Via};
use crate::host::Host;
use crate::net::{Event, FlowId, HostId, Nanos, Net, NodeState, Note, Proc, SEC, nanos};
use crate::replica::{Replica, name};
use crate::setup::{NodePlan, Setup};
use crate::wire::{Carries, Item, Shape, UP};

/// A driver and its machine, until the process or the hub goes.
pub(crate) enum Slot {
    Empty,
    Hub(Box<Host<NodeHub>>),
    Edge(Box<Host<Edge>>),
    Client(Box<Host<Client>>),
    Peers(Box<Host<Peers>>),
}

/// Runs the same for either kind of host.
macro_rules! with_host {
    ($slot:expr, $host:ident => $body:expr) => {
        match $slot {
            crate::world::Slot::Empty => {}
            crate::world::Slot::Hub($host) => $body,
            crate::world::Slot::Edge($host) => $body,
            crate::world::Slot::Client($host) => $body,
            crate::world::Slot::Peers($host) => $body,
        }
    };
}

pub(crate) use with_host;

/// An operator's command.
pub(crate) struct ClientProc {
    pub(crate) host: HostId,
    pub(crate) flow: FlowId,
    pub(crate) budget: Budget,
}

/// An edge process.
pub(crate) struct EdgeProc {
    pub(crate) node: usize,
    pub(crate) proc: usize,
    pub(crate) host: Option<HostId>,
    pub(crate) budget: Budget,
    pub(crate) twin: bool,
    /// It has had its SIGTERM.
    pub(crate) leaves: bool,
}

/// See the module.
pub(crate) struct World {
    pub(crate) net: Net,
    pub(crate) hosts: Vec<Slot>,
    pub(crate) config: Arc<Config>,
    pub(crate) setup: Setup,
    pub(crate) replicas: Vec<Option<Replica>>,
    pub(crate) generations: u32,
    /// A rolling update goes on with this replica.
    pub(crate) roll_next: Option<usize>,
    pub(crate) clients: Vec<ClientProc>,
    pub(crate) lines: Vec<Vec<PeerLine>>,
    pub(crate) registry: Registry,
    pub(crate) client_policy: (Policy, u64),
    pub(crate) cluster_seeds: Draw,
    pub(crate) edges: Vec<EdgeProc>,
    /// Which of them a host is of.
    pub(crate) edge_of: BTreeMap<HostId, usize>,
    pub(crate) policies: Vec<(Policy, u64)>,
    pub(crate) faults: Vec<Fault>,
    pub(crate) rogue: crate::rogue::Rogue,
    pub(crate) seeds: Draw,
    pub(crate) proofs: Vec<FlowId>,
}

impl World {
    pub(crate) fn new(seed: u64, keep: Option<&[usize]>) -> World {
        let mut faults = crate::faults::draw(seed);
        if let Some(keep) = keep {
            for (at, fault) in faults.iter_mut().enumerate() {
                fault.on = keep.contains(&at);
            }
        }
        let mut setup = Setup::draw(
            seed,
            crate::faults::of_drivers(&faults),
            crate::upsets::rolls(seed),
        );
        let flows = std::mem::take(&mut setup.flows);
        let mut world = World::of(seed, setup, faults);
        for (at, mut plan) in flows.into_iter().enumerate() {
            if at % 2 == 0 {
                // The other half comes when all is well, and has no excuse.
                plan.at = world.proof_at() + plan.at % (5 * SEC);
            }
            world.net.add_flow(plan);
        }
        world.schedule_faults();
        for (at, event) in [
            (world.setup.heal_at, Event::Heal),
            (SEC, Event::Tick),
            (world.proof_at(), Event::Proof),
            (world.finish_at(), Event::Finish),
            (world.shut_down_at(), Event::ShutDown),
            (world.end_at() - 2 * SEC, Event::EndPeers),
            (world.end_at(), Event::End),
        ] {
            world.net.schedule(at, event);
        }
        world
    }

    /// A fleet that starts, and to which nothing happens yet.
    pub(crate) fn of(seed: u64, setup: Setup, faults: Vec<Fault>) -> World {
        let mut net = Net::new(Draw::new(seed, Concern::Network));
        (net.tight, net.resume) = (setup.tight, setup.config.streams.resume);
        net.base_bytes_max = setup.config.streams.base_buffer_bytes_max
            + setup.config.links.message_bytes_max as u64;
        net.window_bytes_max = setup.config.streams.window_bytes_max;
        let mut world = World {
            net,
            hosts: Vec::new(),
            config: Arc::new(setup.config.clone()),
            replicas: Vec::new(),
            generations: 0,
            roll_next: None,
            clients: Vec::new(),
            lines: Vec::new(),
            registry: Registry::new(setup.cluster.registry_fault),
            client_policy: (Policy::Normal, 0),
            cluster_seeds: Draw::new(seed, Concern::ClusterSeeds),
            edges: Vec::new(),
            edge_of: BTreeMap::new(),
            policies: Vec::new(),
            faults,
            rogue: crate::rogue::Rogue::new(Draw::new(seed, Concern::Rogue)),
            seeds: Draw::new(seed, Concern::Seeds),
            proofs: Vec::new(),
            setup,
        };
        for _ in 0..world.setup.nodes.len() {
            world.add_node();
        }
        world.add_node(); // That of control links.
        let replicas = world.setup.cluster.replicas;
        world.net.replicas = replicas;
        world.net.excuses = Excuses::new(replicas);
        world.net.pairs = vec![vec![None; replicas]; replicas];
        world.net.drain_max = nanos(world.config.links.drain_max);
        world.net.relay_bytes_max = world.config.streams.relay_bytes_max;
        world.lines = vec![vec![PeerLine::default(); replicas]; replicas];
        for _ in 0..replicas {
            world.net.procs.push(Proc::default());
            world.replicas.push(None);
        }
        for replica in 0..replicas {
            world.start_replica(replica);
        }
        for replica in 0..replicas {
            world.find_peers(replica);
        }
        for node in 0..world.setup.nodes.len() {
            world.add_edge(node, false);
        }
        world
    }

    pub(crate) fn add_node(&mut self) {
        self.net.nodes.push(NodeState::default());
        self.policies.push((Policy::Normal, 0));
    }

    /// When every link is up again, at the latest: a dead one is noticed, the longest pause, a try that hangs, a round trip.
    pub(crate) fn proof_at(&self) -> u64 {
        let longest = nanos(self.setup.reconnect.max);
        self.setup.heal_at + 15 * SEC + longest * 2 + 5 * SEC
    }

    /// When apps that never read or never end begin to.
    pub(crate) fn finish_at(&self) -> u64 {
        self.proof_at() + 10 * SEC
    }

    /// When every stream is over, at the latest: the base dialect's half-closed streams take longest.
    pub(crate) fn shut_down_at(&self) -> u64 {
        let expired = self.proof_at() + nanos(self.config.streams.grace) + 30 * SEC;
        (self.finish_at() + 80 * SEC).max(expired)
    }

    /// When nothing is left: hubs keep links to other replicas for a minute.
    fn end_at(&self) -> u64 {
        let cluster = &self.setup.cluster;
        let patience = match cluster.replicas {
            1 if cluster.client_one_in.is_none() => 10,
            _ => 80,
        };
        self.shut_down_at() + patience * SEC
    }

    /// Runs to the end or to the first finding.
    pub(crate) fn run(&mut self) {
        while self.net.failure.is_none() {
            let Some(event) = self.net.next() else { break };
            if matches!(event, Event::End) {
                self.check_end();
                break;
            }
            self.step(event);
        }
    }

    /// Runs up to a time, or to the first finding.
    pub(crate) fn run_until(&mut self, at: Nanos) {
        while self.net.failure.is_none() {
            let Some(event) = self.net.next_until(at) else {
                break;
            };
            self.step(event);
        }
    }

    fn step(&mut self, event: Event) {
        if let Some(proc) = self.proc_of(event) {
            let until = self.net.procs[proc].paused_until;
            if until > self.net.now {
                return self.net.schedule(until, event);
            }
        }
        self.handle(event);
        self.take_notes();
    }

    /// The process that takes part in an event: nothing reaches it while it is paused.
    fn proc_of(&self, event: Event) -> Option<usize> {
        let host = match event {
            Event::Wake(host)
            | Event::Timer(host, _)
            | Event::Room(host, _)
            | Event::Socket(host, _)
            | Event::Dialed(host, ..)
            | Event::Attempt(host, _)
            | Event::AttemptFailed(host, ..)
            | Event::PeerRefused(host, _)
            | Event::ClientDone(host)
            | Event::Loss(host, ..) => host,
            Event::Deliver(wire, direction) => {
                let to = self.net.wires[wire].to;
                let end = &self.net.wires[wire].ends[1 - direction];
                match end.host {
                    Some(host) => host,
                    None => return (direction == UP && !end.rogue).then_some(to),
                }
            }
            Event::Front(flow, _) | Event::FrontTimeout(flow) => {
                return self.net.flows[flow].opener_at();
            }
            Event::Found(replica, ..) | Event::DrainLook(replica, _) => return Some(replica),
            _ => return None,
        };
        match &self.hosts[host] {
            Slot::Empty => None,
            Slot::Hub(host) => Some(host.proc),
            Slot::Edge(host) => Some(host.proc),
            Slot::Client(host) => Some(host.proc),
            Slot::Peers(host) => Some(host.proc),
        }
    }

    fn handle(&mut self, event: Event) {
        let net = &mut self.net;
        match event {
            Event::Wake(host) => with_host!(&mut self.hosts[host], host => host.wake(net)),
            Event::Timer(host, at) => {
                with_host!(&mut self.hosts[host], host => host.timer(net, at))
            }
            Event::Room(host, link) => {
                with_host!(&mut self.hosts[host], host => host.room(net, link));
            }
            Event::Socket(host, id) => {
                with_host!(&mut self.hosts[host], host => host.socket(net, id))
            }
            Event::Dialed(host, id, flow, failure) => {
                with_host!(&mut self.hosts[host], host => host.dialed(net, id, flow, failure));
            }
            Event::Loss(host, link, why) => {
                with_host!(&mut self.hosts[host], host => host.lost(net, link, why));
            }
            Event::App(flow, side) => net.app_turn(flow, side),
            Event::Deliver(wire, direction) => self.deliver(wire, direction),
            Event::Front(flow, piece) => self.front(flow, piece),
            Event::FrontTimeout(flow) => self.front_timeout(flow),
            Event::Attempt(host, attempt) => self.attempt(host, attempt),
            Event::AttemptFailed(host, attempt, why) => self.attempt_failed(host, attempt, why),
            Event::Fault(fault) => self.fault(fault),
            Event::FaultEnd(fault) => self.fault_end(fault),
            Event::Restart(edge) => self.restart(edge),
            Event::EdgeLook(edge) => self.edge_look(edge),
            Event::Upgrade(node, leaves) => self.upgrade(node, leaves, 1),
            Event::Rogue(wire) => self.rogue_turn(wire),
            Event::PeerRefused(host, attempt) => self.peer_refused(host, attempt),
            Event::PeerTimeout(wire) => self.peer_timeout(wire),
            Event::Found(replica, generation, node) => self.look_up(replica, generation, node),
            Event::DrainLook(replica, generation) => self.drain_look(replica, generation),
            Event::DrainReplica(replica) => self.drain_replica(replica),
            Event::RestartReplica(replica) => self.restart_replica(replica),
            Event::ClientStart(flow) => self.start_client(flow),
            Event::ClientDone(host) => self.client_done(host),
            Event::EndPeers => self.end_peers(),
            Event::Tick => {
                self.net.look_for_live();
                self.look_for_pairs();
                self.look_for_client_ways();
                self.look_for_ways();
                self.check_tick();
                self.net.after(SEC, Event::Tick);
            }
            Event::Heal => self.heal(),
            Event::Proof => self.prove(),
            Event::Finish => self.net.finish_apps(),
            Event::ShutDown => self.shut_down(),
            Event::End => {}
        }
        if let Some(host) = event_host(event) {
            self.check_host(host);
        }
    }

    fn deliver(&mut self, wire: usize, direction: usize) {
        let Some(item) = self.net.arrival(wire, direction) else {
            return;
        };
        let sender = &self.net.wires[wire].ends[direction];
        let (sender, sender_link) = (sender.host, sender.link);
        let receiver = &self.net.wires[wire].ends[1 - direction];
        let (host, link, rogue) = (receiver.host, receiver.link, receiver.rogue);
        let net = &mut self.net;
        match item {
            _ if rogue => self.rogue_hears(wire, item),
            Item::Request {
                version_1,
                instance,
                draining,
            } => self.accept(wire, version_1, instance, draining),
            Item::Client => self.accept_client(wire),
            Item::Peer => self.accept_peer(wire),
            Item::Control(from) => self.accept_control(wire, from),
            Item::Joined(replica) => {
                if let Some(host) = host {
                    self.joined(wire, host, replica);
                }
            }
            Item::Headers { version_1 } => match (host.map(|host| &mut self.hosts[host]), link) {
                (Some(Slot::Edge(host)), Some(link)) => {
                    host.input(net, |edge, now| edge.link_established(link, version_1, now));
                }
                (Some(Slot::Client(host)), Some(link)) => host.input(net, |client, now| {
                    client.link_established(link, version_1, now);
                }),
                (Some(Slot::Hub(host)), _) => {
                    let host = host.id;
                    self.peer_headers(wire, host);
                }
                _ => {}
            },
            Item::Message(msg) => {
                if let Some(host) = host {
                    with_host!(&mut self.hosts[host], host => host.message(net, wire, direction, msg));
                }
            }
            Item::End(why) => {
                if let (Some(host), Some(link)) = (host, link) {
                    with_host!(&mut self.hosts[host], host => host.transport_lost(net, link, why));
                } else if direction == crate::wire::DOWN {
                    self.peer_timeout(wire);
                }
            }
        }
        if let Some(host) = host {
            self.check_host(host);
        }
        // There is room for another.
        if let (Some(host), Some(link)) = (sender, sender_link) {
            with_host!(&mut self.hosts[host], host => host.room(&mut self.net, link));
        }
    }

    fn take_notes(&mut self) {
        while !self.net.notes.is_empty() {
            for note in std::mem::take(&mut self.net.notes) {
                self.take_note(note);
            }
        }
    }

    fn take_note(&mut self, note: Note) {
        let at = match &note {
            Note::LinkUp(at, _)
            | Note::LinkDown(at, _)
            | Note::StreamEnded(at)
            | Note::WayGone(at, _) => *at,
            Note::Cluster(host, wish) => return self.wish(*host, wish.clone()),
        };
        let now = self.net.clock(at);
        let Some(replica) = &mut self.replicas[at] else {
            return;
        };
        match note {
            Note::LinkUp(_, node) => replica.cloud.link_up(&name(node)),
            Note::LinkDown(_, node) => {
                let wall = WallTime::from_unix_seconds(now.as_nanos() / SEC);
                replica.cloud.link_down(&name(node), now, wall);
            }
            Note::StreamEnded(_) => replica.cloud.connect_ended(),
            Note::WayGone(_, link) => {
                replica.ways.remove(&link);
            }
            Note::Cluster(..) => {}
        }
    }

    /// A host's process is gone: its sockets close, its connections break.
    pub(crate) fn kill(&mut self, host: HostId, loss_delay: u64) -> bool {
        let slot = std::mem::replace(&mut self.hosts[host], Slot::Empty);
        let net = &mut self.net;
        let mut had_streams = false;
        with_host!(slot, host => {
            let side = host.side();
            for (id, local) in &host.locals {
                had_streams = true;
                let Some(flow) = local.flow.filter(|_| local.open) else {
                    continue;
                };
                if net.flows[flow].socks[side].at == Some((host.id, *id)) {
                    net.close_sock(flow, side, true);
                }
            }
            for uplink in host.links.values() {
                net.cut(uplink.wire, uplink.sends, loss_delay);
                let end = &mut net.wires[uplink.wire].ends[uplink.sends];
                (end.deaf, end.link) = (true, None);
            }
        });
        had_streams
    }

    pub(crate) fn add_host(&mut self, make: impl FnOnce(HostId) -> Slot) -> HostId {
        let id = self.hosts.len();
        self.hosts.push(make(id));
        id
    }

    /// Faults stop, and everything that they did.
    fn heal(&mut self) {
        for fault in 0..self.faults.len() {
            self.fault_end(fault);
        }
        self.end_leaving();
        for wire in 0..self.net.wires.len() {
            let shape = self.shape_of_wire(wire);
            self.net.wires[wire].set_shape(shape);
            self.net.release(wire);
        }
        for policy in &mut self.policies {
            *policy = (Policy::Normal, 0);
        }
        self.client_policy = (Policy::Normal, 0);
        self.registry.fault = crate::cluster::RegistryFault::None;
        for line in self.lines.iter_mut().flatten() {
            *line = PeerLine::default();
        }
        let until = self.proof_at() - SEC;
        self.net.heal_excuses(until);
        let (now, nodes) = (self.net.now, self.net.nodes.len());
        for node in 0..nodes {
            // What was wrong may still be felt until the links are up again.
            if self.net.nodes[node].disturbed_at > 0 {
                let until = self.proof_at() - SEC;
                self.net.disturb(node, until.max(now), true, "healing");
            }
        }
    }

    fn prove(&mut self) {
        for node in 0..self.setup.nodes.len() {
            let mut vias: Vec<Via> = (0..self.setup.cluster.replicas).map(Via::Connect).collect();
            if self.setup.cluster.client_one_in.is_some() {
                vias.push(Via::Client);
            }
            for via in vias {
                let plan = FlowPlan {
                    at: self.net.now,
                    ..crate::flow::proof_plan(node, via)
                };
                let flow = self.net.add_flow(plan);
                self.proofs.push(flow);
            }
        }
        let before = self.net.now.saturating_sub(20 * SEC);
        self.net.end_excuses(before);
        for node in &mut self.net.nodes {
            node.excused_until = self.net.now;
            node.link_excused_until = node
                .link_excused_until
                .min(self.net.now.saturating_sub(20 * SEC));
        }
    }

    fn shut_down(&mut self) {
        self.check_converged();
        if self.net.failure.is_some() {
            return;
        }
        self.net.shut_down = true;
        for edge in 0..self.edges.len() {
            if let Some(host) = self.edges[edge].host
                && let Slot::Edge(host) = &mut self.hosts[host]
            {
                host.input(&mut self.net, |edge, now| edge.shut_down(now));
            }
        }
    }

    /// What a wire's line is like when nothing is wrong.
    pub(crate) fn shape_of_wire(&self, wire: usize) -> Shape {
        let wire = &self.net.wires[wire];
        match wire.carries {
            Carries::Edge => self.shape_of(wire.node),
            Carries::Client(_) => self.setup.cluster.client_shape,
            Carries::Peer | Carries::Control => self.setup.cluster.peer_shape,
        }
    }

    /// The last links end: those between replicas.
    fn end_peers(&mut self) {
        for replica in 0..self.replicas.len() {
            let peers = self.replicas[replica].as_ref().map(|of| of.peers);
            if let Some(Slot::Peers(host)) = peers.map(|peers| &mut self.hosts[peers]) {
                host.input(&mut self.net, |peers, now| peers.shut_down(now));
            }
        }
    }

    pub(crate) fn plan_of(&self, node: usize) -> NodePlan {
        // That of a rogue is like the last.
        let last = self.setup.nodes.len() - 1;
        self.setup.nodes[node.min(last)]
    }

    /// An edge that shuts down or dies leaves its links' other ends to the network.
    pub(crate) fn wires_of(&self, node: usize) -> Vec<usize> {
        let own = |wire: &usize| self.net.wires[*wire].node == node;
        self.edges_wires().filter(own).collect()
    }

    /// The wires of all edges.
    pub(crate) fn edges_wires(&self) -> impl Iterator<Item = usize> {
        let live = |wire: &usize| {
            let wire = &self.net.wires[*wire];
            wire.carries == Carries::Edge
                && !wire.is_over()
                && !wire.ends.iter().any(|end| end.rogue)
        };
        self.net.live.iter().copied().filter(live)
    }
}

fn event_host(event: Event) -> Option<HostId> {
    match event {
        Event::Wake(host)
        | Event::Timer(host, _)
        | Event::Socket(host, _)
        | Event::Dialed(host, ..)
        | Event::Loss(host, ..) => Some(host),
        _ => None,
    }
}
