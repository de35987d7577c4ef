//! What a run leaves behind: a hash of everything that happened, its last events, and how often the rare things came about.

use std::collections::{BTreeMap, VecDeque};

use crate::net::{Event, Nanos};

const EVENTS_KEPT: usize = 60;

/// A run's events.
#[derive(Debug, Default)]
pub(crate) struct Trace {
    hash: u64,
    count: u64,
    last: VecDeque<(Nanos, Event)>,
}

impl Trace {
    pub(crate) fn event(&mut self, now: Nanos, event: Event) {
        self.count += 1;
        if self.last.len() == EVENTS_KEPT {
            self.last.pop_front();
        }
        self.last.push_back((now, event));
        self.mix(now);
    }

    /// Mixes a number into the hash.
    pub(crate) fn mix(&mut self, value: u64) {
        self.hash = (self.hash ^ value)
            .wrapping_mul(0x9E37_79B9_7F4A_7C15)
            .rotate_left(29);
    }

    pub(crate) fn hash(&self) -> u64 {
        self.hash
    }

    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    pub(crate) fn last(&self) -> Vec<String> {
        let line = |(at, event): &(Nanos, Event)| format!("{:>12.6} s  {event:?}", seconds(*at));
        self.last.iter().map(line).collect()
    }
}

pub(crate) fn seconds(at: Nanos) -> f64 {
    at as f64 / 1e9
}

/// How often what came about. A situation of [`REQUIRED`] that never does in a batch fails the batch.
#[derive(Clone, Debug, Default)]
pub struct Coverage(BTreeMap<&'static str, u64>);

impl Coverage {
    pub(crate) fn hit(&mut self, what: &'static str) {
        *self.0.entry(what).or_default() += 1;
    }

    /// Takes in another run's counters.
    pub fn add(&mut self, other: &Coverage) {
        for (what, count) in &other.0 {
            *self.0.entry(what).or_default() += count;
        }
    }

    /// Situations and how often each came about.
    pub fn rows(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.0.iter().map(|(what, count)| (*what, *count))
    }

    /// Situations of a list that never came about.
    pub fn missing(&self, of: &[&'static str]) -> Vec<&'static str> {
        let never = |what: &&'static str| !self.0.contains_key(what);
        of.iter().copied().filter(never).collect()
    }
}

/// What every batch of clusters has to have seen.
pub const REQUIRED_OF_CLUSTERS: &[&str] = &[
    "stream opened over a relay",
    "relayed stream asked for over another replica",
    "relay hears not-here",
    "not-here retried, and answered",
    "detached by a relay",
    "detached while it was dialed",
    "told by a relay to move",
    "client asks at another replica",
    "registry says where a node is",
    "registry's answer proved wrong",
    "version 1 ends before a base edge",
    "lost with its link: between replicas",
    "lost with its link: a client's",
    "lost with its link: detached",
    "replicas' line cut",
    "replicas' line held",
    "replicas' line held one way",
    "replica unreachable for another",
    "replica drained with streams",
    "replica has nothing left",
    "replica's time is over",
    "rolled: all replicas",
    "asked a replica that leaves",
    "edge hears that its replica leaves",
    "client hears that its replica leaves",
    "edge drained with streams",
    "edge has nothing left",
    "edge's time is over",
    "replica hears that its edge leaves",
    "edge upgraded: the old one leaves first",
    "edge upgraded: the new one comes first",
    "stream ended: its process left",
    "stream resumed at an edge that leaves",
    "edge hops",
    "two replicas hold a node",
    "two replicas hold a node, the newer with the earlier clock",
    "two replicas hold two processes of a node",
    "client's line cut",
    "client's line held",
    "no way in for clients",
    "client says that it reconnects",
    "client says that it is back",
];

/// What every batch has to have seen.
pub const REQUIRED: &[&str] = &[
    "reply 200",
    "reply 403",
    "reply 404",
    "reply 408",
    "reply 502",
    "reply 503",
    "reply 504",
    "complete, version 1",
    "complete, base",
    "early bytes behind the request",
    "waited for the node's link",
    "half-closed first by the client",
    "half-closed first by the target",
    "window grown",
    "read held back by credit",
    "link not read: a base buffer is full",
    "link silent",
    "link lost by one side first",
    "link replaced by a twin",
    "message by an old link after the new one is up",
    "loss reported late",
    "closed with bytes in flight",
    "edge restarted with streams",
    "replica restarted with streams",
    "stream ended: reset",
    "stream ended: node-offline",
    "stream ended: flow-control",
    "stream ended: protocol-error",
    "stream ended: dial-timeout",
    "stream ended: over-limit",
    "dial cancelled",
    "hub dropped",
    "paused",
    "clock jumped",
    "rogue edge spoke",
    "rogue cloud spoke",
    "10,000 connectings",
    "link refused: faulty peer",
    "stream resumed",
    "stream resumed with bytes to replay",
    "complete, resumed once",
    "complete, resumed more than once",
    "resume asked for",
    "connecting again",
    "grace expired",
    "orphaned",
    "link overlap",
    "link lost while dialing",
    "dialed by another process",
    "duplicate bytes dropped",
    "late message of an older attachment",
    "ignored: another attachment",
    "last word answered: complete",
    "last word answered: failed",
    "lost with its link: connecting",
    "lost with its link: connected",
    "lost with its link: connect-failed",
    "lost with its link: content",
    "lost with its link: window",
    "lost with its link: eof",
    "lost with its link: closed",
    "lost with its link: resume",
    "lost with its link: resumed",
    "replayed by a rogue",
];
