//! One gRPC stream's life: dialect, heartbeats, round trip, and whose message goes next.

pub(crate) mod heartbeat;
pub(crate) mod notices;
pub(crate) mod schedule;
pub(crate) mod window;

use crate::config::Config;
use crate::instance::Instance;
use crate::name::Topic;
use crate::output::{LinkKind, StreamId};
use crate::proto::StreamMsg;
use crate::time::Instant;
use crate::wire::{CATEGORY_LINK, Dialect, Kind};
use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::string::String;
use bytes::Bytes;
use core::time::Duration;
use heartbeat::{Heartbeat, Mode};
use notices::Notices;
use schedule::Schedule;
use window::SharedWindow;

/// Unknown streams that a base link remembers.
const UNKNOWN_MAX: usize = 64;
/// Assumed until a heartbeat has measured it.
const ROUND_TRIP_UNKNOWN: Duration = Duration::from_millis(50);

/// A link that is to be added.
#[derive(Debug)]
pub(crate) struct NewLink {
    pub(crate) kind: LinkKind,
    /// `None`: awaited from the response's headers.
    pub(crate) dialect: Option<Dialect>,
    /// The node's name as it is written in the link's messages; empty on a control link.
    pub(crate) node: String,
    pub(crate) instance: Option<Instance>,
    pub(crate) remote: String,
    /// Client: who is verified to be at the other end.
    pub(crate) user: String,
}

/// One link. Everything of it is here or in the places of its streams, and goes with it.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) kind: LinkKind,
    pub(crate) dialect: Dialect,
    /// The node's name as it is written in messages of this link.
    pub(crate) node: String,
    pub(crate) instance: Option<Instance>,
    pub(crate) remote: String,
    pub(crate) user: String,
    pub(crate) up_at: Instant,
    /// Takes no new streams.
    pub(crate) draining: bool,
    pub(crate) heartbeat: Heartbeat,
    pub(crate) schedule: Schedule,
    /// What its streams may have under way towards this end.
    pub(crate) window: SharedWindow,
    pub(crate) streams: BTreeSet<StreamId>,
    /// Those of them that wait for an answer: a link that swallows it is to be found out soon.
    pub(crate) waiting: BTreeSet<StreamId>,
    /// Answers to messages that belong to no stream. Bounded.
    answers: VecDeque<StreamMsg>,
    answers_max: usize,
    /// `detached` of routes that are gone, the newest of each stream. As many as there were routes.
    pub(crate) lost: BTreeMap<Topic, StreamMsg>,
    drain_due: bool,
    /// Control: what this replica holds, for the other to know.
    pub(crate) notices: Notices,
    /// Base: unknown streams that were answered with `closed` already. Bounded.
    unknown: VecDeque<Topic>,
    /// Base: streams whose buffer is full; while there are any the link isn't read.
    pub(crate) full: BTreeSet<StreamId>,
    /// The transport has been told that there is nothing: it must be woken.
    pub(crate) asleep: bool,
    /// The timer that is set for it.
    pub(crate) timer: Option<Instant>,
}

impl Link {
    pub(crate) fn new(new: NewLink, heartbeat: Heartbeat, config: &Config, now: Instant) -> Link {
        Link {
            kind: new.kind,
            dialect: new.dialect.unwrap_or(Dialect::Base),
            node: new.node,
            instance: new.instance,
            remote: new.remote,
            user: new.user,
            up_at: now,
            draining: false,
            heartbeat,
            schedule: Schedule::default(),
            window: SharedWindow::new(config.streams.window_bytes_min, now),
            streams: BTreeSet::new(),
            waiting: BTreeSet::new(),
            answers: VecDeque::new(),
            answers_max: config.links.answers_max,
            lost: BTreeMap::new(),
            drain_due: false,
            notices: Notices::default(),
            unknown: VecDeque::new(),
            full: BTreeSet::new(),
            asleep: true,
            timer: None,
        }
    }

    /// The dialect is settled: by the response's headers.
    pub(crate) fn establish(&mut self, dialect: Dialect, now: Instant) {
        self.dialect = dialect;
        self.up_at = now;
        self.heartbeat.enter(
            match dialect {
                Dialect::V1 => Mode::V1,
                Dialect::Base => Mode::BaseEdge,
            },
            now,
        );
    }

    /// The line's own round trip, without queues.
    pub(crate) fn round_trip(&self) -> Duration {
        self.heartbeat
            .round_trip_min()
            .unwrap_or(ROUND_TRIP_UNKNOWN)
    }

    /// Queues an answer to a message that belongs to no stream. False: too many wait, it is dropped.
    pub(crate) fn answer(&mut self, msg: StreamMsg) -> bool {
        let waiting = |answer: &StreamMsg| {
            answer.topic == msg.topic && answer.r#type == msg.r#type && answer.epoch == msg.epoch
        };
        if self.answers.len() >= self.answers_max {
            return false;
        }
        if !self.answers.iter().any(waiting) {
            self.answers.push_back(msg);
        }
        true
    }

    /// A route of this link is gone; its end hears of it, whatever waits.
    pub(crate) fn lose(&mut self, topic: Topic, msg: StreamMsg) {
        let is_old = |kept: &StreamMsg| kept.epoch > msg.epoch;
        if !self.lost.get(&topic).is_some_and(is_old) {
            self.lost.insert(topic, msg);
        }
    }

    /// This end leaves: the other side is told, once.
    pub(crate) fn send_drain(&mut self) {
        self.drain_due = self.dialect == Dialect::V1;
    }

    /// Base: whether content of this unknown stream comes for the first time, as far as is remembered.
    pub(crate) fn first_unknown(&mut self, topic: &Topic) -> bool {
        if self.unknown.contains(topic) {
            return false;
        }
        if self.unknown.len() >= UNKNOWN_MAX {
            self.unknown.pop_front();
        }
        self.unknown.push_back(topic.clone());
        true
    }

    /// The link's own next message: an echo, a heartbeat, an answer.
    pub(crate) fn next_own(&mut self, now: Instant) -> Option<StreamMsg> {
        if let Some(data) = self.heartbeat.take_echo() {
            let kind = match self.dialect {
                Dialect::V1 => Kind::HeartbeatEcho,
                Dialect::Base => Kind::Heartbeat,
            };
            return Some(self.link_message(kind, data));
        }
        if self.heartbeat.is_due() {
            let token = self.heartbeat.send(now);
            let data = match self.dialect {
                Dialect::V1 => token,
                Dialect::Base => Bytes::new(),
            };
            return Some(self.link_message(Kind::Heartbeat, data));
        }
        if core::mem::take(&mut self.drain_due) {
            return Some(self.link_message(Kind::Drain, Bytes::new()));
        }
        let msg = match self.lost.pop_first() {
            Some((_, msg)) => Some(msg),
            None => self.answers.pop_front(),
        };
        match msg {
            Some(mut msg) => {
                msg.node.clone_from(&self.node);
                Some(msg)
            }
            None => self.notices.pop(),
        }
    }

    fn link_message(&self, kind: Kind, data: Bytes) -> StreamMsg {
        StreamMsg {
            node: self.node.clone(),
            category: CATEGORY_LINK.into(),
            r#type: kind.as_str().into(),
            topic: match self.dialect {
                Dialect::V1 => String::new(),
                Dialect::Base => alloc::format!("{}heartbeat", self.node),
            },
            data,
            ..StreamMsg::default()
        }
    }

    /// Whether there may be something to send.
    pub(crate) fn has_work(&self) -> bool {
        self.heartbeat.has_echo()
            || self.heartbeat.is_due()
            || !self.answers.is_empty()
            || !self.lost.is_empty()
            || self.drain_due
            || !self.notices.is_empty()
            || !self.schedule.is_empty()
    }
}
