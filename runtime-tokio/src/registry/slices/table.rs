//! Everybody's slices, as they are known here.
use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use proto_core::name::NodeName;
use proto_core::registry::Label;

use super::object::Seen;
use crate::registry::kept::{Owner, is_later};

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Table {
    slices: HashMap<String, Slice>,
    by_label: HashMap<Arc<str>, Vec<IpAddr>>,
    /// As old as this; empty: nothing is known at all.
    version: String,
}

#[derive(Debug)]
struct Slice {
    owner: Owner,
    version: String,
    endpoints: HashSet<(Arc<str>, IpAddr)>,
}

/// What came of a change.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Changed {
    /// Somebody who had no slice before.
    pub(super) came: Vec<Owner>,
    /// Whose last slice is gone.
    pub(super) went: Vec<Owner>,
}

impl Table {
    /// All there is, as of a version. `None`: it is older than what is known.
    pub(super) fn replace(&mut self, all: &[Seen], version: &str) -> Option<Changed> {
        if !self.version.is_empty() && !is_later(version, &self.version) {
            return None;
        }
        let mut changed = Changed::default();
        let there: HashSet<&str> = all.iter().map(|seen| seen.name.as_str()).collect();
        let gone: Vec<String> = self
            .slices
            .keys()
            .filter(|name| !there.contains(name.as_str()))
            .cloned()
            .collect();
        for name in gone {
            changed.add(self.remove(&name, version));
        }
        for seen in all {
            changed.add(self.apply(seen));
        }
        version.clone_into(&mut self.version);
        Some(changed)
    }

    /// A slice is there, or another than before.
    pub(super) fn apply(&mut self, seen: &Seen) -> Changed {
        let mut changed = Changed::default();
        let had = self.has(&seen.owner);
        let endpoints = seen.endpoints.iter();
        let new: HashSet<(Arc<str>, IpAddr)> = endpoints
            .map(|(label, address)| (self.label(label), *address))
            .collect();
        let slice = Slice {
            owner: seen.owner.clone(),
            version: seen.version.clone(),
            endpoints: new.clone(),
        };
        let old = self.slices.insert(seen.name.clone(), slice);
        let old_endpoints = old.as_ref().map(|old| &old.endpoints);
        for (label, address) in &new {
            if !old_endpoints.is_some_and(|old| old.contains(&(label.clone(), *address))) {
                self.by_label
                    .entry(label.clone())
                    .or_default()
                    .push(*address);
            }
        }
        if !had {
            changed.came.push(seen.owner.clone());
        }
        if let Some(old) = old {
            for (label, address) in old.endpoints.difference(&new) {
                self.forget(label, *address);
            }
            if !self.has(&old.owner) {
                changed.went.push(old.owner);
            }
        }
        self.advance(&seen.version);
        changed
    }

    /// A slice is gone.
    pub(super) fn remove(&mut self, name: &str, version: &str) -> Changed {
        let mut changed = Changed::default();
        if let Some(old) = self.slices.remove(name) {
            for (label, address) in &old.endpoints {
                self.forget(label, *address);
            }
            if !self.has(&old.owner) {
                changed.went.push(old.owner);
            }
        }
        self.advance(version);
        changed
    }

    /// Who holds a node. `None`: nothing was ever known.
    pub(super) fn find(&self, node: &NodeName) -> Option<Vec<IpAddr>> {
        if self.version.is_empty() {
            return None;
        }
        let label = Label::of(node);
        let found = self.by_label.get(label.as_str());
        let mut found = found.cloned().unwrap_or_default();
        found.sort();
        found.dedup();
        Some(found)
    }

    /// Whose slices say that the node is at this address.
    pub(super) fn owners(&self, node: &NodeName, address: IpAddr) -> Vec<&Owner> {
        let at = (Arc::from(Label::of(node).as_str()), address);
        let slices = self.slices.values();
        slices
            .filter(|slice| slice.endpoints.contains(&at))
            .map(|slice| &slice.owner)
            .collect()
    }

    /// The slices of an owner, with their versions.
    pub(super) fn of(&self, owner: &Owner) -> Vec<(String, String)> {
        let slices = self.slices.iter();
        slices
            .filter(|(_, slice)| slice.owner == *owner)
            .map(|(name, slice)| (name.clone(), slice.version.clone()))
            .collect()
    }

    /// What is known is as of this version.
    pub(super) fn version(&self) -> &str {
        &self.version
    }

    /// Nothing has changed up to here.
    pub(super) fn advance(&mut self, version: &str) {
        if !version.is_empty() && (self.version.is_empty() || is_later(version, &self.version)) {
            version.clone_into(&mut self.version);
        }
    }

    fn has(&self, owner: &Owner) -> bool {
        self.slices.values().any(|slice| slice.owner == *owner)
    }

    /// One allocation for a label, however many slices have it.
    fn label(&self, text: &str) -> Arc<str> {
        let known = self.by_label.get_key_value(text);
        known.map_or_else(|| Arc::from(text), |(label, _)| label.clone())
    }

    fn forget(&mut self, label: &Arc<str>, address: IpAddr) {
        if let Entry::Occupied(mut entry) = self.by_label.entry(label.clone()) {
            let held = entry.get_mut();
            // Two slices may say the same: one of them is taken.
            if let Some(at) = held.iter().position(|of| *of == address) {
                held.swap_remove(at);
            }
            if held.is_empty() {
                entry.remove();
            }
        }
    }
}

impl Changed {
    fn add(&mut self, other: Changed) {
        self.came.extend(other.came);
        self.went.extend(other.went);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_follow_the_slices() {
        let mut table = Table::default();
        assert_eq!(table.find(&node("a")), None, "nothing is known");
        let all = [
            slice("one", "p1", &["a", "b"], 1, "3"),
            slice("two", "p2", &["a"], 2, "4"),
        ];
        let changed = table.replace(&all, "5").expect("new");
        assert_eq!(changed.came, [owner("p1"), owner("p2")]);
        assert_eq!(table.find(&node("A")), Some(vec![ip(1), ip(2)]));
        assert_eq!(table.find(&node("c")), Some(vec![]));
        assert_eq!(table.owners(&node("a"), ip(2)), [&owner("p2")]);
        let changed = table.apply(&slice("one", "p1", &["b", "c"], 1, "6"));
        assert_eq!(changed, Changed::default());
        assert_eq!(table.find(&node("a")), Some(vec![ip(2)]));
        assert_eq!(table.find(&node("c")), Some(vec![ip(1)]));
        assert_eq!(table.of(&owner("p1")), [("one".to_owned(), "6".to_owned())]);
        let changed = table.remove("one", "7");
        assert_eq!(changed.went, [owner("p1")]);
        assert_eq!(table.find(&node("b")), Some(vec![]));
        assert_eq!((table.version(), table.by_label.len()), ("7", 1));
    }

    #[test]
    fn what_is_older_changes_nothing_and_what_is_newer_replaces_all() {
        let mut table = Table::default();
        table.replace(&[slice("one", "p1", &["a"], 1, "9")], "9");
        assert_eq!(table.replace(&[], "8"), None);
        assert_eq!(table.replace(&[], "9"), None);
        let changed = table.replace(&[slice("two", "p2", &["a"], 2, "10")], "10");
        assert_eq!(changed.expect("new").went, [owner("p1")]);
        assert_eq!(table.find(&node("a")), Some(vec![ip(2)]));
    }

    #[test]
    fn a_node_that_stands_in_two_slices_of_one_replica_is_there_until_both_are_gone() {
        let mut table = Table::default();
        table.apply(&slice("one", "p1", &["a"], 1, "1"));
        table.apply(&slice("two", "p1", &["a"], 1, "2"));
        assert_eq!(table.find(&node("a")), Some(vec![ip(1)]));
        assert_eq!(table.remove("one", "3"), Changed::default());
        assert_eq!(table.find(&node("a")), Some(vec![ip(1)]));
        table.remove("two", "4");
        assert_eq!(table.find(&node("a")), Some(vec![]));
        assert!(table.by_label.is_empty());
    }

    fn slice(name: &str, pod: &str, labels: &[&str], last: u8, version: &str) -> Seen {
        Seen {
            name: name.to_owned(),
            version: version.to_owned(),
            owner: owner(pod),
            endpoints: labels
                .iter()
                .map(|label| (label.to_string(), ip(last)))
                .collect(),
            nodes: labels.iter().map(|label| node(label)).collect(),
            is_plain: true,
        }
    }

    fn owner(pod: &str) -> Owner {
        Owner {
            pod: pod.to_owned(),
            uid: format!("uid-{pod}"),
        }
    }

    fn node(name: &str) -> NodeName {
        NodeName::parse(name).expect("a name")
    }

    fn ip(last: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, last])
    }
}
