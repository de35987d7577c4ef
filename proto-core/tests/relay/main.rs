//! Hubs of one node at several replicas, and its edge, joined by queues of messages: what goes by way of a replica, and what
//! becomes of it when the node moves.
#![allow(clippy::expect_used, missing_docs)]

mod base;
mod faults;
mod hostile;
mod last;
mod moving;
mod passing;
mod schedules;

use bytes::Bytes;
use proto_core::auth::Rights;
use proto_core::config::Config;
use proto_core::edge::{DialectChoice, EdgeConfig, Reconnect};
use proto_core::hub::{ClientUp, LinkUp, OpenRequest};
use proto_core::name::NodeName;
use proto_core::output::{ClusterOutput, ConnectAttempt, LinkLoss};
use proto_core::proto::StreamMsg;
use proto_core::replica::{Held, Holder};
use proto_core::target::{Target, Targets};
use proto_core::{
    Budget, Dialect, Edge, Event, Instant, LinkId, Machine, NodeHub, Output, ReplicaId, StreamId,
};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

const LIMIT: usize = 200_000;

/// A machine of the world: a hub, by its number, or the edge.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Who {
    Hub(usize),
    Edge,
}

/// One side of a link.
type End = (Who, LinkId);

#[derive(Default)]
struct Log {
    replies: BTreeMap<StreamId, u16>,
    dials: Vec<StreamId>,
    dialed: usize,
    dialed_ids: Vec<StreamId>,
    attempts: Vec<ConnectAttempt>,
    events: Vec<Event>,
    input: BTreeMap<StreamId, Vec<u8>>,
    output: BTreeMap<StreamId, Vec<u8>>,
    closed: BTreeSet<StreamId>,
    held: Vec<Held>,
    finds: usize,
}

struct World {
    now: Instant,
    hubs: Vec<NodeHub>,
    edge: Edge,
    logs: BTreeMap<Who, Log>,
    links: Vec<(End, End)>,
    /// Hub 0 reaches the others as a client does, not as a replica.
    zero_is_client: bool,
    unreachable: BTreeSet<usize>,
    refuse_dials: bool,
    /// Dials are not answered for now.
    hold_dials: bool,
    /// Content that hub 0 sends waits here.
    held_content: Option<Vec<(End, StreamMsg)>>,
    budgets: Vec<Budget>,
    /// Types of messages, with the link's ends.
    sniffed: Vec<(Who, Who, StreamMsg)>,
    wall_ms: u64,
    /// Whose links are long, and how long a message is under way there, each way.
    far: Option<(Who, Duration)>,
    under_way: VecDeque<(Instant, End, StreamMsg)>,
}

fn replica(number: usize) -> ReplicaId {
    ReplicaId::parse(&format!("{number:032x}")).expect("an id")
}

fn name() -> NodeName {
    NodeName::parse("node-A").expect("a name")
}

impl World {
    fn new(hubs: usize, config: Config) -> World {
        World::with_edge(hubs, config, DialectChoice::V1)
    }

    fn with_edge(hubs: usize, mut config: Config, dialect: DialectChoice) -> World {
        config.streams.resume = true;
        let budgets: Vec<Budget> = (0..hubs).map(|_| Budget::new(1 << 26)).collect();
        let edge = EdgeConfig {
            node: name(),
            addresses: 1,
            targets: Targets::parse(["127.0.0.1:22"], Vec::<(u16, &str)>::new()).expect("targets"),
            reconnect: Reconnect::default(),
            dialect,
            limits: config.clone(),
        };
        World {
            now: Instant::ZERO,
            hubs: (0..hubs)
                .map(|number| {
                    let seed = [u8::try_from(number + 1).expect("few"); 32];
                    let budget = budgets[number].clone();
                    NodeHub::new(name(), Arc::new(config.clone()), budget, seed)
                })
                .collect(),
            edge: Edge::new(edge, Budget::new(1 << 26), [99; 32], Instant::ZERO),
            logs: BTreeMap::new(),
            links: Vec::new(),
            zero_is_client: false,
            unreachable: BTreeSet::new(),
            refuse_dials: false,
            hold_dials: false,
            held_content: None,
            budgets,
            sniffed: Vec::new(),
            wall_ms: 1000,
            far: None,
            under_way: VecDeque::new(),
        }
    }

    fn log(&mut self, who: Who) -> &mut Log {
        self.logs.entry(who).or_default()
    }

    /// Makes the link that the edge asks for, to this hub.
    fn edge_connects(&mut self, hub: usize) {
        for _ in 0..100 {
            self.settle();
            if let Some(attempt) = self.log(Who::Edge).attempts.pop() {
                self.wall_ms += 10;
                let up = LinkUp {
                    dialect: match attempt.version_1 {
                        true => Dialect::V1,
                        false => Dialect::Base,
                    },
                    instance: attempt.version_1.then(|| attempt.instance.clone()),
                    spelling: name(),
                    remote: "edge".into(),
                    draining: false,
                    wall_ms: self.wall_ms,
                };
                let there = self.hubs[hub].link_up(up, self.now);
                let here = self
                    .edge
                    .link_started(attempt.attempt, "cloud".into(), self.now)
                    .expect("the attempt is current");
                self.edge
                    .link_established(here, attempt.version_1, self.now);
                self.links.push(((Who::Edge, here), (Who::Hub(hub), there)));
                return self.settle();
            }
            self.pass(Duration::from_millis(100));
        }
        panic!("the edge doesn't connect");
    }

    fn open(&mut self, hub: usize, early: &'static [u8]) -> StreamId {
        let request = OpenRequest {
            target: Target::parse("127.0.0.1:22").expect("a target"),
            user: None,
            user_budget: None,
            client: "client".into(),
            trace_id: None,
            early: Bytes::from_static(early),
            wait: Duration::from_secs(3),
            only_if_found: None,
            offline_since: None,
            resume: true,
        };
        let id = self.hubs[hub].open(request, self.now);
        self.settle();
        id
    }

    /// Both ends of the link between two machines lose it.
    fn cut(&mut self, one: Who, other: Who) {
        let (gone, stay): (Vec<_>, Vec<_>) = std::mem::take(&mut self.links)
            .into_iter()
            .partition(|((a, _), (b, _))| (*a, *b) == (one, other) || (*b, *a) == (one, other));
        self.links = stay;
        assert!(!gone.is_empty(), "no link between {one:?} and {other:?}");
        for (a, b) in gone {
            self.lose(a);
            self.lose(b);
        }
        self.settle();
    }

    fn lose(&mut self, (who, link): End) {
        match who {
            Who::Hub(hub) => self.hubs[hub].link_lost(link, LinkLoss::Broken, self.now),
            Who::Edge => self.edge.link_lost(link, LinkLoss::Broken, self.now),
        }
    }

    fn send(&mut self, who: Who, id: StreamId, data: &[u8]) {
        self.log(who).input.entry(id).or_default().extend(data);
        self.settle();
    }

    /// A client knows one replica, and believes that everything is there.
    fn client_knows(&mut self, hub: usize, instance: &str) {
        let held = Held {
            spelling: "node-A".into(),
            instance: proto_core::Instance::parse(instance).expect("an instance"),
            since_ms: 1,
            draining: false,
        };
        let holder = Holder {
            replica: replica(hub),
            held,
        };
        self.hubs[0].set_holders(vec![holder], self.now);
    }

    fn connect_peer(&mut self, from: usize, attempt: proto_core::output::AttemptId, to: ReplicaId) {
        let to = (0..self.hubs.len())
            .find(|hub| replica(*hub) == to)
            .expect("a replica");
        if self.unreachable.contains(&to) {
            return self.hubs[from].peer_link_failed(attempt, LinkLoss::Refused, self.now);
        }
        let Some(here) = self.hubs[from].peer_link_up(attempt, "peer".into(), self.now) else {
            return;
        };
        let there = match from == 0 && self.zero_is_client {
            true => self.hubs[to].client_up(
                ClientUp {
                    user: None,
                    rights: Rights::everything(),
                    remote: "client".into(),
                    only_if_found: None,
                    offline_since: None,
                    resume: true,
                },
                self.now,
            ),
            false => self.hubs[to].peer_up("peer".into(), self.now),
        };
        self.links
            .push(((Who::Hub(from), here), (Who::Hub(to), there)));
    }

    fn drain(&mut self, who: Who) -> bool {
        let mut busy = false;
        loop {
            let output = match who {
                Who::Hub(hub) => self.hubs[hub].poll_output(),
                Who::Edge => self.edge.poll_output(),
            };
            let Some(output) = output else { return busy };
            busy = true;
            match output {
                Output::Local(_) | Output::TransmitReady(_) | Output::LinkReadable(_) => {}
                Output::Close { id, .. } => {
                    self.log(who).closed.insert(id);
                }
                Output::Reply { id, reply } => {
                    let before = self.log(who).replies.insert(id, reply.status());
                    assert!(before.is_none(), "a second reply");
                }
                Output::Dial { id, .. } => self.log(who).dials.push(id),
                Output::Connect(attempt) => self.log(who).attempts.push(attempt),
                Output::EndLink { link, .. } => {
                    let (gone, stay): (Vec<_>, Vec<_>) = std::mem::take(&mut self.links)
                        .into_iter()
                        .partition(|(a, b)| *a == (who, link) || *b == (who, link));
                    self.links = stay;
                    for (a, b) in gone {
                        self.lose(if a == (who, link) { b } else { a });
                    }
                }
                Output::Event(event) => self.log(who).events.push(event),
                Output::Cluster(wish) => self.cluster(who, wish),
                Output::Client(_) => {}
            }
        }
    }

    fn cluster(&mut self, who: Who, wish: ClusterOutput) {
        let Who::Hub(hub) = who else {
            panic!("an edge knows no replicas");
        };
        match wish {
            ClusterOutput::ConnectPeer { attempt, replica } => {
                self.connect_peer(hub, attempt, replica);
            }
            ClusterOutput::Held(held) => {
                self.log(who).held = held;
                if !self.zero_is_client || hub != 0 {
                    self.tell_holders();
                }
            }
            ClusterOutput::FindNode => self.log(who).finds += 1,
            ClusterOutput::WrongNode(_)
            | ClusterOutput::DialPeer { .. }
            | ClusterOutput::Holders { .. } => {}
        }
    }

    /// Every replica hears what the others hold; a client hears nothing.
    fn tell_holders(&mut self) {
        let first = usize::from(self.zero_is_client);
        for hub in first..self.hubs.len() {
            let mut holders = Vec::new();
            for other in (first..self.hubs.len()).filter(|other| *other != hub) {
                for held in self.log(Who::Hub(other)).held.clone() {
                    let replica = replica(other);
                    holders.push(Holder { replica, held });
                }
            }
            self.hubs[hub].set_holders(holders, self.now);
        }
    }

    fn serve<M: Machine>(machine: &mut M, log: &mut Log, now: Instant) -> bool {
        let mut busy = false;
        let ids: Vec<StreamId> = machine.stream_infos().iter().map(|info| info.id).collect();
        for id in ids {
            if log.closed.contains(&id) {
                continue;
            }
            let data: Vec<u8> = machine.pending_write(id).flatten().copied().collect();
            if !data.is_empty() {
                busy = true;
                log.output.entry(id).or_default().extend(&data);
                machine.written(id, data.len(), now);
            }
            machine.take_shutdown(id, now);
            let Some(input) = log.input.get_mut(&id) else {
                continue;
            };
            while !input.is_empty() {
                let room = machine.wants_read(id, now).min(input.len());
                if room == 0 {
                    break;
                }
                busy = true;
                let rest = input.split_off(room);
                machine.handle_read(id, Bytes::from(std::mem::replace(input, rest)), now);
            }
        }
        busy
    }

    /// Moves messages and serves sockets until nothing moves; time stands still.
    fn settle(&mut self) {
        for _ in 0..LIMIT {
            let mut busy = false;
            for hub in 0..self.hubs.len() {
                busy |= self.drain(Who::Hub(hub));
                let log = self.logs.entry(Who::Hub(hub)).or_default();
                busy |= Self::serve(&mut self.hubs[hub], log, self.now);
            }
            busy |= self.drain(Who::Edge);
            let log = self.logs.entry(Who::Edge).or_default();
            let dials = match self.hold_dials {
                true => Vec::new(),
                false => std::mem::take(&mut log.dials),
            };
            for id in dials {
                log.dialed += 1;
                log.dialed_ids.push(id);
                let result = match self.refuse_dials {
                    true => Err(proto_core::reason::Reason::Refused),
                    false => Ok(()),
                };
                self.edge.handle_dialed(id, result, self.now);
                busy = true;
            }
            busy |= Self::serve(&mut self.edge, log, self.now);
            busy |= self.move_messages();
            if !busy {
                return;
            }
        }
        panic!("it never comes to rest");
    }

    fn move_messages(&mut self) -> bool {
        let mut busy = false;
        for (a, b) in self.links.clone() {
            for (from, to) in [(a, b), (b, a)] {
                let msg = match from.0 {
                    Who::Hub(hub) => self.hubs[hub].poll_transmit(from.1, self.now),
                    Who::Edge => self.edge.poll_transmit(from.1, self.now),
                };
                if let Some(msg) = msg {
                    busy = true;
                    self.sniffed.push((from.0, to.0, msg.clone()));
                    if let Some(held) = &mut self.held_content
                        && (from.0, msg.r#type.as_str()) == (Who::Hub(0), "content")
                    {
                        held.push((to, msg));
                    } else if let Some((far, delay)) = self.far
                        && [from.0, to.0].contains(&far)
                    {
                        let at = self.now + delay;
                        self.under_way.push_back((at, to, msg));
                    } else {
                        self.deliver(to, msg);
                    }
                }
            }
        }
        busy
    }

    fn deliver(&mut self, to: End, msg: StreamMsg) {
        match to.0 {
            Who::Hub(hub) => self.hubs[hub].handle_message(to.1, msg, self.now),
            Who::Edge => self.edge.handle_message(to.1, msg, self.now),
        }
    }

    /// Lets time pass, deadline by deadline.
    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        self.settle();
        for _ in 0..LIMIT {
            let hubs = self.hubs.iter().map(Machine::deadline);
            let next = hubs
                .chain([self.edge.deadline()])
                .flatten()
                .map(|deadline| deadline.at)
                .chain(self.under_way.front().map(|(at, ..)| *at))
                .min();
            match next {
                Some(at) if at <= end => {
                    self.now = self.now.max(at);
                    for hub in &mut self.hubs {
                        hub.handle_timeout(self.now);
                    }
                    self.edge.handle_timeout(self.now);
                    while self
                        .under_way
                        .front()
                        .is_some_and(|(at, ..)| *at <= self.now)
                    {
                        if let Some((_, to, msg)) = self.under_way.pop_front() {
                            self.deliver(to, msg);
                        }
                    }
                    self.settle();
                }
                _ => {
                    self.now = end;
                    return;
                }
            }
        }
        panic!("timers never rest");
    }

    /// The one stream that the edge has.
    fn at_edge(&self) -> StreamId {
        let infos = self.edge.stream_infos();
        assert_eq!(infos.len(), 1, "{infos:?}");
        infos[0].id
    }

    fn got(&self, who: Who, id: StreamId) -> &[u8] {
        self.logs
            .get(&who)
            .and_then(|log| log.output.get(&id))
            .map_or(&[], |data| data)
    }

    fn link_of(&self, one: Who, other: Who) -> (End, End) {
        *self
            .links
            .iter()
            .find(|((a, _), (b, _))| (*a, *b) == (one, other))
            .expect("a link")
    }
}

fn bytes(count: usize) -> Vec<u8> {
    (0..count).map(|index| (index % 251) as u8).collect()
}

/// A stream from hub 0 to the edge, by way of hub 1.
fn relayed() -> (World, StreamId) {
    let mut world = World::new(2, Config::default());
    world.edge_connects(1);
    let id = world.open(0, b"");
    assert_eq!(world.log(Who::Hub(0)).replies.get(&id), Some(&200));
    (world, id)
}
