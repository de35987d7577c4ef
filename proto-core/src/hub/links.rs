//! The links of a node's hub: its edge's, those of clients and of other replicas; and how they all leave.

use super::NodeHub;
use crate::auth::{Rights, UserName};
use crate::instance::Instance;
use crate::link::NewLink;
use crate::name::NodeName;
use crate::output::{
    AttemptId, ClusterOutput, GrpcCode, LinkEnd, LinkId, LinkKind, LinkLoss, Output, StreamId,
};
use crate::reason::Reason;
use crate::replica::Held;
use crate::target::Target;
use crate::time::{Instant, WallTime};
use crate::wire::Dialect;
use alloc::collections::BTreeSet;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::time::Duration;
use rand_core::Rng;

/// A link that an edge has made.
#[derive(Clone, Debug)]
pub struct LinkUp {
    /// What was settled in its metadata.
    pub dialect: Dialect,
    /// Its `tunnel-instance`.
    pub instance: Option<Instance>,
    /// The node's name as its credential spells it.
    pub spelling: NodeName,
    /// The edge's address, for people.
    pub remote: String,
    /// Its process leaves: it takes nothing over, and gets nothing new.
    pub draining: bool,
    /// The replica's clock, in milliseconds since 1970: other replicas compare by it.
    pub wall_ms: u64,
}

/// A link that an operator's command has made, for this node.
#[derive(Clone, Debug)]
pub struct ClientUp {
    /// Who is at its other end, verified. `None`: the listener asks nobody.
    pub user: Option<UserName>,
    /// What the user may reach.
    pub rights: Rights,
    /// The client's address, for people.
    pub remote: String,
    /// The node isn't expected: why its user is refused once the registry names nobody.
    pub only_if_found: Option<Reason>,
    /// Since when the node is away, for what its user is told.
    pub offline_since: Option<WallTime>,
    /// Whether this user's streams may outlive their links.
    pub resume: bool,
}

/// What a user may reach by now.
#[derive(Clone, Debug)]
pub enum Standing {
    /// This.
    May(Rights),
    /// Nothing: there is no such user any more.
    Gone,
    /// It isn't known here: all stays as it is.
    Unknown,
}

/// What is remembered of a client's link.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) user: Option<UserName>,
    pub(super) rights: Rights,
    pub(super) only_if_found: Option<Reason>,
    pub(super) offline_since: Option<WallTime>,
    pub(super) resume: bool,
}

impl NodeHub {
    /// Whether a link of this node's edge is here.
    pub fn is_linked(&self) -> bool {
        self.edges().next().is_some()
    }

    /// The links of this node's edge.
    pub(super) fn edges(&self) -> impl Iterator<Item = (LinkId, &crate::link::Link)> {
        self.mux
            .links()
            .filter(|(_, link)| link.kind == LinkKind::Edge)
    }

    /// An edge's link is here. One of another instance takes over from those before it, unless they drain.
    pub fn link_up(&mut self, up: LinkUp, now: Instant) -> LinkId {
        let instance = match up.instance.clone() {
            Some(instance) => instance,
            // A base edge doesn't say: each of its links is another process's.
            None => Instance::random(&mut self.mux.rng).next(),
        };
        if !up.draining {
            self.replace(|held| held.instance.is_same_process(&instance), now);
        }
        let spelling = up.spelling.to_string();
        self.node = up.spelling;
        let link = self.mux.add_link(
            NewLink {
                kind: LinkKind::Edge,
                dialect: Some(up.dialect),
                node: spelling.clone(),
                instance: Some(instance.clone()),
                remote: up.remote,
                user: String::new(),
            },
            now,
        );
        let held = Held {
            spelling,
            instance,
            since_ms: up.wall_ms.max(self.ways.latest_ms() + 1),
            draining: up.draining,
        };
        self.ways.edge_up(link, held);
        if up.draining {
            self.mux.set_draining(link);
        }
        self.drain_later(link, Duration::ZERO, now);
        self.tell_held();
        // Whether the process left its older links or lost them: its streams move to the new one.
        self.move_on(now);
        self.look_around(now);
        link
    }

    /// Ends the edge's links but those that `stays` names, and those that drain.
    pub(super) fn replace(&mut self, stays: impl Fn(&Held) -> bool, now: Instant) {
        let replaced: Vec<LinkId> = self
            .edges()
            .filter(|(id, link)| {
                let held = self.ways.edge(*id);
                !link.draining && !held.is_some_and(&stays)
            })
            .map(|(id, _)| id)
            .collect();
        for link in replaced {
            let end = LinkEnd {
                code: GrpcCode::Aborted,
                text: "replaced",
            };
            self.mux.end_link(link, end, LinkLoss::Replaced, now);
            self.link_gone(link, now);
        }
    }

    /// A client has made a link for this node. Its credential has been verified.
    pub fn client_up(&mut self, up: ClientUp, now: Instant) -> LinkId {
        let user = up.user.as_ref().map(|user| user.as_str().to_string());
        let link = self.add_v1(LinkKind::Client, up.remote, user.unwrap_or_default(), now);
        let client = Client {
            user: up.user,
            rights: up.rights,
            only_if_found: up.only_if_found,
            offline_since: up.offline_since,
            resume: up.resume,
        };
        self.clients.insert(link, client);
        self.drain_later(link, Duration::ZERO, now);
        link
    }

    /// Another replica has made a link for this node.
    pub fn peer_up(&mut self, remote: String, now: Instant) -> LinkId {
        let link = self.add_v1(LinkKind::PeerIn, remote, String::new(), now);
        self.drain_later(link, Duration::ZERO, now);
        link
    }

    /// The link to another replica that `ClusterOutput::ConnectPeer` asked for is there. `None`: it is wanted no more.
    pub fn peer_link_up(
        &mut self,
        attempt: AttemptId,
        remote: String,
        now: Instant,
    ) -> Option<LinkId> {
        let replica = self.ways.attempted(attempt)?;
        let link = self.add_v1(LinkKind::PeerOut, remote, String::new(), now);
        self.ways.peer_up(replica, link, now);
        self.look_around(now);
        Some(link)
    }

    /// It could not be had.
    pub fn peer_link_failed(&mut self, attempt: AttemptId, _why: LinkLoss, now: Instant) {
        if let Some(replica) = self.ways.attempted(attempt) {
            self.ways.peer_failed(replica, now);
            self.look_around(now);
        }
    }

    fn add_v1(&mut self, kind: LinkKind, remote: String, user: String, now: Instant) -> LinkId {
        let new = NewLink {
            kind,
            dialect: Some(Dialect::V1),
            node: self.node.to_string(),
            instance: None,
            remote,
            user,
        };
        self.mux.add_link(new, now)
    }

    /// A link is gone, at whichever end; what went by it has been detached.
    pub(super) fn link_gone(&mut self, link: LinkId, now: Instant) {
        self.clients.remove(&link);
        self.drains.retain(|(_, told)| *told != link);
        self.ways.link_gone(link, now);
        self.tell_held();
        self.look_around(now);
    }

    /// An edge leaves: new streams go by other links of its node.
    pub(super) fn edge_drains(&mut self, link: LinkId) {
        self.ways.edge_drains(link);
        self.tell_held();
    }

    /// The other replicas hear of every change of the newest links that are here.
    pub(super) fn tell_held(&mut self) {
        let held = self.ways.newest_of_each();
        if held != self.held_told {
            self.held_told.clone_from(&held);
            self.mux.emit(Output::Cluster(ClusterOutput::Held(held)));
        }
    }

    /// What a client may ask for: the node's loopback, at a port that it has a right to.
    pub(super) fn may_ask(&self, client: &Client, addr: &str) -> Result<(), Reason> {
        let target = Target::parse(addr).map_err(|_| Reason::ProtocolError)?;
        if Target::loopback(target.port()).as_ref() != Some(&target) {
            return Err(Reason::TargetForbidden);
        }
        match client.rights.allows(&self.node, target.port()) {
            true => Ok(()),
            false => Err(Reason::UserForbidden),
        }
    }

    // Leaving.

    /// This replica leaves: its links are told within `jitter`; nothing new is taken; what there is goes on.
    pub fn drain(&mut self, jitter: Duration, now: Instant) {
        self.draining = true;
        let links: Vec<LinkId> = self.mux.links().map(|(id, _)| id).collect();
        for link in links {
            self.drain_later(link, jitter, now);
        }
        self.tell_held();
    }

    fn drain_later(&mut self, link: LinkId, jitter: Duration, now: Instant) {
        let is_told = self
            .mux
            .link(link)
            .is_some_and(|link| link.kind != LinkKind::PeerOut);
        if self.draining && is_told {
            let share = f64::from(self.mux.rng.next_u32()) / f64::from(u32::MAX);
            self.drains.insert((now + jitter.mul_f64(share), link));
        }
    }

    /// Whoever asks for something new here goes elsewhere with it, and has to know why before the answer comes.
    pub(super) fn drain_now(&mut self, link: LinkId) {
        let before = self.drains.len();
        self.drains.retain(|(_, told)| *told != link);
        if self.drains.len() < before {
            self.mux.send_drain(link);
        }
    }

    pub(super) fn drains_due(&mut self, now: Instant) {
        while let Some(&(at, link)) = self.drains.first() {
            if at > now {
                return;
            }
            self.drains.pop_first();
            self.mux.send_drain(link);
            // From now on it goes elsewhere, and so does what is new. Until then it is as good as any.
            let is_edge = |link: &crate::link::Link| link.kind == LinkKind::Edge;
            if self.mux.link(link).is_some_and(is_edge) {
                self.mux.set_draining(link);
                self.edge_drains(link);
            }
        }
    }

    /// Ends all that goes to this node here: its credential was taken away.
    pub fn revoke(&mut self, now: Instant) {
        self.end_streams(|_, _| true, Reason::Revoked, now);
        self.end_links(
            GrpcCode::Unauthenticated,
            "revoked",
            LinkLoss::Unauthenticated,
            now,
        );
    }

    /// Who has streams or a link here, as far as the listener asked: each once, in no order.
    pub fn users(&self) -> Vec<String> {
        let clients = self
            .clients
            .values()
            .filter_map(|client| client.user.as_ref());
        let mut users: BTreeSet<&str> = clients.map(UserName::as_str).collect();
        let streams = self.mux.stream_ids();
        let streams = streams.iter().filter_map(|id| self.mux.stream(*id));
        users.extend(streams.map(|stream| stream.identity.user.as_str()));
        users.extend(self.mux.routes().map(|(_, route)| route.user.as_str()));
        users.remove("");
        users.into_iter().map(ToString::to_string).collect()
    }

    /// Ends the streams of users who may not reach this node any more. `standing` knows what each may, now.
    pub fn revoke_users(&mut self, standing: impl Fn(&str) -> Standing, now: Instant) {
        for client in self.clients.values_mut() {
            if let Some(user) = &client.user {
                match standing(user.as_str()) {
                    Standing::May(rights) => client.rights = rights,
                    Standing::Gone => client.rights = Rights::default(),
                    Standing::Unknown => {}
                }
            }
        }
        let node = self.node.clone();
        let is_revoked = |user: &str, addr: &str| {
            let port = addr.rsplit_once(':');
            let port = port.and_then(|(_, port)| port.parse().ok()).unwrap_or(0);
            // Who is nobody came by a listener that asks nobody.
            !user.is_empty()
                && match standing(user) {
                    Standing::May(rights) => !rights.allows(&node, port),
                    Standing::Gone => true,
                    Standing::Unknown => false,
                }
        };
        self.end_streams(is_revoked, Reason::Revoked, now);
    }

    /// The replica ends: its streams with it.
    pub fn shut_down(&mut self, now: Instant) {
        for id in self.mux.stream_ids() {
            self.mux.fail(id, Reason::Draining, now);
        }
        self.end_links(
            GrpcCode::Unavailable,
            "shutting down",
            LinkLoss::ShutDown,
            now,
        );
    }

    fn end_streams(&mut self, which: impl Fn(&str, &str) -> bool, reason: Reason, now: Instant) {
        for id in self.mux.stream_ids() {
            let is_meant = self.mux.stream(id).is_some_and(|stream| {
                let identity = &stream.identity;
                which(&identity.user, &identity.addr)
            });
            if is_meant {
                self.mux.fail(id, reason, now);
            }
        }
        let routes: Vec<StreamId> = self
            .mux
            .routes()
            .filter(|(_, route)| which(&route.user, &route.addr))
            .map(|(id, _)| id)
            .collect();
        for id in routes {
            self.mux.fail_route(id, reason, now);
        }
    }

    fn end_links(&mut self, code: GrpcCode, text: &'static str, why: LinkLoss, now: Instant) {
        let links: Vec<LinkId> = self.mux.links().map(|(id, _)| id).collect();
        for link in links {
            self.mux.end_link(link, LinkEnd { code, text }, why, now);
        }
    }
}
