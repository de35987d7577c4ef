//! The ways to a node: an own link, a replica that said `here`, the registry's answer; and who goes by which.

use super::NodeHub;
use crate::connect::{Context, line};
use crate::output::{
    AttemptId, ClusterOutput, GrpcCode, LinkEnd, LinkId, LinkKind, LinkLoss, Output, StreamId,
};
use crate::reason::Reason;
use crate::replica::{Held, Holder, ReplicaId};
use crate::time::Instant;
use crate::wire::Dialect;
use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;
use core::time::Duration;

/// A replica that could not be reached is not tried again for so long.
const PEER_RETRY: Duration = Duration::from_millis(500);
/// A link to another replica that nothing goes by is ended after so long.
const PEER_IDLE: Duration = Duration::from_secs(60);
/// Where nobody knows the way the registry is asked again after so long, while somebody waits.
const FIND_RETRY: Duration = Duration::from_millis(500);

/// A link to another replica, for this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PeerLink {
    Connecting(AttemptId),
    Up(LinkId, Instant),
    /// Not to be tried before then.
    Failed(Instant),
}

/// What is known of the ways to one node.
#[derive(Debug, Default)]
pub(super) struct Ways {
    edges: BTreeMap<LinkId, Held>,
    holders: Vec<Holder>,
    found: Vec<ReplicaId>,
    find_at: Option<Instant>,
    peers: BTreeMap<ReplicaId, PeerLink>,
}

/// Where a stream can go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Link(LinkId),
    /// A link to this replica has to be made first.
    Peer(ReplicaId),
    /// A link is being made.
    Soon,
    /// Only another process of this node is known.
    Elsewhere,
    Nowhere,
}

/// One candidate.
#[derive(Clone, Copy, Debug)]
enum Candidate {
    Own(LinkId),
    Other(ReplicaId),
}

impl Ways {
    pub(super) fn edge(&self, link: LinkId) -> Option<&Held> {
        self.edges.get(&link)
    }

    pub(super) fn edge_up(&mut self, link: LinkId, held: Held) {
        self.edges.insert(link, held);
    }

    pub(super) fn edge_drains(&mut self, link: LinkId) {
        if let Some(held) = self.edges.get_mut(&link) {
            held.draining = true;
        }
    }

    /// The latest set-up time that was heard of for this node.
    pub(super) fn latest_ms(&self) -> u64 {
        let own = self.edges.values().map(|held| held.since_ms);
        let others = self.holders.iter().map(|holder| holder.held.since_ms);
        own.chain(others).max().unwrap_or(0)
    }

    /// The newest link of each process that has one here.
    pub(super) fn newest_of_each(&self) -> Vec<Held> {
        let mut newest: BTreeMap<&str, &Held> = BTreeMap::new();
        for held in self.edges.values() {
            let best = newest.entry(held.instance.uuid()).or_insert(held);
            if held.is_newer_than(best) {
                *best = held;
            }
        }
        newest.into_values().cloned().collect()
    }

    /// The replica that an attempt was for.
    pub(super) fn attempted(&self, attempt: AttemptId) -> Option<ReplicaId> {
        self.peers
            .iter()
            .find(|(_, link)| **link == PeerLink::Connecting(attempt))
            .map(|(replica, _)| *replica)
    }

    pub(super) fn peer_up(&mut self, replica: ReplicaId, link: LinkId, now: Instant) {
        self.peers.insert(replica, PeerLink::Up(link, now));
    }

    pub(super) fn peer_failed(&mut self, replica: ReplicaId, now: Instant) {
        self.peers
            .insert(replica, PeerLink::Failed(now + PEER_RETRY));
    }

    pub(super) fn link_gone(&mut self, link: LinkId, now: Instant) {
        self.edges.remove(&link);
        let replica = self.replica_of(link);
        if let Some(replica) = replica {
            self.peer_failed(replica, now);
        }
    }

    fn replica_of(&self, link: LinkId) -> Option<ReplicaId> {
        self.peers
            .iter()
            .find(|(_, peer)| matches!(peer, PeerLink::Up(id, _) if *id == link))
            .map(|(replica, _)| *replica)
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        let peers = self.peers.values().filter_map(|peer| match peer {
            PeerLink::Failed(until) => Some(*until),
            PeerLink::Up(_, idle_since) => Some(*idle_since + PEER_IDLE),
            PeerLink::Connecting(_) => None,
        });
        peers.chain(self.find_at).min()
    }

    /// The best of candidates in their order.
    fn best(&self, candidates: impl Iterator<Item = Candidate>, tried: &[LinkId]) -> Way {
        for candidate in candidates {
            match candidate {
                Candidate::Own(link) if !tried.contains(&link) => return Way::Link(link),
                Candidate::Own(_) => {}
                Candidate::Other(replica) => match self.peers.get(&replica) {
                    Some(PeerLink::Up(link, _)) if !tried.contains(link) => {
                        return Way::Link(*link);
                    }
                    Some(PeerLink::Up(..) | PeerLink::Failed(_)) => {}
                    Some(PeerLink::Connecting(_)) => return Way::Soon,
                    None => return Way::Peer(replica),
                },
            }
        }
        Way::Nowhere
    }
}

impl NodeHub {
    /// What the other replicas say: all who hold a link of this node now.
    pub fn set_holders(&mut self, holders: Vec<Holder>, now: Instant) {
        self.ways.holders = holders;
        self.ways
            .peers
            .retain(|_, peer| !matches!(peer, PeerLink::Failed(_)));
        for asking in self.asking.values_mut() {
            asking.tried.clear(); // It is news.
        }
        self.mux.forget_tried();
        self.yield_to_newer(now);
        self.move_on(now);
        self.look_around(now);
    }

    /// The registry's answer: replicas that this one is connected to, the likeliest first.
    pub fn handle_found(&mut self, replicas: Vec<ReplicaId>, now: Instant) {
        let nobody = replicas.is_empty();
        self.ways.found = replicas;
        self.look_around(now);
        if nobody {
            self.refuse_unexpected(now);
        }
    }

    /// Those who ask for a node that only the registry might have known.
    fn refuse_unexpected(&mut self, now: Instant) {
        let refused: Vec<(StreamId, Reason)> = self
            .asking
            .iter()
            .filter(|(_, asking)| asking.waits_until.is_some())
            .filter(|(_, asking)| self.way("", false, &asking.tried) == Way::Nowhere)
            .filter_map(|(id, asking)| Some((*id, asking.only_if_found?)))
            .collect();
        for (id, reason) in refused {
            self.stop_waiting(id);
            self.mux.fail(id, reason, now);
        }
        let claims: Vec<(StreamId, Reason)> = self
            .mux
            .routes()
            .filter(|(_, route)| route.acceptor.is_none() && route.ended.is_none())
            .filter(|(_, route)| self.way("", false, &route.tried) == Way::Nowhere)
            .filter_map(|(id, _)| Some((id, self.only_if_found(id)?)))
            .collect();
        for (id, reason) in claims {
            self.refuse_claim(id, reason, now);
        }
    }

    /// Why a client's `connecting` is refused where nobody is known to hold the node.
    fn only_if_found(&self, id: StreamId) -> Option<Reason> {
        let route = self.mux.route(id).filter(|route| !route.is_resume)?;
        self.clients.get(&route.opener)?.only_if_found
    }

    /// "The later one wins": another process's link, set up elsewhere after the one here, ends it, unless either drains.
    fn yield_to_newer(&mut self, now: Instant) {
        let holders = self.ways.holders.clone();
        self.replace(
            |own| {
                !holders.iter().any(|holder| {
                    !holder.held.draining
                        && !holder.held.instance.is_same_process(&own.instance)
                        && holder.held.is_newer_than(own)
                })
            },
            now,
        );
    }

    /// Streams on an older link of a process that has a newer one, here or elsewhere, move to that.
    pub(super) fn move_on(&mut self, now: Instant) {
        let is_old = |held: &Held| {
            let own = self.ways.edges.values();
            let others = self.ways.holders.iter().map(|holder| &holder.held);
            own.chain(others).any(|other| {
                other.instance.is_same_process(&held.instance) && other.is_newer_than(held)
            })
        };
        let old: Vec<LinkId> = self
            .ways
            .edges
            .iter()
            .filter(|(_, held)| is_old(held))
            .map(|(link, _)| *link)
            .collect();
        // One that resumed by the older link just before this was heard has been told nothing by the replica that holds it.
        let mut by_others = Vec::new();
        for (replica, peer) in &self.ways.peers {
            if let PeerLink::Up(link, _) = peer {
                let holders = self.ways.holders.iter();
                let old = holders
                    .filter(|holder| holder.replica == *replica && is_old(&holder.held))
                    .map(|holder| String::from(holder.held.instance.uuid()));
                by_others.extend(old.map(|uuid| (*link, uuid)));
            }
        }
        for link in old {
            self.mux.move_openers(link, None);
            self.mux.detach_all(link, None, now);
        }
        for (link, uuid) in by_others {
            self.mux.move_openers(link, Some(&uuid));
            self.mux.detach_all(link, Some(&uuid), now);
        }
    }

    /// Something has changed: whoever waits looks for a way again.
    pub(super) fn look_around(&mut self, now: Instant) {
        let asking: Vec<StreamId> = self
            .asking
            .iter()
            .filter(|(_, asking)| asking.waits_until.is_some())
            .map(|(id, _)| *id)
            .collect();
        let wanting: Vec<StreamId> = self.mux.wanting().collect();
        for id in asking.into_iter().chain(wanting) {
            self.find_way(id, now);
        }
        let claims: Vec<StreamId> = self
            .mux
            .routes()
            .filter(|(_, route)| route.acceptor.is_none() && route.ended.is_none())
            .map(|(id, _)| id)
            .collect();
        for id in claims {
            self.lead(id, now);
        }
    }

    /// The link that new streams go by, if it is here: the edge's newest that isn't draining.
    pub(super) fn newest_edge(&self) -> Option<LinkId> {
        self.candidates_for_new()
            .into_iter()
            .find_map(|candidate| match candidate {
                Candidate::Own(link) => Some(link),
                Candidate::Other(_) => None,
            })
    }

    fn candidates_for_new(&self) -> Vec<Candidate> {
        let own = self.edges().filter_map(|(id, link)| {
            let held = self.ways.edge(id)?;
            (!link.draining).then_some((held, Candidate::Own(id)))
        });
        let others = self
            .ways
            .holders
            .iter()
            .filter(|holder| !holder.held.draining);
        let others = others.map(|holder| (&holder.held, Candidate::Other(holder.replica)));
        self.ordered(own.chain(others).collect())
    }

    /// The ways to one process of the edge, whether or not they drain.
    fn candidates_for(&self, uuid: &str) -> Vec<Candidate> {
        let own = self.ways.edges.iter();
        let own = own.map(|(id, held)| (held, Candidate::Own(*id)));
        let others = self.ways.holders.iter();
        let others = others.map(|holder| (&holder.held, Candidate::Other(holder.replica)));
        let all = own.chain(others);
        self.ordered(
            all.filter(|(held, _)| held.instance.uuid() == uuid)
                .collect(),
        )
    }

    /// The newest first. Not by a sort: links of three processes may each be newer than the next, in a circle.
    fn ordered(&self, mut all: Vec<(&Held, Candidate)>) -> Vec<Candidate> {
        let mut ordered = Vec::with_capacity(all.len());
        while let Some((first, _)) = all.first() {
            let (mut at, mut newest) = (0, *first);
            for (other, (held, _)) in all.iter().enumerate() {
                if held.is_newer_than(newest) {
                    (at, newest) = (other, *held);
                }
            }
            ordered.push(all.remove(at).1);
        }
        ordered
    }

    /// Where a stream of this process's, or a new one, goes now. `own_only`: "what came by a peer link goes to an edge link
    /// of one's own or nowhere".
    fn way(&self, uuid: &str, own_only: bool, tried: &[LinkId]) -> Way {
        let candidates = match uuid.is_empty() {
            true => self.candidates_for_new(),
            false => self.candidates_for(uuid),
        };
        let said = candidates
            .iter()
            .copied()
            .filter(|candidate| !own_only || matches!(candidate, Candidate::Own(_)));
        let found = self
            .ways
            .found
            .iter()
            .map(|replica| Candidate::Other(*replica));
        let found = found.filter(|_| !own_only && candidates.is_empty());
        match self.ways.best(said.chain(found), tried) {
            Way::Nowhere if !uuid.is_empty() && candidates.is_empty() && self.is_known() => {
                Way::Elsewhere
            }
            way => way,
        }
    }

    /// Some process of this node has a link somewhere.
    fn is_known(&self) -> bool {
        !self.ways.edges.is_empty() || !self.ways.holders.is_empty()
    }

    /// A stream of this replica that has no link, or has lost it, looks for one.
    pub(super) fn find_way(&mut self, id: StreamId, now: Instant) {
        let Some(stream) = self
            .mux
            .stream(id)
            .filter(|stream| stream.ended().is_none())
        else {
            return;
        };
        let asking = self.asking.get(&id);
        let waits = asking.is_some_and(|asking| asking.waits_until.is_some());
        if !waits && !stream.wants_way() {
            return;
        }
        let tried = asking.map_or(&[][..], |asking| &asking.tried);
        match self.way(stream.instance(), false, tried) {
            Way::Link(link) => {
                self.stop_waiting(id);
                self.mux.attach(id, link, now);
            }
            Way::Peer(replica) => self.connect_peer(replica),
            Way::Soon => {}
            Way::Elsewhere => self.mux.orphan(id, now),
            Way::Nowhere => self.find_node(now),
        }
    }

    fn connect_peer(&mut self, replica: ReplicaId) {
        let attempt = AttemptId(self.mux.fresh_id());
        self.ways
            .peers
            .insert(replica, PeerLink::Connecting(attempt));
        self.mux.emit(Output::Cluster(ClusterOutput::ConnectPeer {
            attempt,
            replica,
        }));
    }

    fn find_node(&mut self, now: Instant) {
        if self.ways.find_at.is_none() {
            self.ways.find_at = Some(now + FIND_RETRY);
            self.mux.emit(Output::Cluster(ClusterOutput::FindNode));
        }
    }

    /// The node was not at the other end of this link.
    pub(super) fn wrong_way(&mut self, id: StreamId, link: LinkId, now: Instant) {
        if let Some(replica) = self.ways.replica_of(link)
            && self.ways.found.contains(&replica)
        {
            self.ways.found.retain(|found| *found != replica);
            self.mux
                .emit(Output::Cluster(ClusterOutput::WrongNode(replica)));
        }
        if let Some(asking) = self.asking.get_mut(&id) {
            asking.tried.push(link);
            let until = asking.asked_at + asking.wait;
            self.wait(id, until.max(now));
            self.find_way(id, now);
        } else {
            if let Some(route) = self.mux.route_mut(id) {
                route.tried.push(link);
            }
            self.lead(id, now);
        }
    }

    // Streams that are opened elsewhere.

    /// A claim has come: by a client's link, or another replica's.
    pub(super) fn claimed(&mut self, id: StreamId, now: Instant) {
        let Some(route) = self.mux.route(id) else {
            return;
        };
        let (opener, addr, is_resume) = (route.opener, route.addr.clone(), route.is_resume);
        if let Some(client) = self.clients.get(&opener) {
            if let Err(reason) = self.may_ask(client, &addr) {
                // A right that is gone ends the stream, wherever its other end is: it is told when its grace is over.
                return match is_resume {
                    true => self.mux.fail_route(id, Reason::Revoked, now),
                    false => self.refuse_claim(id, reason, now),
                };
            }
            if is_resume && !client.resume {
                return self.mux.fail_route(id, Reason::UnknownStream, now);
            }
            let until = now + self.node_wait;
            if let Some(route) = self.mux.route_mut(id) {
                route.keep_asking();
            }
            self.waiting.insert((until, id));
        }
        if self.draining && !is_resume && self.clients.contains_key(&opener) {
            self.drain_now(opener);
            return self.refuse_claim(id, Reason::Draining, now);
        }
        self.lead(id, now);
    }

    fn lead(&mut self, id: StreamId, now: Instant) {
        let Some(route) = self.mux.route(id) else {
            return;
        };
        if route.acceptor.is_some() || route.ended.is_some() {
            return;
        }
        let is_resume = route.is_resume;
        let from_peer = self
            .mux
            .link(route.opener)
            .is_none_or(|link| link.kind == LinkKind::PeerIn);
        match self.way(&route.instance, from_peer, &route.tried) {
            Way::Link(link) => {
                let is_base = self
                    .mux
                    .link(link)
                    .is_some_and(|link| link.dialect == Dialect::Base);
                if is_base {
                    return self.mux.accept_claim(id, link, now);
                }
                if !self.mux.lead_route(id, link, now) {
                    // Another's claim to the same attachment is on its way. It may be a forged one, and says nothing about
                    // the stream: a true opener asks again.
                    let reason = match is_resume {
                        true => Reason::NoAnswer,
                        false => Reason::UnknownStream,
                    };
                    self.refuse_claim(id, reason, now);
                }
            }
            Way::Peer(replica) => self.connect_peer(replica),
            Way::Soon => {}
            Way::Elsewhere => self.refuse_claim(id, Reason::UnknownStream, now),
            Way::Nowhere if from_peer => self.refuse_claim(id, Reason::NodeOffline, now),
            Way::Nowhere => self.find_node(now),
        }
    }

    /// Nothing has come of a client's claim in time.
    pub(super) fn give_up_claim(&mut self, id: StreamId, now: Instant) {
        let is_waiting = self
            .mux
            .route(id)
            .is_some_and(|route| route.acceptor.is_none() && route.ended.is_none());
        if is_waiting {
            let reason = self.only_if_found(id).unwrap_or(Reason::NodeOffline);
            self.refuse_claim(id, reason, now);
        }
    }

    fn refuse_claim(&mut self, id: StreamId, reason: Reason, now: Instant) {
        let opener = self.mux.route(id).map(|route| route.opener);
        let client = opener.and_then(|link| self.clients.get(&link));
        let text = match client {
            None => String::new(),
            Some(client) => {
                let route = self.mux.route(id);
                let target = route.and_then(|route| crate::target::Target::parse(&route.addr).ok());
                let context = Context {
                    node: Some(&self.node),
                    target: target.as_ref(),
                    user: client.user.as_ref(),
                    offline_since: client.offline_since,
                    ..Context::default()
                };
                line(reason.into(), &context)
            }
        };
        self.mux.refuse_route(id, reason, &text, now);
    }

    /// Pauses that are over, and links that nothing goes by.
    pub(super) fn ways_due(&mut self, now: Instant) {
        if self.ways.deadline().is_none_or(|at| at > now) {
            return;
        }
        let mut idle = Vec::new();
        for (replica, peer) in &mut self.ways.peers {
            if let PeerLink::Up(link, idle_since) = peer
                && *idle_since + PEER_IDLE <= now
            {
                match self.mux.load_of_link(*link) {
                    0 => idle.push((*replica, *link)),
                    _ => *idle_since = now,
                }
            }
        }
        for (replica, link) in idle {
            self.ways.peers.remove(&replica);
            let end = LinkEnd {
                code: GrpcCode::Ok,
                text: "nothing goes by it",
            };
            self.mux.end_link(link, end, LinkLoss::Closed, now);
        }
        self.ways
            .peers
            .retain(|_, peer| !matches!(peer, PeerLink::Failed(until) if *until <= now));
        if self.ways.find_at.is_some_and(|at| at <= now) {
            self.ways.find_at = None;
        }
        self.look_around(now);
    }
}
