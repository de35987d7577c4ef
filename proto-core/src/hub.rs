//! One node at one replica: its links, the streams that were opened to it here, and the CONNECTs that wait for it.

use crate::auth::UserName;
use crate::budget::Budget;
use crate::config::Config;
use crate::connect::{Context, Reply};
use crate::instance::Instance;
use crate::link::NewLink;
use crate::machine::{Machine, machine_over_mux};
use crate::mux::{Item, Mux, NewStream};
use crate::name::{NodeName, Topic};
use crate::output::{
    Deadline, Event, GrpcCode, LinkEnd, LinkId, LinkInfo, LinkKind, LinkLoss, Output, StreamId,
    StreamInfo, StreamRecord, Timer,
};
use crate::proto::StreamMsg;
use crate::reason::Reason;
use crate::stream::key::Key;
use crate::stream::{Identity, Role, Stream};
use crate::target::Target;
use crate::time::{Instant, WallTime};
use crate::wire::{CATEGORY_SSH, Dialect};
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;
use bytes::Bytes;
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
}

/// A CONNECT that was admitted.
#[derive(Clone, Debug)]
pub struct OpenRequest {
    /// What the edge is to dial.
    pub target: Target,
    /// Who asks.
    pub user: Option<UserName>,
    /// The user's part of the process's budget, if users are told apart.
    pub user_budget: Option<Budget>,
    /// From where, for audit records.
    pub client: String,
    /// The client's `Traceid`, for logs only.
    pub trace_id: Option<String>,
    /// Bytes that came right behind the request: as many as one read brought. Those past the early credit wait.
    pub early: Bytes,
    /// How long to wait for the node's link, if there is none.
    pub wait: Duration,
    /// Since when the node is away, for the reply.
    pub offline_since: Option<WallTime>,
}

/// Somebody who has had no reply yet.
#[derive(Debug)]
struct Asking {
    target: Target,
    user: Option<UserName>,
    offline_since: Option<WallTime>,
    asked_at: Instant,
    waits_until: Option<Instant>,
}

/// See the module. Driven by one task; nothing of it is shared with other nodes but the budget.
#[derive(Debug)]
pub struct NodeHub {
    node: NodeName,
    mux: Mux,
    asking: BTreeMap<StreamId, Asking>,
    waiting: BTreeSet<(Instant, StreamId)>,
}

impl NodeHub {
    /// A hub without links. `budget` is the node's part; `seed` is drawn from the system: topics and keys are secrets.
    pub fn new(node: NodeName, config: Arc<Config>, budget: Budget, seed: [u8; 32]) -> NodeHub {
        NodeHub {
            node,
            mux: Mux::new(Role::Opener, config, budget, seed),
            asking: BTreeMap::new(),
            waiting: BTreeSet::new(),
        }
    }

    /// The node's name, as the edge spells it once one was here.
    pub fn node(&self) -> &NodeName {
        &self.node
    }

    /// Whether a link of this node is here.
    pub fn is_linked(&self) -> bool {
        self.mux.links().next().is_some()
    }

    /// An edge's link is here. One of another instance takes over from those before it.
    pub fn link_up(&mut self, up: LinkUp, now: Instant) -> LinkId {
        let replaced: Vec<LinkId> = self
            .mux
            .links()
            .filter(|(_, link)| !is_same_process(link.instance.as_ref(), up.instance.as_ref()))
            .map(|(id, _)| id)
            .collect();
        for link in replaced {
            let end = LinkEnd {
                code: GrpcCode::Aborted,
                text: "replaced",
            };
            self.mux.end_link(link, end, LinkLoss::Replaced, now);
        }
        let spelling = up.spelling.to_string();
        self.node = up.spelling;
        let new = NewLink {
            kind: LinkKind::Edge,
            dialect: Some(up.dialect),
            node: spelling,
            instance: up.instance,
            remote: up.remote,
        };
        let link = self.mux.add_link(new, now);
        for (_, id) in core::mem::take(&mut self.waiting) {
            self.attach(id, link, now);
        }
        // Whether the process left its older links or lost them: its streams move to the new one.
        let older: Vec<LinkId> = self
            .mux
            .links()
            .map(|(id, _)| id)
            .filter(|id| *id != link)
            .collect();
        for old in older {
            self.mux.detach_all(old, now);
        }
        let wanting: Vec<StreamId> = self.mux.wanting().collect();
        for id in wanting {
            self.find_way(id, now);
        }
        link
    }

    /// A stream that has lost its link goes on by the newest of the process that holds its other end.
    fn find_way(&mut self, id: StreamId, now: Instant) {
        let Some(stream) = self.mux.stream(id).filter(|stream| stream.wants_way()) else {
            return;
        };
        let uuid = stream.instance();
        let way = match uuid.is_empty() {
            true => self.newest_link(),
            false => self
                .mux
                .links()
                .filter(|(_, link)| {
                    link.instance
                        .as_ref()
                        .is_some_and(|instance| instance.uuid() == uuid)
                })
                .max_by_key(|(_, link)| link.instance.as_ref().map_or(0, Instance::link))
                .map(|(id, _)| id),
        };
        match way {
            Some(link) => self.mux.attach(id, link, now),
            None if self.is_linked() => self.mux.orphan(id, now),
            None => {}
        }
    }

    /// Somebody asks for a stream to this node. Exactly one `Output::Reply` answers.
    pub fn open(&mut self, open: OpenRequest, now: Instant) -> StreamId {
        let id = StreamId(self.mux.fresh_id());
        let pending_max = self.mux.config.links.pending_per_node_max;
        let admitted = if self.asking.len() >= pending_max {
            None
        } else {
            self.admit(&open, now)
        };
        self.asking.insert(
            id,
            Asking {
                target: open.target.clone(),
                user: open.user.clone(),
                offline_since: open.offline_since,
                asked_at: now,
                waits_until: None,
            },
        );
        let Some(stream) = admitted else {
            self.mux.event(Event::Refused(Reason::OverLimit));
            self.reply(id, Some(Reason::OverLimit), now);
            self.mux.event(Event::StreamEnded(StreamRecord {
                reason: Reason::OverLimit,
                ..self.refused_record(id, &open, now)
            }));
            self.mux.emit(Output::Close { id, reset: false });
            return id;
        };
        let new = NewStream {
            stream,
            client: open.client,
            trace_id: open.trace_id.unwrap_or_default(),
        };
        self.mux.add_opened(id, new, now);
        if !open.early.is_empty() {
            self.mux.handle_early(id, open.early, now);
        }
        match self.newest_link() {
            Some(link) => self.attach(id, link, now),
            None => self.wait(id, now + open.wait),
        }
        id
    }

    /// Ends all that goes to this node here: its credential was taken away.
    pub fn revoke(&mut self, now: Instant) {
        for id in self.mux.stream_ids() {
            self.mux.fail(id, Reason::Revoked, now);
        }
        self.end_links(
            GrpcCode::Unauthenticated,
            "revoked",
            LinkLoss::Unauthenticated,
            now,
        );
    }

    /// Ends the streams of users who may not reach this node any more.
    pub fn revoke_users(&mut self, may: impl Fn(&str, u16) -> bool, now: Instant) {
        for id in self.mux.stream_ids() {
            let allowed = self.mux.stream(id).is_none_or(|stream| {
                let port = stream.identity.addr.rsplit_once(':');
                let port = port.and_then(|(_, port)| port.parse().ok()).unwrap_or(0);
                may(&stream.identity.user, port)
            });
            if !allowed {
                self.mux.fail(id, Reason::Revoked, now);
            }
        }
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

    fn end_links(&mut self, code: GrpcCode, text: &'static str, why: LinkLoss, now: Instant) {
        let links: Vec<LinkId> = self.mux.links().map(|(id, _)| id).collect();
        for link in links {
            self.mux.end_link(link, LinkEnd { code, text }, why, now);
        }
    }

    fn admit(&mut self, open: &OpenRequest, now: Instant) -> Option<Stream> {
        if let Some((_, link)) = self.newest()
            && link.streams.len() >= self.mux.config.links.streams_per_link_max
        {
            return None;
        }
        let mut topic = [0; 16];
        self.mux.rng.fill_bytes(&mut topic);
        let identity = Identity {
            topic: Topic::from_random(topic),
            node: self.node.to_string(),
            category: CATEGORY_SSH.into(),
            addr: open.target.to_string(),
            user: open
                .user
                .as_ref()
                .map(|user| user.as_str().to_string())
                .unwrap_or_default(),
        };
        let key = Key::random(&mut self.mux.rng);
        let budget = match &open.user_budget {
            Some(user) => self.mux.budget.and(user),
            None => self.mux.budget.clone(),
        };
        Stream::new(
            Role::Opener,
            identity,
            key,
            &budget,
            &self.mux.config.streams,
            now,
        )
    }

    /// The link that new streams go by: the node's newest that isn't draining.
    fn newest(&self) -> Option<(LinkId, &crate::link::Link)> {
        self.mux
            .links()
            .filter(|(_, link)| !link.draining)
            .max_by_key(|(id, link)| (link.instance.as_ref().map_or(0, Instance::link), *id))
    }

    fn newest_link(&self) -> Option<LinkId> {
        self.newest().map(|(id, _)| id)
    }

    fn wait(&mut self, id: StreamId, until: Instant) {
        if let Some(asking) = self.asking.get_mut(&id) {
            asking.waits_until = Some(until);
            self.waiting.insert((until, id));
        }
    }

    fn attach(&mut self, id: StreamId, link: LinkId, now: Instant) {
        if let Some(asking) = self.asking.get_mut(&id) {
            asking.waits_until = None;
        }
        self.mux.attach(id, link, now);
    }

    /// Answers whoever asked for the stream; the entry is taken, so it happens once.
    fn reply(&mut self, id: StreamId, refused: Option<Reason>, now: Instant) {
        let Some(asking) = self.asking.remove(&id) else {
            return;
        };
        if let Some(until) = asking.waits_until {
            self.waiting.remove(&(until, id));
        }
        let reply = match refused {
            None => {
                let took = now.saturating_duration_since(asking.asked_at);
                self.mux.event(Event::Connected { id, took });
                Reply::established()
            }
            Some(reason) => Reply::refused(
                reason,
                &Context {
                    node: Some(&self.node),
                    target: Some(&asking.target),
                    user: asking.user.as_ref(),
                    offline_since: asking.offline_since,
                    ..Context::default()
                },
            ),
        };
        self.mux.emit_first(Output::Reply { id, reply });
    }

    fn refused_record(&self, id: StreamId, open: &OpenRequest, now: Instant) -> StreamRecord {
        StreamRecord {
            id,
            topic: String::new(),
            node: self.node.to_string(),
            target: open.target.to_string(),
            user: open
                .user
                .as_ref()
                .map(|user| user.as_str().to_string())
                .unwrap_or_default(),
            client: open.client.clone(),
            trace_id: open.trace_id.clone().unwrap_or_default(),
            opened_at: now,
            connected_at: None,
            ended_at: now,
            bytes_to_edge: 0,
            bytes_from_edge: 0,
            reason: Reason::OverLimit,
            detached: false,
        }
    }
}

/// Links of one process are not told apart by anything else; a base edge doesn't say, so each of its links is another.
fn is_same_process(one: Option<&Instance>, other: Option<&Instance>) -> bool {
    match (one, other) {
        (Some(one), Some(other)) => one.is_same_process(other),
        _ => false,
    }
}

machine_over_mux!(NodeHub {
    fn link_lost(&mut self, link: LinkId, why: LinkLoss, now: Instant) {
        self.mux.remove_link(link, why, now);
    }

    fn handle_timeout(&mut self, now: Instant) {
        self.mux.handle_timeout(now);
        while let Some(&(until, id)) = self.waiting.first() {
            if until > now {
                break;
            }
            self.waiting.pop_first();
            self.mux.fail(id, Reason::NodeOffline, now);
        }
    }

    fn poll_output(&mut self) -> Option<Output> {
        loop {
            match self.mux.poll_item()? {
                Item::Output(output) => return Some(output),
                Item::Opened(id, at) => self.reply(id, None, at),
                Item::OpenFailed(id, reason, at) => self.reply(id, Some(reason), at),
                Item::WantsWay(id, at) => self.find_way(id, at),
                Item::Asked(_) | Item::LinkEnded { .. } => {}
            }
        }
    }

    fn deadline(&self) -> Option<Deadline> {
        let waiting = self.waiting.first().map(|&(at, id)| Deadline {
            at,
            timer: Timer::Stream(id),
        });
        [self.mux.deadline(), waiting].into_iter().flatten().min()
    }

    fn is_idle(&self) -> bool {
        self.mux.is_idle()
    }
});
