//! What becomes of a registry's answers: for how long they are believed, and what is held against them.
//!
//! An answer is an address, and only a replica that this one has a control link to is ever asked for a node: so whatever a
//! registry says, nobody is dialed because of it, and a wrong answer costs one question.

mod label;
mod owners;
mod slices;
mod sources;

pub use label::{LABEL_BYTES_MAX, Label};
pub use owners::{Owners, OwnersConfig};
pub use slices::{Action, Slices, SlicesConfig, Write, Written};
pub use sources::{FollowLoss, Source, Sources, SourcesConfig};

use crate::name::NodeName;
use crate::replica::ReplicaId;
use crate::time::Instant;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::net::IpAddr;
use core::time::Duration;

/// Settings of the answers that are kept.
#[derive(Clone, Copy, Debug)]
pub struct AnswersConfig {
    /// How long an answer that names somebody is kept.
    pub found: Duration,
    /// How long one that names nobody is, or one that was wrong.
    pub nobody: Duration,
    /// For how many nodes at most.
    pub nodes_max: usize,
}

impl Default for AnswersConfig {
    fn default() -> Self {
        AnswersConfig {
            found: Duration::from_secs(5),
            nobody: Duration::from_secs(1),
            nodes_max: 10_000,
        }
    }
}

/// What to do about a node that nobody is known to hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ask {
    /// The registry has said so a moment ago.
    Known(Vec<IpAddr>),
    /// It is being asked already.
    Waiting,
    /// Ask it; `answered` is owed, whatever comes of it.
    Now,
}

/// Addresses of one answer that are looked at.
const ADDRESSES_MAX: usize = 16;

#[derive(Debug, Default)]
struct Answer {
    /// The registry is being asked.
    is_awaited: bool,
    found: Vec<IpAddr>,
    /// `found` holds until then.
    until: Instant,
    /// Addresses that were wrong, each disbelieved until then. If the node comes there meanwhile, its replica says `here`.
    wrong: BTreeMap<IpAddr, Instant>,
}

/// The registry's latest answers.
#[derive(Debug, Default)]
pub struct Answers {
    config: AnswersConfig,
    nodes: BTreeMap<NodeName, Answer>,
}

impl Answers {
    /// None yet.
    pub fn new(config: AnswersConfig) -> Answers {
        Answers {
            config,
            nodes: BTreeMap::new(),
        }
    }

    /// Somebody wants to know who holds a node.
    pub fn ask(&mut self, node: &NodeName, now: Instant) -> Ask {
        if !self.nodes.contains_key(node) {
            self.make_room(now);
        }
        let answer = self.nodes.entry(node.clone()).or_default();
        if answer.is_awaited {
            return Ask::Waiting;
        }
        if answer.until > now {
            return Ask::Known(answer.found.clone());
        }
        answer.is_awaited = true;
        Ask::Now
    }

    /// The registry has answered, or could not be asked: then with nothing. What of it is believed.
    pub fn answered(
        &mut self,
        node: &NodeName,
        addresses: Vec<IpAddr>,
        now: Instant,
    ) -> Vec<IpAddr> {
        let Some(answer) = self.nodes.get_mut(node) else {
            return addresses;
        };
        answer.is_awaited = false;
        answer.wrong.retain(|_, until| *until > now);
        answer.found = addresses;
        answer.found.truncate(ADDRESSES_MAX);
        answer
            .found
            .retain(|address| !answer.wrong.contains_key(address));
        answer.until = match answer.found.is_empty() {
            true => now + self.config.nobody,
            false => now + self.config.found,
        };
        answer.found.clone()
    }

    /// Whoever is at this address does not hold the node.
    pub fn wrong(&mut self, node: &NodeName, address: IpAddr, now: Instant) {
        let Some(answer) = self.nodes.get_mut(node) else {
            return;
        };
        let before = answer.found.len();
        answer.found.retain(|of| *of != address);
        if answer.found.len() == before {
            return;
        }
        answer.wrong.insert(address, now + self.config.found);
        // Soon asked again: whoever holds the node now has not been found.
        answer.until = answer.until.min(now + self.config.nobody);
    }

    fn make_room(&mut self, now: Instant) {
        if self.nodes.len() >= self.config.nodes_max {
            self.nodes
                .retain(|_, answer| answer.is_awaited || answer.until > now);
        }
        if self.nodes.len() >= self.config.nodes_max {
            self.nodes.retain(|_, answer| answer.is_awaited);
        }
    }
}

/// Which of the replicas that are connected an answer means: those at its addresses.
pub fn believed(
    addresses: &[IpAddr],
    peers: impl Iterator<Item = (ReplicaId, IpAddr)>,
) -> Vec<ReplicaId> {
    peers
        .filter(|(_, at)| {
            let same = |address: &IpAddr| address.to_canonical() == at.to_canonical();
            addresses.iter().any(same)
        })
        .map(|(replica, _)| replica)
        .collect()
}

/// Which addresses of an answer lead to no replica that is connected: what the registry says of those is as good as wrong.
pub fn strangers(addresses: &[IpAddr], peers: impl Iterator<Item = IpAddr> + Clone) -> Vec<IpAddr> {
    let is_known = |address: &IpAddr| {
        let mut peers = peers.clone();
        peers.any(|peer| peer.to_canonical() == address.to_canonical())
    };
    let mut strangers = addresses.to_vec();
    strangers.retain(|address| !is_known(address));
    strangers
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    #[test]
    fn a_node_is_asked_for_once_at_a_time_and_its_answer_kept_for_a_while() {
        let (mut answers, node) = (Answers::default(), name("node-A"));
        assert_eq!(answers.ask(&node, at(0)), Ask::Now);
        assert_eq!(answers.ask(&node, at(100)), Ask::Waiting);
        assert_eq!(answers.answered(&node, vec![ip(1)], at(200)), [ip(1)]);
        assert_eq!(answers.ask(&node, at(5_199)), Ask::Known(vec![ip(1)]));
        assert_eq!(answers.ask(&node, at(5_200)), Ask::Now);
        assert!(answers.answered(&node, vec![], at(5_300)).is_empty());
        assert_eq!(answers.ask(&node, at(6_299)), Ask::Known(vec![]));
        assert_eq!(answers.ask(&node, at(6_300)), Ask::Now);
    }

    #[test]
    fn a_wrong_answer_is_not_believed_when_it_comes_again() {
        let (mut answers, node) = (Answers::default(), name("node-A"));
        answers.ask(&node, at(0));
        answers.answered(&node, vec![ip(1), ip(2)], at(0));
        answers.wrong(&node, ip(1), at(100));
        answers.wrong(&node, ip(9), at(100));
        assert_eq!(answers.ask(&node, at(200)), Ask::Known(vec![ip(2)]));
        assert_eq!(answers.ask(&node, at(1_100)), Ask::Now, "asked again soon");
        let believed = answers.answered(&node, vec![ip(1), ip(3)], at(1_100));
        assert_eq!(believed, [ip(3)]);
        assert_eq!(answers.ask(&node, at(6_200)), Ask::Now);
        assert_eq!(answers.answered(&node, vec![ip(1)], at(6_200)), [ip(1)]);
    }

    #[test]
    fn answers_are_limited_in_number() {
        let config = AnswersConfig {
            nodes_max: 10,
            ..AnswersConfig::default()
        };
        let mut answers = Answers::new(config);
        for number in 0..1000 {
            let node = name(&alloc::format!("node-{number}"));
            assert_eq!(answers.ask(&node, at(0)), Ask::Now);
            answers.answered(&node, vec![ip(1)], at(0));
            assert!(answers.nodes.len() <= 10);
        }
    }

    #[test]
    fn only_replicas_that_are_connected_are_believed_to_hold_anything() {
        let mut rng = <rand_chacha::ChaCha12Rng as rand_core::SeedableRng>::from_seed([1; 32]);
        let (one, two) = (ReplicaId::random(&mut rng), ReplicaId::random(&mut rng));
        let mapped: IpAddr = "::ffff:10.0.0.2".parse().expect("an address");
        let peers = [(one, ip(1)), (two, mapped)];
        let means = |addresses: &[IpAddr]| believed(addresses, peers.into_iter());
        assert_eq!(means(&[ip(2)]), [two]);
        assert_eq!(means(&[ip(3)]), []);
        assert_eq!(means(&[ip(1), ip(2)]), [one, two]);
        let unknown = strangers(&[ip(2), ip(3)], peers.into_iter().map(|(_, at)| at));
        assert_eq!(unknown, [ip(3)]);
    }

    fn name(node: &str) -> NodeName {
        NodeName::parse(node).expect("a name")
    }

    fn at(millis: u64) -> Instant {
        Instant::ZERO + Duration::from_millis(millis)
    }

    fn ip(last: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, last])
    }
}
