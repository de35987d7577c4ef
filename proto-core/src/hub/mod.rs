//! One node at one replica: its links, the streams that were opened to it here, those that are passed on, and the CONNECTs
//! that wait for it.

mod links;
mod ways;

pub use links::{ClientUp, LinkUp, Standing};

use crate::auth::UserName;
use crate::budget::Budget;
use crate::config::Config;
use crate::connect::{Context, Reply};
use crate::machine::{Machine, machine_over_mux};
use crate::mux::{Item, Mux, NewStream};
use crate::name::NodeName;
use crate::output::{
    Deadline, Event, LinkId, LinkInfo, LinkLoss, Output, StreamId, StreamInfo, StreamRecord, Timer,
};
use crate::proto::StreamMsg;
use crate::reason::Reason;
use crate::replica::Held;
use crate::stream::{Identity, Role, Stream};
use crate::target::Target;
use crate::time::{Instant, WallTime};
use crate::wire::CATEGORY_SSH;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;
use bytes::Bytes;
use core::time::Duration;
use links::Client;
use ways::Ways;

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
    /// The node isn't expected: why it is refused once the registry names nobody.
    pub only_if_found: Option<Reason>,
    /// Since when the node is away, for the reply.
    pub offline_since: Option<WallTime>,
    /// Whether it may outlive its link, as far as the listener and the user go.
    pub resume: bool,
}

/// Somebody who has had no reply yet.
#[derive(Debug)]
struct Asking {
    target: Target,
    user: Option<UserName>,
    offline_since: Option<WallTime>,
    asked_at: Instant,
    wait: Duration,
    only_if_found: Option<Reason>,
    /// It has no way now.
    waits_until: Option<Instant>,
    /// The node was not there.
    tried: Vec<LinkId>,
}

/// See the module. Driven by one task; nothing of it is shared with other nodes but the budget.
#[derive(Debug)]
pub struct NodeHub {
    node: NodeName,
    mux: Mux,
    asking: BTreeMap<StreamId, Asking>,
    /// Streams of this replica and others' that have no way, by the time until which they wait for one.
    waiting: BTreeSet<(Instant, StreamId)>,
    clients: BTreeMap<LinkId, Client>,
    ways: Ways,
    /// What the others were told last.
    held_told: Vec<Held>,
    /// This replica leaves.
    draining: bool,
    /// When each link is told so.
    drains: BTreeSet<(Instant, LinkId)>,
    node_wait: Duration,
}

impl NodeHub {
    /// A hub without links. `budget` is the node's part; `seed` is drawn from the system: topics and keys are secrets.
    pub fn new(node: NodeName, config: Arc<Config>, budget: Budget, seed: [u8; 32]) -> NodeHub {
        let node_wait = config.streams.node_wait;
        NodeHub {
            node,
            mux: Mux::new(Role::Opener, config, budget, seed),
            asking: BTreeMap::new(),
            waiting: BTreeSet::new(),
            clients: BTreeMap::new(),
            ways: Ways::default(),
            held_told: Vec::new(),
            draining: false,
            drains: BTreeSet::new(),
            node_wait,
        }
    }

    /// The node's name, as the edge spells it once one was here.
    pub fn node(&self) -> &NodeName {
        &self.node
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
                wait: open.wait,
                only_if_found: open.only_if_found,
                waits_until: None,
                tried: Vec::new(),
            },
        );
        let Some(stream) = admitted else {
            self.reply(id, Some(Reason::OverLimit), now); // By which it is counted.
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
        self.wait(id, now + open.wait);
        self.find_way(id, now);
        id
    }

    fn admit(&mut self, open: &OpenRequest, now: Instant) -> Option<Stream> {
        if let Some(link) = self.newest_edge()
            && self.mux.load_of_link(link) >= self.mux.config.links.streams_per_link_max
        {
            return None;
        }
        let (topic, key) = self.mux.draw();
        let identity = Identity {
            topic,
            node: self.node.to_string(),
            category: CATEGORY_SSH.into(),
            addr: open.target.to_string(),
            user: open
                .user
                .as_ref()
                .map(|user| user.as_str().to_string())
                .unwrap_or_default(),
        };
        let budget = match &open.user_budget {
            Some(user) => self.mux.budget.and(user),
            None => self.mux.budget.clone(),
        };
        let mut stream = Stream::new(
            Role::Opener,
            identity,
            key,
            &budget,
            &self.mux.config.streams,
            now,
        )?;
        if !open.resume {
            stream.stay();
        }
        Some(stream)
    }

    fn wait(&mut self, id: StreamId, until: Instant) {
        if let Some(asking) = self.asking.get_mut(&id) {
            asking.waits_until = Some(until);
            self.waiting.insert((until, id));
        }
    }

    /// It waits for a way no more.
    fn stop_waiting(&mut self, id: StreamId) {
        if let Some(asking) = self.asking.get_mut(&id)
            && let Some(until) = asking.waits_until.take()
        {
            self.waiting.remove(&(until, id));
        }
    }

    fn waited_enough(&mut self, id: StreamId, now: Instant) {
        if let Some(asking) = self.asking.get_mut(&id) {
            asking.waits_until = None;
            let reason = asking.only_if_found.unwrap_or(Reason::NodeOffline);
            self.mux.fail(id, reason, now);
        } else {
            self.give_up_claim(id, now);
        }
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

machine_over_mux!(NodeHub {
    fn link_lost(&mut self, link: LinkId, why: LinkLoss, now: Instant) {
        self.mux.remove_link(link, why, now);
        self.link_gone(link, now);
    }

    fn handle_timeout(&mut self, now: Instant) {
        self.mux.handle_timeout(now);
        while let Some(&(until, id)) = self.waiting.first() {
            if until > now {
                break;
            }
            self.waiting.pop_first();
            self.waited_enough(id, now);
        }
        self.drains_due(now);
        self.ways_due(now);
    }

    fn poll_output(&mut self) -> Option<Output> {
        loop {
            match self.mux.poll_item()? {
                Item::Output(output) => return Some(output),
                Item::Opened(id, at) => {
                    if !self.mux.spliced_answer(id, Ok(()), at) {
                        self.reply(id, None, at);
                    }
                }
                Item::OpenFailed(id, reason, at) => {
                    if !self.mux.spliced_answer(id, Err(reason), at) {
                        self.reply(id, Some(reason), at);
                    }
                }
                Item::Pump(id, at) => self.mux.pump(id, at),
                Item::SpliceClosed { id, reset, now } => self.mux.splice_closed(id, reset, now),
                Item::WantsWay(id, at) => self.find_way(id, at),
                Item::Claimed(id, at) => self.claimed(id, at),
                Item::WrongWay(id, link, at) => self.wrong_way(id, link, at),
                Item::LinkEnded { link, now, .. } => self.link_gone(link, now),
                Item::Drained(link, _) => self.edge_drains(link),
                Item::Asked(_) | Item::Said(..) => {}
            }
        }
    }

    fn deadline(&self) -> Option<Deadline> {
        let stream = |&(at, id): &(Instant, StreamId)| Deadline {
            at,
            timer: Timer::Stream(id),
        };
        let link = |(at, id): (Instant, LinkId)| Deadline {
            at,
            timer: Timer::Link(id),
        };
        [
            self.mux.deadline(),
            // A claim that is settled leaves its entry until then, for which nobody waits at an idle hub.
            self.waiting.first().filter(|_| !self.mux.is_idle()).map(stream),
            self.drains.first().copied().map(link),
            // Pauses before another try: nobody waits for one at an idle hub.
            self.ways.deadline().filter(|_| !self.mux.is_idle()).map(|at| Deadline {
                at,
                timer: Timer::Reconnect,
            }),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    fn is_idle(&self) -> bool {
        self.mux.is_idle()
    }
});
