//! A node's hub and an edge, joined by nothing but a queue of messages: the shapes of a session, message by message.
#![allow(clippy::expect_used, missing_docs)]

mod resume;
mod schedules;
mod session;

use bytes::Bytes;
use proto_core::config::Config;
use proto_core::edge::{DialectChoice, EdgeConfig, Reconnect};
use proto_core::hub::{LinkUp, OpenRequest};
use proto_core::name::NodeName;
use proto_core::output::{ConnectAttempt, LinkLoss, StreamRecord};
use proto_core::proto::StreamMsg;
use proto_core::reason::Reason;
use proto_core::target::{Target, Targets};
use proto_core::{
    Budget, Dialect, Edge, Event, Instant, LinkId, Machine, NodeHub, Output, StreamId,
};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

const LIMIT: usize = 100_000;

/// One side's sockets: what was read from and written to them.
#[derive(Default)]
struct Sockets {
    /// What the peer of the socket sends, with whether it ends then.
    input: BTreeMap<StreamId, (Vec<u8>, bool)>,
    /// What the peer of the socket has got.
    output: BTreeMap<StreamId, Vec<u8>>,
    ended: BTreeSet<StreamId>,
    /// With whether it was reset.
    closed: BTreeMap<StreamId, bool>,
    /// Sockets whose peer doesn't read.
    stuck: BTreeSet<StreamId>,
    eof_given: BTreeSet<StreamId>,
}

#[derive(Default)]
struct Log {
    replies: BTreeMap<StreamId, u16>,
    records: Vec<StreamRecord>,
    dials: Vec<(StreamId, String)>,
    attempts: Vec<ConnectAttempt>,
    ended_links: Vec<LinkId>,
    events: Vec<Event>,
    /// Every message, in order, as `direction type`.
    messages: Vec<String>,
}

struct World {
    now: Instant,
    hub: NodeHub,
    edge: Edge,
    hub_link: Option<LinkId>,
    edge_link: Option<LinkId>,
    at_hub: Sockets,
    at_edge: Sockets,
    hub_log: Log,
    edge_log: Log,
    budget: Budget,
    dial_result: Option<Result<(), Reason>>,
}

/// Serves one socket as a driver does.
fn serve(machine: &mut impl Machine, sockets: &mut Sockets, id: StreamId, now: Instant) {
    if sockets.closed.contains_key(&id) {
        return;
    }
    if !sockets.stuck.contains(&id) {
        let data: Vec<u8> = machine.pending_write(id).flatten().copied().collect();
        if !data.is_empty() {
            sockets.output.entry(id).or_default().extend(&data);
            machine.written(id, data.len(), now);
        }
        if machine.take_shutdown(id, now) {
            sockets.ended.insert(id);
        }
    }
    let Some((input, ends)) = sockets.input.get_mut(&id) else {
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
    if *ends && sockets.eof_given.insert(id) {
        machine.handle_read_eof(id, now);
    }
}

fn drain(machine: &mut impl Machine, sockets: &mut Sockets, log: &mut Log, now: Instant) -> bool {
    let mut busy = false;
    while let Some(output) = machine.poll_output() {
        busy = true;
        match output {
            Output::Local(id) => serve(machine, sockets, id, now),
            Output::Close { id, reset } => {
                assert!(sockets.closed.insert(id, reset).is_none(), "closed twice");
            }
            Output::Reply { id, reply } => {
                let before = log.replies.insert(id, reply.status());
                assert!(before.is_none(), "a second reply");
                assert!(!sockets.output.contains_key(&id), "bytes before the reply");
            }
            Output::Dial { id, target } => log.dials.push((id, target.to_string())),
            Output::EndLink { link, .. } => log.ended_links.push(link),
            Output::Event(Event::StreamEnded(record)) => log.records.push(record),
            Output::Event(event) => log.events.push(event),
            Output::Connect(attempt) => log.attempts.push(attempt),
            Output::TransmitReady(_)
            | Output::LinkReadable(_)
            | Output::Cluster(_)
            | Output::Client(_) => {}
        }
    }
    busy
}

impl World {
    fn new(dialect: DialectChoice, config: Config) -> World {
        let node = NodeName::parse("node-A").expect("a name");
        let budget = Budget::new(1 << 26);
        let hub = NodeHub::new(
            NodeName::parse("node-a").expect("a name"),
            Arc::new(config.clone()),
            budget.clone(),
            [1; 32],
        );
        let edge = EdgeConfig {
            node,
            addresses: 1,
            targets: Targets::parse(["127.0.0.1:22"], Vec::<(u16, &str)>::new()).expect("targets"),
            reconnect: Reconnect::default(),
            dialect,
            limits: config,
        };
        let mut world = World {
            now: Instant::ZERO,
            hub,
            edge: Edge::new(edge, budget.clone(), [2; 32], Instant::ZERO),
            hub_link: None,
            edge_link: None,
            at_hub: Sockets::default(),
            at_edge: Sockets::default(),
            hub_log: Log::default(),
            edge_log: Log::default(),
            budget,
            dial_result: Some(Ok(())),
        };
        world.connect();
        world
    }

    /// Answers the edge's wish to connect.
    fn connect(&mut self) {
        drain(
            &mut self.edge,
            &mut self.at_edge,
            &mut self.edge_log,
            self.now,
        );
        let attempt = self.edge_log.attempts.pop();
        let Some(attempt) = attempt else {
            return;
        };
        let dialect = match attempt.version_1 {
            true => Dialect::V1,
            false => Dialect::Base,
        };
        let up = LinkUp {
            dialect,
            instance: Some(attempt.instance.clone()),
            spelling: NodeName::parse("node-A").expect("a name"),
            remote: "edge".into(),
            draining: attempt.draining,
            wall_ms: 0,
        };
        self.hub_link = Some(self.hub.link_up(up, self.now));
        self.edge_link = self
            .edge
            .link_started(attempt.attempt, "cloud".into(), self.now);
        let link = self.edge_link.expect("the attempt is current");
        self.edge
            .link_established(link, attempt.version_1, self.now);
    }

    fn open(&mut self, target: &str, early: &'static [u8]) -> StreamId {
        let request = OpenRequest {
            target: Target::parse(target).expect("a target"),
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
        self.hub.open(request, self.now)
    }

    /// Moves messages and serves sockets until nothing moves; time stands still.
    fn settle(&mut self) {
        for _ in 0..LIMIT {
            let mut busy = drain(&mut self.hub, &mut self.at_hub, &mut self.hub_log, self.now);
            busy |= drain(
                &mut self.edge,
                &mut self.at_edge,
                &mut self.edge_log,
                self.now,
            );
            if let Some(result) = self.dial_result {
                for (id, _) in std::mem::take(&mut self.edge_log.dials) {
                    self.edge.handle_dialed(id, result, self.now);
                    busy = true;
                }
            }
            busy |= self.move_message();
            if !busy {
                return;
            }
        }
        panic!("it never comes to rest");
    }

    fn move_message(&mut self) -> bool {
        let (Some(hub_link), Some(edge_link)) = (self.hub_link, self.edge_link) else {
            return false;
        };
        let down = self.hub.poll_transmit(hub_link, self.now);
        let up = self.edge.poll_transmit(edge_link, self.now);
        let busy = down.is_some() || up.is_some();
        if let Some(msg) = down {
            self.hub_log.messages.push(msg.r#type.clone());
            self.edge.handle_message(edge_link, msg, self.now);
        }
        if let Some(msg) = up {
            self.edge_log.messages.push(msg.r#type.clone());
            self.hub.handle_message(hub_link, msg, self.now);
        }
        busy
    }

    /// Lets time pass, deadline by deadline.
    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        self.settle();
        for _ in 0..LIMIT {
            let next = [self.hub.deadline(), self.edge.deadline()]
                .into_iter()
                .flatten()
                .map(|deadline| deadline.at)
                .min();
            match next {
                Some(at) if at <= end => {
                    self.now = self.now.max(at);
                    self.hub.handle_timeout(self.now);
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

    fn edge_socket(&self) -> StreamId {
        *self
            .at_edge
            .output
            .keys()
            .chain(self.at_edge.input.keys())
            .max()
            .unwrap_or_else(|| panic!("no socket at the edge"))
    }
}

/// The id that the edge will give to the next stream it accepts is found by its dial.
fn connected_pair(world: &mut World) -> (StreamId, StreamId) {
    world.dial_result = None;
    let here = world.open("127.0.0.1:22", b"");
    world.settle();
    let (there, _) = world.edge_log.dials.pop().expect("a dial");
    world.edge.handle_dialed(there, Ok(()), world.now);
    world.dial_result = Some(Ok(()));
    world.settle();
    assert_eq!(world.hub_log.replies.get(&here), Some(&200));
    (here, there)
}

fn bytes(count: usize) -> Vec<u8> {
    (0..count).map(|index| (index % 251) as u8).collect()
}
