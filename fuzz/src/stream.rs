//! Both ends' machines, driven as badly as a peer, a socket and a clock can: no panic, no endless loop, nothing kept beyond its
//! limit, and nothing left behind when links and sockets are gone.
//!
//! The first bytes choose the end and the limits; the others are steps: a message of any kind with plausible or absurd fields, a read,
//! a write, an end, a dial's result, a link lost or made, time. With `FUZZ_TRACE` in the environment what goes in and out is printed.
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use proto_core::config::{LinkConfig, StreamConfig};
use proto_core::edge::{DialectChoice, EdgeConfig, Reconnect};
use proto_core::hub::{LinkUp, OpenRequest};
use proto_core::name::NodeName;
use proto_core::output::{AttemptId, LinkLoss};
use proto_core::proto::StreamMsg;
use proto_core::reason::Reason;
use proto_core::target::{Target, Targets};
use proto_core::{
    Budget, Config, Dialect, Edge, Instance, Instant, LinkId, Machine, NodeHub, Output, StreamId,
    wire,
};

use crate::cursor::Cursor;

const MESSAGE_BYTES_MAX: usize = 16 * 1024;
const WINDOW_BYTES_MAX: u64 = 64 * 1024;
const BASE_BUFFER_BYTES_MAX: u64 = 32 * 1024;
const STREAMS_PER_LINK_MAX: usize = 8;
/// More outputs, messages or timers than this at one moment never end.
const ENDLESS: usize = 10_000;

/// Plays the steps in `bytes`.
pub fn check(bytes: &[u8]) {
    let mut cursor = Cursor::new(bytes);
    let is_edge = cursor.flag();
    let dialect = cursor.pick(&[Dialect::V1, Dialect::Base]);
    let budget = Budget::new(cursor.pick(&[1 << 20, 1 << 16, 1 << 14]));
    if is_edge {
        let edge = Edge::new(edge_config(), budget.clone(), [7; 32], Instant::ZERO);
        play(edge, dialect, budget, cursor);
    } else {
        let hub = NodeHub::new(node(), Arc::new(config()), budget.clone(), [7; 32]);
        play(hub, dialect, budget, cursor);
    }
}

fn play<M: End>(machine: M, dialect: Dialect, budget: Budget, mut cursor: Cursor<'_>) {
    let mut play = Play {
        traces: std::env::var_os("FUZZ_TRACE").is_some(),
        machine,
        dialect,
        budget,
        now: Instant::ZERO,
        attempts: Vec::new(),
        links: BTreeSet::new(),
        sockets: BTreeMap::new(),
        topics: vec![
            "00010203-0405-4607-8809-0a0b0c0d0e0f".into(),
            "t".into(),
            String::new(),
            "\u{f6}".repeat(33),
        ],
    };
    play.drain();
    play.make_link();
    while !cursor.is_empty() {
        play.step(&mut cursor);
        play.drain();
        play.check_bounds();
    }
    play.end();
}

/// What only one of the two ends does.
trait End: Machine {
    /// Makes a link out of an attempt, or out of nothing.
    fn make_link(
        &mut self,
        attempt: Option<AttemptId>,
        dialect: Dialect,
        now: Instant,
    ) -> Option<LinkId>;

    /// Asks for a stream.
    fn open(&mut self, early: Bytes, wait: Duration, now: Instant) -> Option<StreamId>;
}

impl End for Edge {
    fn make_link(
        &mut self,
        attempt: Option<AttemptId>,
        dialect: Dialect,
        now: Instant,
    ) -> Option<LinkId> {
        let link = self.link_started(attempt?, "192.0.2.1:9000".into(), now)?;
        self.link_established(link, dialect == Dialect::V1, now);
        Some(link)
    }

    fn open(&mut self, _: Bytes, _: Duration, _: Instant) -> Option<StreamId> {
        None
    }
}

impl End for NodeHub {
    fn make_link(
        &mut self,
        _: Option<AttemptId>,
        dialect: Dialect,
        now: Instant,
    ) -> Option<LinkId> {
        let up = LinkUp {
            dialect,
            instance: Instance::parse("0c7e.1").filter(|_| dialect == Dialect::V1),
            spelling: node(),
            remote: "192.0.2.2:1".into(),
            draining: false,
            wall_ms: 0,
        };
        Some(self.link_up(up, now))
    }

    fn open(&mut self, early: Bytes, wait: Duration, now: Instant) -> Option<StreamId> {
        let request = OpenRequest {
            target: Target::loopback(22)?,
            user: None,
            user_budget: None,
            client: "192.0.2.3:1".into(),
            trace_id: None,
            early,
            wait,
            only_if_found: None,
            offline_since: None,
            resume: true,
        };
        Some(NodeHub::open(self, request, now))
    }
}

#[derive(Clone, Copy, Default)]
struct Socket {
    dialing: bool,
    replied: bool,
    read_ended: bool,
}

struct Play<M> {
    machine: M,
    dialect: Dialect,
    budget: Budget,
    now: Instant,
    attempts: Vec<AttemptId>,
    links: BTreeSet<LinkId>,
    sockets: BTreeMap<StreamId, Socket>,
    topics: Vec<String>,
    traces: bool,
}

impl<M: End> Play<M> {
    fn step(&mut self, cursor: &mut Cursor<'_>) {
        let link = pick(cursor, self.links.iter().copied());
        let socket = pick(cursor, self.sockets.keys().copied());
        match (cursor.byte() % 16, link, socket) {
            (0..=4, Some(link), _) => self.message(link, cursor),
            (5, Some(link), _) => self.transmit(link, usize::from(cursor.byte())),
            (6, _, Some(id)) => self.read(id, cursor.number()),
            (7, _, Some(id)) => self.write(id, cursor.number()),
            (8, _, Some(id)) => self.read_end(id),
            (9, _, Some(id)) => self.dialed(id, cursor),
            (10, _, Some(id)) if cursor.byte() > 200 => {
                self.machine.handle_socket_error(id, self.now);
                self.sockets.remove(&id);
            }
            (11, Some(link), _) if cursor.byte() > 200 => {
                self.links.remove(&link);
                self.machine.link_lost(link, LinkLoss::Broken, self.now);
            }
            (12, _, _) => self.make_link(),
            (13, _, _) => self.open(cursor),
            (14, _, _) => self.pass(Duration::from_millis(cursor.number().min(100_000))),
            (15, _, _) => {
                if let Some(deadline) = self.machine.deadline() {
                    self.pass(deadline.at.saturating_duration_since(self.now));
                }
            }
            (_, _, _) => {}
        }
    }

    fn message(&mut self, link: LinkId, cursor: &mut Cursor<'_>) {
        if !self.machine.wants_message(link) {
            return;
        }
        let msg = StreamMsg {
            node: cursor
                .pick(&["node-A", "node-A", "node-a", "node-B", ""])
                .into(),
            category: cursor.pick(&["ssh", "ssh", "stream", ""]).into(),
            r#type: cursor.pick(TYPES).into(),
            topic: pick(cursor, self.topics.iter().cloned()).unwrap_or_default(),
            data: vec![
                cursor.byte();
                usize::try_from(cursor.number()).unwrap_or(0) % (MESSAGE_BYTES_MAX + 2)
            ]
            .into(),
            addr: cursor
                .pick(&["127.0.0.1:22", "127.0.0.1:23", "nonsense"])
                .into(),
            offset: cursor.number(),
            ack: cursor.number(),
            limit: cursor.number(),
            key: vec![cursor.byte(); cursor.pick(&[16, 16, 16, 0, 17])].into(),
            user: String::new(),
            code: u32::from(cursor.byte()),
            epoch: cursor.pick(&[1, 1, 1, 0, 2, u32::MAX]),
            want_ack: cursor.flag(),
        };
        self.trace(&msg);
        self.machine.handle_message(link, msg, self.now);
    }

    /// Takes up to `count` messages; asked on and on, a machine must come to an end while nothing happens.
    fn transmit(&mut self, link: LinkId, count: usize) {
        for _ in 0..count {
            let Some(msg) = self.machine.poll_transmit(link, self.now) else {
                return;
            };
            self.trace(&msg);
            assert_eq!(wire::check(&msg, MESSAGE_BYTES_MAX), Ok(()));
            if !self.topics.contains(&msg.topic) && self.topics.len() < 64 {
                self.topics.push(msg.topic);
            }
        }
    }

    fn read(&mut self, id: StreamId, bytes: u64) {
        let room = self.machine.wants_read(id, self.now);
        let is_readable = self
            .sockets
            .get(&id)
            .is_some_and(|socket| !socket.dialing && !socket.read_ended);
        let bytes = usize::try_from(bytes)
            .unwrap_or(usize::MAX)
            .min(room)
            .min(1 << 20);
        if is_readable && bytes > 0 {
            self.machine
                .handle_read(id, vec![1; bytes].into(), self.now);
        }
    }

    fn write(&mut self, id: StreamId, bytes: u64) {
        if self.sockets.get(&id).is_none_or(|socket| socket.dialing) {
            return;
        }
        let pending: usize = self.machine.pending_write(id).map(Bytes::len).sum();
        let bytes = usize::try_from(bytes).unwrap_or(usize::MAX).min(pending);
        self.trace(&("written", id, bytes));
        self.machine.written(id, bytes, self.now);
        self.machine.take_shutdown(id, self.now);
    }

    fn read_end(&mut self, id: StreamId) {
        if let Some(socket) = self.sockets.get_mut(&id)
            && !socket.dialing
            && !socket.read_ended
        {
            socket.read_ended = true;
            self.machine.handle_read_eof(id, self.now);
        }
    }

    fn dialed(&mut self, id: StreamId, cursor: &mut Cursor<'_>) {
        let Some(socket) = self.sockets.get_mut(&id).filter(|socket| socket.dialing) else {
            return;
        };
        let result = cursor.pick(&[
            Ok(()),
            Ok(()),
            Ok(()),
            Err(Reason::Refused),
            Err(Reason::LocalError),
        ]);
        socket.dialing = false;
        if result.is_err() {
            self.sockets.remove(&id);
        }
        self.trace(&("dialed", id, result));
        self.machine.handle_dialed(id, result, self.now);
    }

    fn make_link(&mut self) {
        let attempt = self.attempts.pop();
        if let Some(link) = self.machine.make_link(attempt, self.dialect, self.now) {
            self.links.insert(link);
        }
    }

    fn open(&mut self, cursor: &mut Cursor<'_>) {
        // What comes behind a CONNECT may be more than a stream's early credit; a driver keeps to what is wanted.
        let early = Bytes::from(vec![
            2;
            usize::try_from(cursor.number() % 4097).unwrap_or(0)
        ]);
        let wait = Duration::from_millis(cursor.number().min(5_000));
        if let Some(id) = self.machine.open(early, wait, self.now) {
            self.sockets.insert(id, Socket::default());
        }
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        self.machine.handle_timeout(self.now);
        self.drain();
        if let Some(deadline) = self.machine.deadline() {
            assert!(
                deadline.at > self.now,
                "{deadline:?} is over at {:?} and stays",
                self.now
            );
        }
    }

    fn drain(&mut self) {
        for _ in 0..ENDLESS {
            let Some(output) = self.machine.poll_output() else {
                return;
            };
            self.trace(&output);
            match output {
                Output::TransmitReady(_)
                | Output::LinkReadable(_)
                | Output::Local(_)
                | Output::Event(_)
                | Output::Cluster(_)
                | Output::Client(_) => {}
                Output::EndLink { link, .. } => {
                    self.links.remove(&link);
                }
                Output::Reply { id, reply } => {
                    // The client may have gone meanwhile.
                    if let Some(socket) = self.sockets.get_mut(&id) {
                        assert!(!socket.replied, "{id} has two replies");
                        socket.replied = true;
                    }
                    let _ = reply.into_bytes();
                }
                Output::Dial { id, .. } => {
                    let is_new = self
                        .sockets
                        .insert(
                            id,
                            Socket {
                                dialing: true,
                                ..Socket::default()
                            },
                        )
                        .is_none();
                    assert!(is_new, "{id} is dialed twice");
                }
                Output::Close { id, .. } => {
                    self.sockets.remove(&id);
                }
                Output::Connect(attempt) => self.attempts.push(attempt.attempt),
            }
        }
        panic!("outputs have no end");
    }

    fn trace(&self, what: &dyn Debug) {
        if self.traces {
            println!("{:?} {what:?}", self.now);
        }
    }

    fn check_bounds(&mut self) {
        let held_max = match self.dialect {
            Dialect::V1 => WINDOW_BYTES_MAX,
            Dialect::Base => BASE_BUFFER_BYTES_MAX + MESSAGE_BYTES_MAX as u64,
        };
        for id in self.sockets.keys() {
            let held: usize = self.machine.pending_write(*id).map(Bytes::len).sum();
            assert!(held as u64 <= held_max, "{id} holds {held} bytes");
        }
        for info in self.machine.link_infos() {
            assert!(info.streams <= STREAMS_PER_LINK_MAX, "{info:?}");
        }
        // What comes in base can't be refused, only left unread: a message for each stream may pass the budget.
        let slack = match self.dialect {
            Dialect::V1 => 0,
            Dialect::Base => {
                (BASE_BUFFER_BYTES_MAX + MESSAGE_BYTES_MAX as u64) * self.sockets.len() as u64
            }
        };
        let (used, bytes_max) = (self.budget.used(), self.budget.bytes_max());
        assert!(
            used <= bytes_max + slack,
            "{used} bytes of {bytes_max} are used"
        );
    }

    /// Without links and sockets there is nothing left, and nothing charged.
    fn end(mut self) {
        for link in self.links.clone() {
            self.transmit(link, ENDLESS);
            assert!(
                self.machine.poll_transmit(link, self.now).is_none(),
                "messages have no end"
            );
            self.machine.link_lost(link, LinkLoss::Broken, self.now);
        }
        self.drain();
        for id in self.sockets.keys().copied().collect::<Vec<_>>() {
            if self.sockets.get(&id).is_some_and(|socket| !socket.dialing) {
                self.write(id, u64::MAX);
                self.drain();
            }
        }
        // Who waits for the node's link waits for a time.
        self.pass(Duration::from_secs(3600));
        assert!(
            self.machine.is_idle(),
            "left behind: {:?} {:?}",
            self.machine.stream_infos(),
            self.machine.link_infos()
        );
        assert!(self.sockets.is_empty(), "sockets of streams that are gone");
        assert_eq!(self.budget.used(), 0, "charged for nothing");
    }
}

const TYPES: &[&str] = &[
    "connecting",
    "connected",
    "content",
    "content",
    "content",
    "window",
    "eof",
    "closed",
    "connect-failed",
    "tcp-forward",
    "tcp-forward",
    "heartbeat",
    "heartbeat-echo",
    "resume",
    "resumed",
    "detached",
    "drain",
    "here",
    "gone",
    "nonsense",
];

fn pick<T>(cursor: &mut Cursor<'_>, choices: impl ExactSizeIterator<Item = T>) -> Option<T> {
    let count = choices.len();
    let mut choices = choices;
    let at = usize::from(cursor.byte());
    if count == 0 {
        None
    } else {
        choices.nth(at % count)
    }
}

fn node() -> NodeName {
    NodeName::parse("node-A").expect("a name")
}

fn config() -> Config {
    Config {
        streams: StreamConfig {
            window_bytes_min: 8 * 1024,
            window_bytes_max: WINDOW_BYTES_MAX,
            base_buffer_bytes_max: BASE_BUFFER_BYTES_MAX,
            ..StreamConfig::default()
        },
        links: LinkConfig {
            message_bytes_max: MESSAGE_BYTES_MAX,
            content_bytes_max: MESSAGE_BYTES_MAX / 2,
            streams_per_link_max: STREAMS_PER_LINK_MAX,
            pending_per_node_max: 4,
            ..LinkConfig::default()
        },
    }
}

fn edge_config() -> EdgeConfig {
    EdgeConfig {
        node: node(),
        addresses: 1,
        targets: Targets::default(),
        reconnect: Reconnect::default(),
        dialect: DialectChoice::Auto,
        limits: config(),
    }
}
