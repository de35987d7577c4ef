//! The replicas of a cluster: who they are, and which of them holds a node's link (PROTOCOL.md, "Moving").

use crate::instance::Instance;
use alloc::string::String;
use core::cmp::Ordering;
use core::fmt;
use rand_core::Rng;

/// One start of one replica: drawn at random, in the metadata `tunnel-replica` of peer links in both directions. By it a
/// replica knows whose `here` belongs to which of its connections, and when it has connected to itself.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReplicaId(u128);

impl ReplicaId {
    /// A replica that starts.
    pub fn random(rng: &mut impl Rng) -> ReplicaId {
        let mut bytes = [0; 16];
        rng.fill_bytes(&mut bytes);
        ReplicaId(u128::from_be_bytes(bytes))
    }

    /// Reads the metadata's value: 32 hexadecimal digits.
    pub fn parse(text: &str) -> Option<ReplicaId> {
        let proper = text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        proper
            .then(|| u128::from_str_radix(text, 16).ok())
            .flatten()
            .map(ReplicaId)
    }
}

impl fmt::Display for ReplicaId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for ReplicaId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A node's newest link at one replica, as `here` tells of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// The node's name as its credential spells it.
    pub spelling: String,
    /// Which process, and which of its links.
    pub instance: Instance,
    /// When the link was set up, in milliseconds of the replica's clock, and at least 1 above any that it had heard of.
    pub since_ms: u64,
    /// It takes no new streams.
    pub draining: bool,
}

impl Held {
    /// Whether this link takes over from `other`: of one process the later one, of two by set-up time, then by uuid.
    pub fn is_newer_than(&self, other: &Held) -> bool {
        let order = match self.instance.is_same_process(&other.instance) {
            true => self.instance.link().cmp(&other.instance.link()),
            false => self
                .since_ms
                .cmp(&other.since_ms)
                .then_with(|| self.instance.uuid().cmp(other.instance.uuid())),
        };
        order == Ordering::Greater
    }

    /// Whether both speak of the same link, whatever its state.
    pub fn is_same_link(&self, other: &Held) -> bool {
        self.instance == other.instance && self.since_ms == other.since_ms
    }
}

/// Another replica that holds a node's link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// Who.
    pub replica: ReplicaId,
    /// What it said.
    pub held: Held,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(instance: &str, since_ms: u64) -> Held {
        Held {
            spelling: "node-A".into(),
            instance: Instance::parse(instance).expect("well-formed"),
            since_ms,
            draining: false,
        }
    }

    #[test]
    fn links_of_one_process_compare_by_number_and_others_by_time() {
        assert!(held("a.2", 10).is_newer_than(&held("a.1", 90)));
        assert!(held("a.1", 11).is_newer_than(&held("b.9", 10)));
        assert!(
            held("b.1", 10).is_newer_than(&held("a.1", 10)),
            "the uuid decides"
        );
        assert!(!held("a.1", 10).is_newer_than(&held("a.1", 10)));
    }

    #[test]
    fn an_id_is_read_as_it_is_written() {
        let id = ReplicaId(7);
        let text = alloc::string::ToString::to_string(&id);
        assert_eq!(ReplicaId::parse(&text), Some(id));
        for bad in ["", "7", "+0000000000000000000000000000007", "z"] {
            assert_eq!(ReplicaId::parse(bad), None, "{bad}");
        }
    }
}
