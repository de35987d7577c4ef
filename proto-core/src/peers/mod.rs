//! The other replicas: who they are, which nodes they hold, and what they are told of this one's (PROTOCOL.md, "Moving").
//!
//! Each replica says `here` and `gone` on the control links that it opened itself; what a peer said ends with that link.
//! A replica dials the addresses that it was given and no others: nothing that a peer says leads anywhere else.

mod said;
#[cfg(test)]
mod tests;

use crate::budget::Budget;
use crate::config::Config;
use crate::edge::Reconnect;
use crate::link::NewLink;
use crate::machine::{Machine, machine_over_mux};
use crate::mux::{Item, Mux};
use crate::name::NodeName;
use crate::output::{
    AttemptId, ClusterOutput, Deadline, Event, GrpcCode, LinkEnd, LinkId, LinkInfo, LinkKind,
    LinkLoss, Output, StreamId, StreamInfo, Timer,
};
use crate::proto::StreamMsg;
use crate::reason::Reason;
use crate::replica::{Held, ReplicaId};
use crate::stream::Role;
use crate::time::Instant;
use crate::uplink::backoff::Backoff;
use crate::wire::Dialect;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use bytes::Bytes;
use said::Said;

/// Settings of a replica's dealings with the others (`[peers]`).
#[derive(Clone, Debug)]
pub struct PeersConfig {
    /// Pauses between tries to reach one of them.
    pub reconnect: Reconnect,
    /// Control links that are taken from others.
    pub links_max: usize,
    /// Nodes that one of them may say it holds.
    pub nodes_per_peer_max: usize,
}

impl Default for PeersConfig {
    fn default() -> Self {
        PeersConfig {
            reconnect: Reconnect::default(),
            links_max: 256,
            nodes_per_peer_max: 100_000,
        }
    }
}

/// How far a configured address is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reach {
    /// Waits for the next try.
    Pause(Instant),
    /// The driver is connecting.
    Connecting(AttemptId),
    /// This control link is up.
    Up(LinkId, ReplicaId),
    /// It leads to a replica that another address leads to; tried again when that link ends.
    Double(ReplicaId),
    /// It leads to this replica.
    Own,
}

/// One of the addresses of the others.
#[derive(Debug)]
struct Address {
    reach: Reach,
    backoff: Backoff,
    /// It is among the latest addresses.
    listed: bool,
}

/// See the module. A machine without streams.
#[derive(Debug)]
pub struct Peers {
    config: PeersConfig,
    me: ReplicaId,
    addresses: BTreeMap<String, Address>,
    held: BTreeMap<NodeName, Vec<Arc<Held>>>,
    said: Said,
    down: bool,
    mux: Mux,
}

impl Peers {
    /// A replica that starts, with a fresh id. `seed` is drawn from the system.
    pub fn new(config: PeersConfig, limits: Arc<Config>, budget: Budget, seed: [u8; 32]) -> Peers {
        let mut mux = Mux::new(Role::Opener, limits, budget, seed);
        Peers {
            me: ReplicaId::random(&mut mux.rng),
            said: Said::new(config.nodes_per_peer_max),
            config,
            addresses: BTreeMap::new(),
            held: BTreeMap::new(),
            down: false,
            mux,
        }
    }

    /// This replica: for the metadata `tunnel-replica`.
    pub fn me(&self) -> ReplicaId {
        self.me
    }

    /// These are the addresses of the replicas, this one's possibly among them. A link that is up stays, whatever its
    /// address.
    pub fn set_addresses(&mut self, addresses: Vec<String>, now: Instant) {
        for address in self.addresses.values_mut() {
            address.listed = false;
        }
        for name in addresses {
            let reconnect = self.config.reconnect;
            let address = self.addresses.entry(name).or_insert_with(|| Address {
                reach: Reach::Pause(now),
                backoff: Backoff::new(reconnect),
                listed: true,
            });
            address.listed = true;
        }
        self.addresses.retain(|_, address| address.is_wanted());
        self.dial_due(now);
    }

    /// An attempt has led to this replica: the response's `tunnel-replica`. `None`: the driver drops the connection.
    pub fn link_up(
        &mut self,
        attempt: AttemptId,
        replica: ReplicaId,
        remote: String,
        now: Instant,
    ) -> Option<LinkId> {
        let name = self.attempted(attempt)?;
        let doubles = self.is_reached(replica);
        let address = self.addresses.get_mut(&name)?;
        if replica == self.me {
            address.reach = Reach::Own;
            return None;
        }
        if doubles {
            address.reach = Reach::Double(replica);
            return None;
        }
        let link = self
            .mux
            .add_link(control(LinkKind::ControlOut, remote), now);
        address.reach = Reach::Up(link, replica);
        for (node, held) in &self.held {
            for held in held {
                self.mux
                    .notice(link, subject(node, held), Some(held.clone()));
            }
        }
        // What it holds can be reached from now on: hubs that had no way to it hear of it again.
        for node in self.said.nodes_of(replica) {
            self.tell(node);
        }
        Some(link)
    }

    /// An attempt came to nothing.
    pub fn link_failed(&mut self, attempt: AttemptId, why: LinkLoss, now: Instant) {
        if let Some(name) = self.attempted(attempt) {
            self.pause(&name, why, now);
        }
    }

    /// Another replica has made a control link to this one. `None`: it is this one itself, or there are too many.
    pub fn link_made(
        &mut self,
        replica: ReplicaId,
        remote: String,
        now: Instant,
    ) -> Option<LinkId> {
        if self.down || replica == self.me || self.said.links() >= self.config.links_max {
            return None;
        }
        let link = self.mux.add_link(control(LinkKind::ControlIn, remote), now);
        self.said.link_up(link, replica);
        Some(link)
    }

    /// What this replica holds of a node now: the newest link of each of its processes, or nothing.
    pub fn held(&mut self, node: &NodeName, held: Vec<Held>) {
        let held: Vec<Arc<Held>> = held.into_iter().map(Arc::new).collect();
        let before = match held.is_empty() {
            true => self.held.remove(node),
            false => self.held.insert(node.clone(), held.clone()),
        };
        let is_here = |old: &Arc<Held>| {
            held.iter()
                .any(|held| held.instance.is_same_process(&old.instance))
        };
        let gone = before.into_iter().flatten().filter(|old| !is_here(old));
        let gone: Vec<_> = gone.map(|old| subject(node, &old)).collect();
        for link in self.control_links() {
            for gone in &gone {
                self.mux.notice(link, gone.clone(), None);
            }
            for held in &held {
                self.mux
                    .notice(link, subject(node, held), Some(held.clone()));
            }
        }
    }

    /// Ends the links, for good.
    pub fn shut_down(&mut self, now: Instant) {
        self.down = true;
        let links: Vec<LinkId> = self.mux.links().map(|(id, _)| id).collect();
        for link in links {
            let end = LinkEnd {
                code: GrpcCode::Ok,
                text: "the replica shuts down",
            };
            self.mux.end_link(link, end, LinkLoss::ShutDown, now);
        }
    }

    fn control_links(&self) -> Vec<LinkId> {
        self.addresses
            .values()
            .filter_map(|address| match address.reach {
                Reach::Up(link, _) => Some(link),
                Reach::Pause(_) | Reach::Connecting(_) | Reach::Double(_) | Reach::Own => None,
            })
            .collect()
    }

    fn attempted(&self, attempt: AttemptId) -> Option<String> {
        self.addresses
            .iter()
            .find(|(_, address)| address.reach == Reach::Connecting(attempt))
            .map(|(name, _)| name.clone())
    }

    fn is_reached(&self, replica: ReplicaId) -> bool {
        self.addresses
            .values()
            .any(|address| matches!(address.reach, Reach::Up(_, up) if up == replica))
    }

    fn pause(&mut self, name: &str, why: LinkLoss, now: Instant) {
        let Some(address) = self.addresses.get_mut(name) else {
            return;
        };
        let retry_in = address.backoff.pause(why, false, &mut self.mux.rng);
        address.reach = Reach::Pause(now + retry_in);
        if !address.is_wanted() {
            self.addresses.remove(name);
        }
        self.mux.event(Event::ConnectFailed { why, retry_in });
    }

    fn dial_due(&mut self, now: Instant) {
        if self.down {
            return;
        }
        let due = |address: &Address| matches!(address.reach, Reach::Pause(at) if at <= now);
        for (name, address) in self
            .addresses
            .iter_mut()
            .filter(|(_, address)| due(address))
        {
            let attempt = AttemptId(self.mux.fresh_id());
            address.reach = Reach::Connecting(attempt);
            self.mux.emit(Output::Cluster(ClusterOutput::DialPeer {
                attempt,
                address: name.clone(),
            }));
        }
    }

    /// Everything that a link's end means, whoever ended it.
    fn link_ended(&mut self, link: LinkId, up_at: Instant, why: LinkLoss, now: Instant) {
        for node in self.said.link_down(link) {
            self.tell(node);
        }
        let ended = self
            .addresses
            .iter()
            .find_map(|(name, address)| match address.reach {
                Reach::Up(up, replica) if up == link => Some((name.clone(), replica)),
                _ => None,
            });
        let Some((name, replica)) = ended else {
            return;
        };
        if let Some(address) = self.addresses.get_mut(&name) {
            address.backoff.held(up_at, now);
        }
        self.pause(&name, why, now);
        for address in self.addresses.values_mut() {
            if address.reach == Reach::Double(replica) {
                address.reach = Reach::Pause(now);
            }
        }
        self.dial_due(now);
    }

    /// Tells a node's hub who holds it.
    fn tell(&mut self, node: NodeName) {
        let holders = self.said.holders(&node);
        self.mux
            .emit(Output::Cluster(ClusterOutput::Holders { node, holders }));
    }

    fn handle_said(&mut self, link: LinkId, msg: &StreamMsg) {
        match self.said.handle(link, msg) {
            Ok(Some(node)) => self.tell(node),
            Ok(None) => {}
            Err(why) => self.mux.event(Event::Ignored(why)),
        }
    }
}

impl Address {
    /// It is to be kept in mind: dialed, or lived with.
    fn is_wanted(&self) -> bool {
        self.listed || matches!(self.reach, Reach::Up(..))
    }
}

fn subject(node: &NodeName, held: &Held) -> (NodeName, String) {
    (node.clone(), held.instance.uuid().into())
}

fn control(kind: LinkKind, remote: String) -> NewLink {
    NewLink {
        kind,
        dialect: Some(Dialect::V1),
        node: String::new(),
        instance: None,
        remote,
        user: String::new(),
    }
}

machine_over_mux!(Peers {
    fn link_lost(&mut self, link: LinkId, why: LinkLoss, now: Instant) {
        let Some(up_at) = self.mux.link(link).map(|link| link.up_at) else {
            return;
        };
        self.mux.remove_link(link, why, now);
        self.link_ended(link, up_at, why, now);
    }

    fn handle_timeout(&mut self, now: Instant) {
        self.mux.handle_timeout(now);
        self.dial_due(now);
    }

    fn poll_output(&mut self) -> Option<Output> {
        loop {
            match self.mux.poll_item()? {
                Item::Output(output) => return Some(output),
                Item::Said(link, msg) => self.handle_said(link, &msg),
                Item::LinkEnded {
                    link,
                    up_at,
                    why,
                    now,
                } => self.link_ended(link, up_at, why, now),
                Item::Asked(_)
                | Item::Drained(..)
                | Item::Opened(..)
                | Item::OpenFailed(..)
                | Item::WantsWay(..)
                | Item::Claimed(..)
                | Item::WrongWay(..)
                | Item::Pump(..)
                | Item::SpliceClosed { .. } => {}
            }
        }
    }

    fn deadline(&self) -> Option<Deadline> {
        let dial = self
            .addresses
            .values()
            .filter_map(|address| match address.reach {
                Reach::Pause(at) if !self.down => Some(Deadline {
                    at,
                    timer: Timer::Reconnect,
                }),
                _ => None,
            });
        self.mux.deadline().into_iter().chain(dial).min()
    }

    fn is_idle(&self) -> bool {
        self.mux.is_idle()
    }
});
