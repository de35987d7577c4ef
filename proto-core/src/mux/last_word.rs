//! What an acceptor remembers of streams that have ended, so that nothing is dialed twice and nobody is told a failure
//! that wasn't one (PROTOCOL.md, "Ends").

use crate::name::Topic;
use crate::proto::StreamMsg;
use crate::reason::Reason;
use crate::stream::Stream;
use crate::stream::key::Key;
use crate::time::Instant;
use crate::wire::Kind;
use alloc::collections::{BTreeMap, VecDeque};
use bytes::Bytes;
use core::time::Duration;

/// The most that are kept; of the oldest, which go, a late opener hears `unknown-stream`.
const KEPT_MAX: usize = 4096;

/// One stream's last word.
#[derive(Debug)]
pub(super) struct LastWord {
    key: Key,
    epoch: u32,
    reason: Reason,
    /// The final counters, if the stream was complete: what this end held, and what it had sent.
    complete: Option<(u64, u64)>,
}

impl LastWord {
    /// The answer to a `connecting` or `resume` of the stream: its type, code and ack, and the proof where one is due.
    /// `None`: it doesn't come from the stream's opener, or comes late.
    pub(super) fn answer(&mut self, kind: Kind, msg: &StreamMsg) -> Option<StreamMsg> {
        let proved = match kind {
            Kind::Connecting => Key::from_wire(&msg.key).is_some_and(|key| self.key.is(&key)),
            _ => self.key.is_proved(&msg.key, kind, &msg.topic, msg.epoch),
        };
        if msg.epoch <= self.epoch || !proved {
            return None;
        }
        self.epoch = msg.epoch;
        let answer = |kind: Kind| StreamMsg {
            node: msg.node.clone(),
            category: msg.category.clone(),
            r#type: kind.as_str().into(),
            topic: msg.topic.clone(),
            epoch: msg.epoch,
            ..StreamMsg::default()
        };
        // What was sent and never acked went with the buffers: an opener that lacks some of it has failed.
        let (complete, reason) = match self.complete {
            Some((_, sent)) if msg.ack < sent => (None, Reason::GraceExpired),
            complete => (complete, self.reason),
        };
        Some(match (complete, kind) {
            (Some((ack, _)), _) => StreamMsg {
                ack,
                limit: ack,
                key: Bytes::copy_from_slice(&self.key.proof(Kind::Resumed, &msg.topic, msg.epoch)),
                ..answer(Kind::Resumed)
            },
            (None, Kind::Connecting) => StreamMsg {
                code: reason.code(),
                ..answer(Kind::ConnectFailed)
            },
            (None, _) => StreamMsg {
                code: reason.code(),
                ..answer(Kind::Closed)
            },
        })
    }
}

/// The last words of one acceptor, oldest first.
#[derive(Debug, Default)]
pub(super) struct LastWords {
    by_topic: BTreeMap<Topic, LastWord>,
    by_age: VecDeque<(Instant, Topic)>,
}

impl LastWords {
    /// Keeps what may be asked for again, for as long as the opener could still resume.
    pub(super) fn keep(&mut self, stream: &Stream, grace: Duration, now: Instant) {
        self.expire(now);
        let Some(reason) = stream.ended() else {
            return;
        };
        if stream.closed_by_peer() {
            return; // "`closed` frees it."
        }
        while self.by_age.len() >= KEPT_MAX {
            if let Some((_, topic)) = self.by_age.pop_front() {
                self.by_topic.remove(&topic);
            }
        }
        let topic = stream.identity.topic.clone();
        self.by_age.push_back((now + grace, topic.clone()));
        let word = LastWord {
            key: stream.key().clone(),
            epoch: stream.epoch(),
            reason,
            complete: (reason == Reason::Done)
                .then(|| (stream.receive.ack(), stream.replay.end() + 1)),
        };
        self.by_topic.insert(topic, word);
    }

    pub(super) fn find(&mut self, topic: &Topic) -> Option<&mut LastWord> {
        self.by_topic.get_mut(topic)
    }

    /// The opener has heard it.
    pub(super) fn free(&mut self, topic: &Topic) -> bool {
        self.by_topic.remove(topic).is_some()
    }

    fn expire(&mut self, now: Instant) {
        while self.by_age.front().is_some_and(|(until, _)| *until <= now) {
            if let Some((_, topic)) = self.by_age.pop_front() {
                self.by_topic.remove(&topic);
            }
        }
    }
}
