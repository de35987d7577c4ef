//! What an acceptor remembers of streams that have ended, so that nothing is dialed twice and nobody is told a failure
//! that wasn't one (PROTOCOL.md, "Ends").

use crate::name::Topic;
use crate::reason::Reason;
use crate::stream::Stream;
use crate::stream::key::Key;
use crate::time::Instant;
use alloc::collections::{BTreeMap, VecDeque};
use core::time::Duration;

/// The most that are kept; of the oldest, which go, a late opener hears `unknown-stream`.
const KEPT_MAX: usize = 4096;

/// One stream's last word.
#[derive(Debug)]
pub(super) struct LastWord {
    key: Key,
    pub(super) epoch: u32,
    pub(super) reason: Reason,
}

impl LastWord {
    /// Whether a `connecting` is the same opener's, sent again.
    pub(super) fn answers_to(&self, epoch: u32, key: &Key) -> bool {
        epoch > self.epoch && self.key.is(key)
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
        };
        self.by_topic.insert(topic, word);
    }

    pub(super) fn find(&self, topic: &Topic) -> Option<&LastWord> {
        self.by_topic.get(topic)
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
