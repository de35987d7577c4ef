//! The operator's command and an edge, both of which keep links to a cloud; here nothing but queues of messages joins them.
#![allow(clippy::expect_used, missing_docs)]

mod drain;
mod outage;

use bytes::Bytes;
use proto_core::client::{Client, ClientConfig};
use proto_core::config::Config;
use proto_core::edge::{DialectChoice, EdgeConfig, Reconnect};
use proto_core::name::NodeName;
use proto_core::output::{ClientOutput, ConnectAttempt, LinkLoss, NotOpened, StreamRecord};
use proto_core::proto::StreamMsg;
use proto_core::reason::Reason;
use proto_core::target::{Target, Targets};
use proto_core::{Budget, Edge, Event, Instant, LinkId, Machine, Output, StreamId};
use std::collections::BTreeMap;
use std::time::Duration;

const LIMIT: usize = 100_000;

/// What one side has done and been told.
#[derive(Default)]
struct Log {
    attempts: Vec<ConnectAttempt>,
    told: Vec<ClientOutput>,
    dials: Vec<StreamId>,
    ended_links: Vec<LinkId>,
    records: Vec<StreamRecord>,
    events: Vec<Event>,
    /// What its sockets were given.
    output: BTreeMap<StreamId, Vec<u8>>,
    ended: Vec<StreamId>,
    closed: Vec<StreamId>,
    /// What its sockets have to give, and whether they end then.
    input: BTreeMap<StreamId, (Vec<u8>, bool)>,
    /// Every message that it sent.
    sent: Vec<String>,
}

/// A link of the client's and one of the edge's, joined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Wire {
    client: LinkId,
    edge: LinkId,
    /// It swallows what it is given.
    swallows: bool,
}

struct World {
    now: Instant,
    client: Client,
    edge: Edge,
    here: Log,
    there: Log,
    wires: Vec<Wire>,
    dials: Option<Result<(), Reason>>,
}

fn serve(machine: &mut impl Machine, log: &mut Log, id: StreamId, now: Instant) {
    let data: Vec<u8> = machine.pending_write(id).flatten().copied().collect();
    if !data.is_empty() {
        log.output.entry(id).or_default().extend(&data);
        machine.written(id, data.len(), now);
    }
    if machine.take_shutdown(id, now) {
        log.ended.push(id);
    }
    let Some((input, ends)) = log.input.get_mut(&id) else {
        return;
    };
    while !input.is_empty() {
        let room = machine.wants_read(id, now).min(input.len());
        if room == 0 {
            return;
        }
        let rest = input.split_off(room);
        machine.handle_read(id, Bytes::from(std::mem::replace(input, rest)), now);
    }
    if std::mem::take(ends) {
        machine.handle_read_eof(id, now);
    }
}

fn drain(machine: &mut impl Machine, log: &mut Log, now: Instant) -> bool {
    let mut busy = false;
    while let Some(output) = machine.poll_output() {
        busy = true;
        match output {
            Output::Local(id) => serve(machine, log, id, now),
            Output::Close { id, .. } => log.closed.push(id),
            Output::Reply { .. } => panic!("nobody has sent a CONNECT"),
            Output::Dial { id, .. } => log.dials.push(id),
            Output::EndLink { link, .. } => log.ended_links.push(link),
            Output::Event(Event::StreamEnded(record)) => log.records.push(record),
            Output::Event(event) => log.events.push(event),
            Output::Connect(attempt) => log.attempts.push(attempt),
            Output::Client(told) => {
                if let ClientOutput::NotOpened { id, .. } = &told {
                    let over = log.records.iter().any(|record| record.id == *id);
                    assert!(!over, "its end before the answer");
                }
                log.told.push(told);
            }
            Output::TransmitReady(_) | Output::LinkReadable(_) | Output::Cluster(_) => {}
        }
    }
    busy
}

impl World {
    /// Both have asked for their first link, and nothing has answered.
    fn new(addresses: usize) -> World {
        let mut limits = Config::default();
        limits.streams.resume = true;
        limits.streams.answer_timeout = Duration::from_secs(10);
        let client = ClientConfig {
            node: NodeName::parse("node-a").expect("a name"),
            addresses,
            reconnect: Reconnect::default(),
            limits: limits.clone(),
        };
        let edge = EdgeConfig {
            node: NodeName::parse("node-A").expect("a name"),
            addresses,
            targets: Targets::parse(["127.0.0.1:22"], Vec::<(u16, &str)>::new()).expect("targets"),
            reconnect: Reconnect::default(),
            dialect: DialectChoice::Auto,
            limits,
        };
        let budget = || Budget::new(1 << 26);
        let mut world = World {
            now: Instant::ZERO,
            client: Client::new(client, budget(), [1; 32], Instant::ZERO),
            edge: Edge::new(edge, budget(), [2; 32], Instant::ZERO),
            here: Log::default(),
            there: Log::default(),
            wires: Vec::new(),
            dials: Some(Ok(())),
        };
        world.settle();
        world
    }

    /// With a link.
    fn linked() -> World {
        let mut world = World::new(1);
        world.join();
        world.settle();
        world
    }

    /// With a link and a stream: both its ends.
    fn connected() -> (World, StreamId, StreamId) {
        let mut world = World::linked();
        let here = world.open(b"");
        world.settle();
        assert_eq!(world.here.told, [ClientOutput::Opened { id: here }]);
        let there = world.edge.stream_infos()[0].id;
        (world, here, there)
    }

    fn open(&mut self, early: &'static [u8]) -> StreamId {
        let target = Target::loopback(22).expect("a target");
        let early = Bytes::from_static(early);
        self.client.open(&target, early, self.now)
    }

    /// Answers one wish to connect of each.
    fn join(&mut self) {
        let (here, there) = (self.here.attempts.pop(), self.there.attempts.pop());
        let (here, there) = (here.expect("an attempt"), there.expect("an attempt"));
        assert!(self.here.attempts.is_empty() && self.there.attempts.is_empty());
        let (now, remote) = (self.now, String::from("cloud"));
        let client = self.client.link_started(here.attempt, remote.clone(), now);
        let edge = self.edge.link_started(there.attempt, remote, now);
        let (client, edge) = (client.expect("current"), edge.expect("current"));
        self.client.link_established(client, true, now);
        self.edge.link_established(edge, true, now);
        self.wires.push(Wire {
            client,
            edge,
            swallows: false,
        });
    }

    /// The newest link breaks, for both, with what is under way.
    fn cut(&mut self) {
        let wire = self.wires.pop().expect("a link");
        let (now, why) = (self.now, LinkLoss::Broken);
        self.client.link_lost(wire.client, why, now);
        self.edge.link_lost(wire.edge, why, now);
        self.settle();
    }

    /// The cloud leaves.
    fn cloud_drains(&mut self, wire: Wire) {
        let msg = StreamMsg {
            category: "stream".into(),
            r#type: "drain".into(),
            ..StreamMsg::default()
        };
        self.client
            .handle_message(wire.client, msg.clone(), self.now);
        self.edge.handle_message(wire.edge, msg, self.now);
        self.settle();
    }

    /// Moves messages and serves sockets until nothing moves; time stands still.
    fn settle(&mut self) {
        for _ in 0..LIMIT {
            if !self.turn() {
                return;
            }
        }
        panic!("it never comes to rest");
    }

    /// One round: outputs, dials, a message each way of each link.
    fn turn(&mut self) -> bool {
        let mut busy = drain(&mut self.client, &mut self.here, self.now);
        busy |= drain(&mut self.edge, &mut self.there, self.now);
        if let Some(result) = self.dials {
            for id in std::mem::take(&mut self.there.dials) {
                self.edge.handle_dialed(id, result, self.now);
                busy = true;
            }
        }
        let now = self.now;
        for wire in self.wires.clone() {
            let down = self.client.poll_transmit(wire.client, now);
            let up = self.edge.poll_transmit(wire.edge, now);
            busy |= down.is_some() || up.is_some();
            if let Some(msg) = down {
                self.here.sent.push(msg.r#type.clone());
                if !wire.swallows {
                    self.edge.handle_message(wire.edge, msg, now);
                }
            }
            if let Some(msg) = up {
                self.there.sent.push(msg.r#type.clone());
                if !wire.swallows {
                    self.client.handle_message(wire.client, msg, now);
                }
            }
        }
        busy
    }

    /// A link that one side has ended is lost to the other.
    fn hang_up(&mut self) {
        for wire in self.wires.clone() {
            let here = self.here.ended_links.contains(&wire.client);
            let there = self.there.ended_links.contains(&wire.edge);
            if here || there {
                self.wires.retain(|kept| *kept != wire);
                let (now, why) = (self.now, LinkLoss::Closed);
                self.client.link_lost(wire.client, why, now);
                self.edge.link_lost(wire.edge, why, now);
            }
        }
    }

    /// Lets time pass, deadline by deadline.
    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        self.settle();
        for _ in 0..LIMIT {
            let next = [self.client.deadline(), self.edge.deadline()];
            let next = next.into_iter().flatten().map(|next| next.at).min();
            match next {
                Some(at) if at <= end => {
                    self.now = self.now.max(at);
                    self.client.handle_timeout(self.now);
                    self.edge.handle_timeout(self.now);
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

    /// Sends this from one end, and checks that it has come to the other.
    fn say(&mut self, here: StreamId, there: StreamId, text: &str) {
        self.here
            .input
            .insert(here, (text.as_bytes().to_vec(), false));
        serve(&mut self.client, &mut self.here, here, self.now);
        self.settle();
        let got = self.there.output.get(&there).cloned().unwrap_or_default();
        let got = String::from_utf8(got).expect("text");
        assert!(got.ends_with(text), "{got:?} {text:?}");
    }
}

fn bytes(count: usize) -> Vec<u8> {
    (0..count).map(|index| (index % 251) as u8).collect()
}
