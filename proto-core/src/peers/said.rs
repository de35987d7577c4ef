//! What others have said that they hold, by the control links that they said it on.

use super::{BTreeMap, BTreeSet, LinkId, NodeName, ReplicaId, StreamMsg, String, Vec};
use crate::instance::Instance;
use crate::link::notices::Subject;
use crate::reason::Reason;
use crate::replica::{Held, Holder};
use crate::wire::Kind;

/// Set-up times past the year 10,000 are none: they would leave no room for what comes after them.
const SINCE_MS_MAX: u64 = 1 << 48;

/// See the module.
#[derive(Debug)]
pub(super) struct Said {
    nodes_per_peer_max: usize,
    links: BTreeMap<LinkId, (ReplicaId, BTreeSet<Subject>)>,
    /// By node, and by link and process: a replica may be heard on two links for a while, of which the newer is believed.
    held: BTreeMap<NodeName, BTreeMap<(LinkId, String), Held>>,
}

impl Said {
    pub(super) fn new(nodes_per_peer_max: usize) -> Said {
        Said {
            nodes_per_peer_max,
            links: BTreeMap::new(),
            held: BTreeMap::new(),
        }
    }

    pub(super) fn links(&self) -> usize {
        self.links.len()
    }

    pub(super) fn link_up(&mut self, link: LinkId, replica: ReplicaId) {
        self.links.insert(link, (replica, BTreeSet::new()));
    }

    /// What was said on this link holds no more. Those of whom that was.
    pub(super) fn link_down(&mut self, link: LinkId) -> BTreeSet<NodeName> {
        let Some((_, nodes)) = self.links.remove(&link) else {
            return BTreeSet::new();
        };
        for (node, uuid) in &nodes {
            self.remove(node, (link, uuid.clone()));
        }
        nodes.into_iter().map(|(node, _)| node).collect()
    }

    /// `here` or `gone`. The node of which something else holds now; `Err`: it means nothing, and why.
    pub(super) fn handle(
        &mut self,
        link: LinkId,
        msg: &StreamMsg,
    ) -> Result<Option<NodeName>, &'static str> {
        let Ok(node) = NodeName::parse(&msg.node) else {
            return Err("no name of a node");
        };
        let instance = core::str::from_utf8(&msg.data)
            .ok()
            .and_then(Instance::parse)
            .ok_or("no instance")?;
        if msg.offset > SINCE_MS_MAX {
            return Err("no time");
        }
        let held = Held {
            spelling: msg.node.clone(),
            instance,
            since_ms: msg.offset,
            draining: msg.code == Reason::Draining.code(),
        };
        let Some((_, nodes)) = self.links.get_mut(&link) else {
            return Err("not for this kind of link");
        };
        let uuid = String::from(held.instance.uuid());
        let subject = (node.clone(), uuid.clone());
        let key = (link, uuid);
        match Kind::parse(&msg.r#type) {
            Some(Kind::Here) => {
                if nodes.len() >= self.nodes_per_peer_max && !nodes.contains(&subject) {
                    return Err("more nodes than one replica may hold");
                }
                nodes.insert(subject);
                let before = self
                    .held
                    .entry(node.clone())
                    .or_default()
                    .insert(key, held.clone());
                Ok((before.as_ref() != Some(&held)).then_some(node))
            }
            Some(Kind::Gone) => {
                let known = self.held.get(&node).and_then(|said| said.get(&key));
                if !known.is_some_and(|known| known.is_same_link(&held)) {
                    return Err("gone before");
                }
                nodes.remove(&subject);
                self.remove(&node, key);
                Ok(Some(node))
            }
            _ => Err("out of place"),
        }
    }

    fn remove(&mut self, node: &NodeName, key: (LinkId, String)) {
        if let Some(said) = self.held.get_mut(node) {
            said.remove(&key);
            if said.is_empty() {
                self.held.remove(node);
            }
        }
    }

    /// The nodes that a replica said it holds.
    pub(super) fn nodes_of(&self, replica: ReplicaId) -> BTreeSet<NodeName> {
        self.links
            .values()
            .filter(|(of, _)| *of == replica)
            .flat_map(|(_, nodes)| nodes.iter().map(|(node, _)| node.clone()))
            .collect()
    }

    /// Who holds a node, the latest first.
    pub(super) fn holders(&self, node: &NodeName) -> Vec<Holder> {
        let mut of: BTreeMap<(ReplicaId, &str), &Held> = BTreeMap::new();
        for ((link, uuid), held) in self.held.get(node).into_iter().flatten() {
            if let Some((replica, _)) = self.links.get(link) {
                of.insert((*replica, uuid), held); // In the order of their links: the newest word stays.
            }
        }
        let mut holders: Vec<Holder> = of
            .into_iter()
            .map(|((replica, _), held)| Holder {
                replica,
                held: held.clone(),
            })
            .collect();
        // By time alone: `is_newer_than`, which looks at processes too, is no order of more than two.
        holders.sort_by_key(|holder| core::cmp::Reverse(holder.held.since_ms));
        holders
    }
}
