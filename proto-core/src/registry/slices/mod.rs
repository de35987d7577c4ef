//! A replica's part of a registry that is kept in pieces of limited size, as Kubernetes' EndpointSlices are: which node stands in
//! which slice, and what is written when.
//!
//! One write is under way at a time, and begins at least `interval` after the one before. What comes and goes in between makes no
//! write of its own. A node that goes is written off only after `linger`, unless another replica holds it: so one whose line
//! flaps costs nothing. Slices that were written before this process started are taken over as they are.
//!
//! A registry that is one piece for all replicas, as a ConfigMap is, is one slice without a limit: its nodes are this replica's
//! lines there, and to make or delete it is to begin or end having some.
#[cfg(test)]
mod tests;

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
    /// The pause when somebody else was quicker. Always the same: of those that collide one gets through each time.
    pub conflict: Duration,
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
            conflict: Duration::from_millis(100),
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
    /// Somebody else was quicker.
    Conflict,
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
    is_leaving: bool,
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
        if self.is_leaving {
            return;
        }
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

    /// This replica ends: all its nodes are written off at once, and none is taken any more.
    pub fn leave(&mut self, now: Instant) {
        self.is_leaving = true;
        self.not_before = now;
        let nodes: Vec<NodeName> = self.nodes.keys().cloned().collect();
        for node in nodes {
            self.remove(&node, now);
        }
    }

    /// It has left: nothing of it is written any more.
    pub fn has_left(&self) -> bool {
        self.is_leaving && self.under_way.is_none() && self.longest_dirty().is_none()
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
        if now < since + self.coalesce() {
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
        if !self.is_leaving {
            self.not_before = now + self.config.interval;
        }
        Some(write)
    }

    /// What came of the write that was under way.
    pub fn handle_written(&mut self, result: Written, now: Instant) {
        let Some(write) = self.under_way.take() else {
            return;
        };
        if result == Written::Conflict {
            self.not_before = now + self.config.conflict;
            return;
        }
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
                .map(|(_, since)| self.not_before.max(since + self.coalesce())),
        };
        leaves.into_iter().chain(write).min()
    }

    /// Slices that there are or will be.
    pub fn count(&self) -> usize {
        self.slices.len()
    }

    fn coalesce(&self) -> Duration {
        match self.is_leaving {
            true => Duration::ZERO,
            false => self.config.coalesce,
        }
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
