//! A replica's part of a registry that is kept in pieces of limited size, as Kubernetes' EndpointSlices are: which node stands in
//! which slice, and what is written when.
//!
//! One write is under way at a time, and begins at least `interval` after the one before. What comes and goes in between makes no
//! write of its own. A node that goes is written off only after `linger`, unless another replica holds it: so one whose line
//! flaps costs nothing. Slices that were written before this process started are taken over as they are.
use crate::name::NodeName;
use crate::time::Instant;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;
use core::time::Duration;

/// Settings of the writer.
#[derive(Clone, Copy, Debug)]
pub struct SlicesConfig {
    /// Nodes of one slice.
    pub nodes_max: usize,
    /// From the beginning of a write to the next.
    pub interval: Duration,
    /// After a first change, how long others are waited for.
    pub coalesce: Duration,
    /// How long a node that went may come back unnoticed.
    pub linger: Duration,
    /// The pause after a failure; it doubles with each.
    pub retry_min: Duration,
    /// The longest such pause.
    pub retry_max: Duration,
}

impl Default for SlicesConfig {
    fn default() -> Self {
        SlicesConfig {
            nodes_max: 1000,
            interval: Duration::from_secs(1),
            coalesce: Duration::from_millis(50),
            linger: Duration::from_secs(10),
            retry_min: Duration::from_secs(1),
            retry_max: Duration::from_secs(5),
        }
    }
}

/// A write that is due. [`Slices::handle_written`] is owed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Write {
    /// Which slice; the driver makes its name of it.
    pub slice: u32,
    /// What to do with it.
    pub action: Action,
}

/// See [`Write`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Action {
    /// Make it, with these nodes.
    Create(Vec<NodeName>),
    /// Give it exactly these nodes.
    Replace(Vec<NodeName>),
    /// Take it away.
    Delete,
}

/// What came of a write.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Written {
    /// It is done.
    Done,
    /// There is no such slice.
    Missing,
    /// There is one already.
    Exists,
    /// Refused or unanswered, for whatever reason.
    Failed,
}

#[derive(Debug, Default)]
struct Slice {
    wanted: BTreeSet<NodeName>,
    written: BTreeSet<NodeName>,
    exists: bool,
    /// Nodes that stand in one of the two sets only.
    differences: usize,
    dirty_since: Option<Instant>,
}

/// Where a node stands.
#[derive(Debug)]
struct Place {
    slice: u32,
    leaves_at: Option<Instant>,
    /// Another replica holds it, too.
    is_elsewhere: bool,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Slices {
    config: SlicesConfig,
    slices: BTreeMap<u32, Slice>,
    nodes: BTreeMap<NodeName, Place>,
    leaving: BTreeSet<(Instant, NodeName)>,
    under_way: Option<Write>,
    not_before: Instant,
    failures: u32,
}

impl Slices {
    /// Nothing is held, and nothing written.
    pub fn new(config: SlicesConfig) -> Slices {
        Slices {
            config,
            ..Slices::default()
        }
    }

    /// This replica holds a link of the node, or does no more.
    pub fn set(&mut self, node: &NodeName, is_here: bool, now: Instant) {
        match (is_here, self.nodes.get_mut(node)) {
            (true, Some(place)) => {
                if let Some(at) = place.leaves_at.take() {
                    self.leaving.remove(&(at, node.clone()));
                }
            }
            (true, None) => self.place(node, now),
            (false, Some(place)) if place.leaves_at.is_none() => {
                let at = match place.is_elsewhere {
                    true => now,
                    false => now + self.config.linger,
                };
                place.leaves_at = Some(at);
                self.leaving.insert((at, node.clone()));
            }
            (false, _) => {}
        }
    }

    /// Another replica holds the node, or does no more: one that has gone from here to there won't come back unnoticed.
    pub fn set_elsewhere(&mut self, node: &NodeName, is_elsewhere: bool, now: Instant) {
        let Some(place) = self.nodes.get_mut(node) else {
            return;
        };
        place.is_elsewhere = is_elsewhere;
        if is_elsewhere && place.leaves_at.is_some() {
            self.remove(node, now);
        }
    }

    /// What a slice of this replica's holds, as the registry tells: one that an earlier process of it wrote, or that somebody
    /// else has changed. Not to be told what is older than the last write. `is_exact`: it holds nothing else.
    pub fn handle_seen(
        &mut self,
        slice: u32,
        nodes: BTreeSet<NodeName>,
        is_exact: bool,
        now: Instant,
    ) {
        let is_new = !self.slices.contains_key(&slice);
        let seen = self.slices.entry(slice).or_default();
        seen.exists = true;
        if is_new {
            let at = now + self.config.linger;
            for node in &nodes {
                if !self.nodes.contains_key(node) {
                    seen.wanted.insert(node.clone());
                    let place = Place {
                        slice,
                        leaves_at: Some(at),
                        is_elsewhere: false,
                    };
                    self.nodes.insert(node.clone(), place);
                    self.leaving.insert((at, node.clone()));
                }
            }
        }
        seen.written = nodes;
        seen.count(now);
        if !is_exact {
            seen.differences += 1;
            seen.dirty_since.get_or_insert(now);
        }
    }

    /// Somebody took a slice of this replica's away.
    pub fn handle_missing(&mut self, slice: u32, now: Instant) {
        if let Some(missing) = self.slices.get_mut(&slice) {
            missing.exists = false;
            missing.written.clear();
            missing.count(now);
            if missing.wanted.is_empty() {
                self.slices.remove(&slice);
            }
        }
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some((at, node)) = self.leaving.first().cloned() {
            if at > now {
                return;
            }
            self.remove(&node, now);
        }
    }

    /// The next write, if one may begin now.
    pub fn poll_write(&mut self, now: Instant) -> Option<Write> {
        if self.under_way.is_some() || now < self.not_before {
            return None;
        }
        let (number, since) = self.longest_dirty()?;
        if now < since + self.config.coalesce {
            return None;
        }
        let slice = self.slices.get(&number)?;
        let nodes = || slice.wanted.iter().cloned().collect();
        let action = match (slice.wanted.is_empty(), slice.exists) {
            (true, _) => Action::Delete,
            (false, true) => Action::Replace(nodes()),
            (false, false) => Action::Create(nodes()),
        };
        let write = Write {
            slice: number,
            action,
        };
        self.under_way = Some(write.clone());
        self.not_before = now + self.config.interval;
        Some(write)
    }

    /// What came of the write that was under way.
    pub fn handle_written(&mut self, result: Written, now: Instant) {
        let Some(write) = self.under_way.take() else {
            return;
        };
        if result == Written::Failed {
            let doubled = self.config.retry_min * (1 << self.failures.min(16));
            self.failures += 1;
            let pause = doubled.min(self.config.retry_max);
            self.not_before = self.not_before.max(now + pause);
            return;
        }
        self.failures = 0;
        let Some(slice) = self.slices.get_mut(&write.slice) else {
            return;
        };
        (slice.exists, slice.written) = match (write.action, result) {
            (Action::Create(nodes) | Action::Replace(nodes), Written::Done) => {
                (true, nodes.into_iter().collect())
            }
            // What it holds isn't known: all of it is written again.
            (Action::Create(_) | Action::Replace(_), Written::Exists) => (true, BTreeSet::new()),
            _ => (false, BTreeSet::new()),
        };
        slice.count(now);
        if !slice.exists && slice.wanted.is_empty() {
            self.slices.remove(&write.slice);
        }
    }

    /// When `handle_timeout` or `poll_write` has something to do, if nothing else happens.
    pub fn deadline(&self) -> Option<Instant> {
        let leaves = self.leaving.first().map(|(at, _)| *at);
        let write = match self.under_way {
            Some(_) => None,
            None => self
                .longest_dirty()
                .map(|(_, since)| self.not_before.max(since + self.config.coalesce)),
        };
        leaves.into_iter().chain(write).min()
    }

    /// Slices that there are or will be.
    pub fn count(&self) -> usize {
        self.slices.len()
    }

    fn longest_dirty(&self) -> Option<(u32, Instant)> {
        self.slices
            .iter()
            .filter_map(|(number, slice)| Some((*number, slice.dirty_since?)))
            .min_by_key(|(_, since)| *since)
    }

    /// Finds room: in a slice that will be written anyway, in another one, in a new one.
    fn place(&mut self, node: &NodeName, now: Instant) {
        let has_room = |slice: &Slice| slice.wanted.len() < self.config.nodes_max;
        let is_dirty = |slice: &Slice| slice.dirty_since.is_some();
        let number = self
            .slices
            .iter()
            .filter(|(_, slice)| has_room(slice))
            .min_by_key(|(number, slice)| (!is_dirty(slice), **number))
            .map(|(number, _)| *number);
        let number = number.unwrap_or_else(|| {
            let mut free = 0;
            while self.slices.contains_key(&free) {
                free += 1;
            }
            free
        });
        let place = Place {
            slice: number,
            leaves_at: None,
            is_elsewhere: false,
        };
        self.nodes.insert(node.clone(), place);
        let slice = self.slices.entry(number).or_default();
        slice.change(node, true, now);
    }

    fn remove(&mut self, node: &NodeName, now: Instant) {
        let Some(place) = self.nodes.remove(node) else {
            return;
        };
        if let Some(at) = place.leaves_at {
            self.leaving.remove(&(at, node.clone()));
        }
        if let Some(slice) = self.slices.get_mut(&place.slice) {
            slice.change(node, false, now);
            let is_idle = self
                .under_way
                .as_ref()
                .is_none_or(|write| write.slice != place.slice);
            if is_idle && !slice.exists && slice.wanted.is_empty() {
                self.slices.remove(&place.slice);
            }
        }
    }
}

impl Slice {
    fn change(&mut self, node: &NodeName, is_wanted: bool, now: Instant) {
        match is_wanted {
            true => self.wanted.insert(node.clone()),
            false => self.wanted.remove(node),
        };
        match self.written.contains(node) == is_wanted {
            true => self.differences = self.differences.saturating_sub(1),
            false => self.differences += 1,
        }
        self.mark(now);
    }

    fn count(&mut self, now: Instant) {
        self.differences = self.wanted.symmetric_difference(&self.written).count();
        self.mark(now);
    }

    fn mark(&mut self, now: Instant) {
        match self.differences > 0 || self.exists && self.wanted.is_empty() {
            true => {
                self.dirty_since.get_or_insert(now);
            }
            false => self.dirty_since = None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::format;
    use alloc::vec;

    #[test]
    fn a_burst_is_written_once_a_second_and_nothing_at_rest() {
        let mut api = Api::new(3);
        for number in 0..7 {
            api.slices.set(&node(number), true, at(10 * number));
        }
        api.run(at(70), at(10_000));
        assert_eq!(api.begun, [at(70), at(1_070), at(2_070)]);
        assert_eq!(api.holds(), (0..7).map(node).collect());
        assert!(api.held.values().all(|slice| slice.len() <= 3));
        assert_eq!(api.slices.deadline(), None);
    }

    #[test]
    fn a_node_that_flaps_costs_nothing() {
        let mut api = Api::new(1000);
        api.slices.set(&node(1), true, at(0));
        api.run(at(0), at(1_000));
        for flap in 0..20 {
            api.slices.set(&node(1), false, at(2_000 + flap * 9_000));
            api.run(at(2_000 + flap * 9_000), at(10_999 + flap * 9_000));
            api.slices.set(&node(1), true, at(10_999 + flap * 9_000));
        }
        assert_eq!(api.begun.len(), 1);
        assert_eq!(api.slices.deadline(), None);
    }

    #[test]
    fn one_that_went_for_good_is_written_off_and_one_that_moved_at_once() {
        let mut api = Api::new(1000);
        for number in 0..3 {
            api.slices.set(&node(number), true, at(0));
        }
        api.run(at(0), at(1_500));
        api.slices.set(&node(0), false, at(2_000));
        api.slices.set(&node(1), false, at(2_000));
        api.slices.set_elsewhere(&node(1), true, at(2_100));
        api.slices.set_elsewhere(&node(2), true, at(2_100));
        api.slices.set_elsewhere(&node(2), false, at(2_200));
        api.run(at(2_100), at(2_200));
        assert_eq!(api.holds(), [node(0), node(2)].into());
        api.run(at(2_200), at(20_000));
        assert_eq!(api.begun, [at(50), at(2_150), at(12_050)]);
        api.slices.set(&node(2), false, at(20_000));
        api.run(at(20_000), at(40_000));
        assert!(api.held.is_empty(), "an empty slice is taken away");
        assert_eq!((api.slices.count(), api.slices.deadline()), (0, None));
    }

    #[test]
    fn one_that_was_elsewhere_before_it_went_from_here_is_written_off_at_once() {
        let mut api = Api::new(1000);
        api.slices.set(&node(0), true, at(0));
        api.slices.set(&node(1), true, at(0));
        api.run(at(0), at(1_500));
        api.slices.set_elsewhere(&node(0), true, at(2_000));
        api.slices.set(&node(0), false, at(2_100));
        api.run(at(2_100), at(2_200));
        assert_eq!((api.begun.len(), api.holds()), (2, [node(1)].into()));
    }

    #[test]
    fn a_process_that_starts_again_takes_over_what_the_one_before_wrote() {
        let mut api = Api::new(3);
        for number in 0..6 {
            api.slices.set(&node(number), true, at(0));
        }
        api.run(at(0), at(5_000));
        let writes = api.begun.len();
        api.slices = Slices::new(api.slices.config);
        for (number, nodes) in api.held.clone() {
            api.slices.handle_seen(number, nodes, true, at(6_000));
        }
        for number in 0..5 {
            api.slices.set(&node(number), true, at(7_000));
        }
        api.run(at(7_000), at(15_000));
        assert_eq!(api.begun.len(), writes, "all of it stands there already");
        api.run(at(15_000), at(60_000));
        assert_eq!(api.begun.len(), writes + 1, "but one did not come back");
        assert_eq!(api.holds(), (0..5).map(node).collect());
    }

    #[test]
    fn failures_are_tried_again_ever_more_rarely_and_lose_nothing() {
        let mut api = Api::new(1000);
        api.slices.set(&node(1), true, at(0));
        api.fails = 5;
        api.run(at(0), at(15_000));
        api.slices.set(&node(2), true, at(15_000));
        api.run(at(15_000), at(60_000));
        let expected = [50, 1_050, 3_050, 7_050, 12_050, 17_050];
        assert_eq!(api.begun, expected.map(at));
        assert_eq!(api.holds(), [node(1), node(2)].into());
    }

    #[test]
    fn what_somebody_else_did_to_a_slice_is_put_right() {
        let mut api = Api::new(2);
        for number in 0..4 {
            api.slices.set(&node(number), true, at(0));
        }
        api.run(at(0), at(5_000));
        api.held.remove(&0);
        api.slices.handle_missing(0, at(5_000));
        api.held.insert(1, [node(9)].into());
        api.slices.handle_seen(1, [node(9)].into(), true, at(5_000));
        api.run(at(5_000), at(20_000));
        assert_eq!(api.holds(), (0..4).map(node).collect());
        // Its own view may be wrong as well.
        api.held.remove(&0);
        api.slices.set_elsewhere(&node(0), true, at(20_000));
        api.slices.set(&node(0), false, at(20_000));
        api.slices.set_elsewhere(&node(0), true, at(20_000));
        api.held.insert(7, BTreeSet::new());
        api.slices
            .handle_seen(7, BTreeSet::new(), false, at(20_000));
        api.run(at(20_000), at(60_000));
        assert_eq!(api.holds(), (1..4).map(node).collect());
        assert!(!api.held.contains_key(&7));
    }

    #[test]
    fn a_slice_that_is_there_unexpectedly_is_replaced() {
        let mut api = Api::new(2);
        api.held.insert(0, [node(8)].into());
        api.slices.set(&node(1), true, at(0));
        api.run(at(0), at(5_000));
        assert_eq!(api.holds(), [node(1)].into());
        assert_eq!(api.begun.len(), 2);
    }

    #[test]
    fn what_changes_while_a_write_is_under_way_is_written_by_the_next() {
        let mut slices = Slices::default();
        slices.set(&node(1), true, at(0));
        let write = slices.poll_write(at(50)).expect("a write");
        assert_eq!(write.action, Action::Create(vec![node(1)]));
        slices.set(&node(2), true, at(60));
        assert_eq!(slices.poll_write(at(5_000)), None, "one at a time");
        slices.set(&node(1), false, at(60));
        slices.set_elsewhere(&node(1), true, at(70));
        slices.handle_written(Written::Done, at(80));
        assert_eq!(slices.poll_write(at(1_049)), None);
        let write = slices.poll_write(at(1_130)).expect("a write");
        assert_eq!(write.action, Action::Replace(vec![node(2)]));
    }

    /// An API server that does as it is told, or fails.
    struct Api {
        slices: Slices,
        held: BTreeMap<u32, BTreeSet<NodeName>>,
        begun: Vec<Instant>,
        fails: usize,
    }

    impl Api {
        fn new(nodes_max: usize) -> Api {
            let config = SlicesConfig {
                nodes_max,
                ..SlicesConfig::default()
            };
            Api {
                slices: Slices::new(config),
                held: BTreeMap::new(),
                begun: Vec::new(),
                fails: 0,
            }
        }

        /// From deadline to deadline, before `until`.
        fn run(&mut self, from: Instant, until: Instant) {
            let mut now = from;
            let mut turns = 0;
            while now < until {
                self.slices.handle_timeout(now);
                if let Some(write) = self.slices.poll_write(now) {
                    self.begun.push(now);
                    let result = self.write(write);
                    self.slices.handle_written(result, now);
                }
                let Some(next) = self.slices.deadline() else {
                    return;
                };
                now = next.max(now);
                turns += 1;
                assert!(turns < 1000, "a busy loop");
            }
        }

        fn write(&mut self, write: Write) -> Written {
            if self.fails > 0 {
                self.fails -= 1;
                return Written::Failed;
            }
            let exists = self.held.contains_key(&write.slice);
            match (write.action, exists) {
                (Action::Create(_), true) => Written::Exists,
                (Action::Replace(_) | Action::Delete, false) => Written::Missing,
                (Action::Create(nodes), false) | (Action::Replace(nodes), true) => {
                    self.held.insert(write.slice, nodes.into_iter().collect());
                    Written::Done
                }
                (Action::Delete, true) => {
                    self.held.remove(&write.slice);
                    Written::Done
                }
            }
        }

        fn holds(&self) -> BTreeSet<NodeName> {
            self.held.values().flatten().cloned().collect()
        }
    }

    fn node(number: u64) -> NodeName {
        NodeName::parse(&format!("node-{number}")).expect("a name")
    }

    fn at(millis: u64) -> Instant {
        Instant::ZERO + Duration::from_millis(millis)
    }
}
