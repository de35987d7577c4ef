//! What an acceptor remembers of streams that have ended, so that nothing is dialed twice and nobody is told a failure
//! that wasn't one (PROTOCOL.md, "Ends").

use crate::name::Topic;
use crate::proto::StreamMsg;
use crate::reason::Reason;
use crate::stream::Stream;
use crate::stream::key::Key;
use crate::time::Instant;
use crate::wire::Kind;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::string::String;
use bytes::Bytes;
use core::time::Duration;

/// The most that are kept; of the oldest, which go, a late opener hears `unknown-stream`.
const KEPT_MAX: usize = 4096;
/// Those of one user.
const KEPT_PER_USER_MAX: usize = KEPT_MAX / 4;
/// How long one is kept that its opener has heard, where something of an older attachment may still be on its way.
const KEPT_AFTER_CLOSED: Duration = Duration::from_secs(30);

/// One stream's last word.
#[derive(Debug)]
pub(super) struct LastWord {
    key: Key,
    epoch: u32,
    reason: Reason,
    /// The final counters, if the stream was complete: what this end held, and what it had sent.
    complete: Option<(u64, u64)>,
    user: String,
    /// Which it was to be kept.
    number: u64,
    until: Instant,
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

/// The last words of one acceptor.
#[derive(Debug, Default)]
pub(super) struct LastWords {
    by_topic: BTreeMap<Topic, LastWord>,
    by_age: BTreeMap<u64, Topic>,
    /// Of users that are told apart.
    by_user: BTreeMap<String, BTreeSet<u64>>,
    by_end: BTreeSet<(Instant, u64)>,
    kept: u64,
}

impl LastWords {
    /// Keeps what may be asked for again, for as long as the opener could still resume.
    pub(super) fn keep(&mut self, stream: &Stream, grace: Duration, now: Instant) {
        self.expire(now);
        let Some(reason) = stream.ended() else {
            return;
        };
        let kept_for = match (stream.closed_by_peer(), stream.epoch() > 1) {
            (true, false) => return, // "`closed` frees it."
            (true, true) => KEPT_AFTER_CLOSED,
            (false, _) => grace,
        };
        self.kept += 1;
        let word = LastWord {
            key: stream.key().clone(),
            epoch: stream.epoch(),
            reason,
            complete: (reason == Reason::Done)
                .then(|| (stream.receive.ack(), stream.replay.end() + 1)),
            user: stream.identity.user.clone(),
            number: self.kept,
            until: now + kept_for,
        };
        self.insert(stream.identity.topic.clone(), word);
    }

    pub(super) fn find(&mut self, topic: &Topic, now: Instant) -> Option<&mut LastWord> {
        self.by_topic.get_mut(topic).filter(|word| word.until > now)
    }

    /// The opener has heard it. What it sent on an older attachment may come yet, and is not to be dialed again.
    pub(super) fn free(&mut self, topic: &Topic, now: Instant) {
        let Some(mut word) = self.remove(topic) else {
            return;
        };
        if word.epoch > 1 {
            word.until = word.until.min(now + KEPT_AFTER_CLOSED);
            self.insert(topic.clone(), word);
        }
    }

    /// Forgets those whose time is over.
    pub(super) fn expire(&mut self, now: Instant) {
        while let Some(&(until, number)) = self.by_end.first()
            && until <= now
        {
            self.drop_number(number);
        }
    }

    fn insert(&mut self, topic: Topic, word: LastWord) {
        self.remove(&topic);
        let of_user = self.by_user.get(&word.user);
        if let Some(of_user) = of_user.filter(|numbers| numbers.len() >= KEPT_PER_USER_MAX)
            && let Some(&oldest) = of_user.first()
        {
            self.drop_number(oldest);
        }
        if self.by_age.len() >= KEPT_MAX
            && let Some((&oldest, _)) = self.by_age.first_key_value()
        {
            self.drop_number(oldest);
        }
        self.by_age.insert(word.number, topic.clone());
        self.by_end.insert((word.until, word.number));
        if !word.user.is_empty() {
            let of_user = self.by_user.entry(word.user.clone()).or_default();
            of_user.insert(word.number);
        }
        self.by_topic.insert(topic, word);
    }

    fn drop_number(&mut self, number: u64) {
        if let Some(topic) = self.by_age.get(&number).cloned() {
            self.remove(&topic);
        }
    }

    fn remove(&mut self, topic: &Topic) -> Option<LastWord> {
        let word = self.by_topic.remove(topic)?;
        self.by_age.remove(&word.number);
        self.by_end.remove(&(word.until, word.number));
        if let Some(of_user) = self.by_user.get_mut(&word.user) {
            of_user.remove(&word.number);
            if of_user.is_empty() {
                self.by_user.remove(&word.user);
            }
        }
        Some(word)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::format;

    fn topic(number: usize) -> Topic {
        Topic::parse(&format!("{number:08}")).expect("a topic")
    }

    fn at(seconds: u64) -> Instant {
        Instant::ZERO + Duration::from_secs(seconds)
    }

    impl LastWords {
        fn keep_one(&mut self, number: usize, user: &str, epoch: u32) {
            self.kept += 1;
            let word = LastWord {
                key: Key::from_wire(&[7; 16]).expect("a key"),
                epoch,
                reason: Reason::Refused,
                complete: None,
                user: user.into(),
                number: self.kept,
                until: at(300),
            };
            self.insert(topic(number), word);
        }

        fn sizes(&self) -> [usize; 4] {
            let of_users = self.by_user.values().map(BTreeSet::len).sum();
            let (topics, ages) = (self.by_topic.len(), self.by_age.len());
            [topics, ages, self.by_end.len(), of_users]
        }
    }

    #[test]
    fn one_user_gets_a_quarter_and_all_together_no_more_than_there_is() {
        let mut words = LastWords::default();
        for number in 0..2_000 {
            words.keep_one(number, "greedy", 1);
        }
        assert_eq!(words.sizes(), [KEPT_PER_USER_MAX; 4]);
        assert!(words.find(&topic(0), at(0)).is_none(), "the oldest went");
        assert!(words.find(&topic(1_999), at(0)).is_some());
        for number in 2_000..10_000 {
            words.keep_one(number, &format!("user-{number}"), 1);
        }
        assert_eq!(words.sizes(), [KEPT_MAX; 4]);
        words.expire(at(300));
        assert_eq!(words.sizes(), [0; 4]);
    }

    #[test]
    fn a_topic_has_one() {
        let mut words = LastWords::default();
        words.keep_one(1, "user", 1);
        words.keep_one(1, "user", 2);
        assert_eq!(words.sizes(), [1; 4]);
        words.expire(at(300));
        assert_eq!(words.sizes(), [0; 4]);
    }

    #[test]
    fn what_was_heard_goes_at_once_unless_something_old_may_come_yet() {
        let mut words = LastWords::default();
        words.keep_one(1, "", 1);
        words.keep_one(2, "", 2);
        for number in [1, 2] {
            words.free(&topic(number), at(10));
        }
        assert!(words.find(&topic(1), at(10)).is_none());
        assert!(words.find(&topic(2), at(39)).is_some());
        assert!(words.find(&topic(2), at(40)).is_none());
        words.expire(at(40));
        assert_eq!(words.sizes(), [0; 4]);
    }
}
