//! Streams over links: what a node's hub at the cloud and an edge have in common.
//!
//! `Mux` owns the streams of one end and the links that they go by. It attaches them, hands messages to them, chooses
//! whose message goes next, keeps their timers, and says what is to be done with their local sockets. What only one
//! side decides (admission, replies, dials, reconnecting) is in `NodeHub` and `Edge` around it.

mod inbound;
mod info;
mod last_word;
mod local;
mod outbound;
mod relay;
mod resume;
mod splice;
mod timers;
mod uplinks;

use crate::budget::Budget;
use crate::config::Config;
use crate::link::heartbeat::{Heartbeat, Mode};
use crate::link::notices::Subject;
use crate::link::schedule::Place;
use crate::link::{Link, NewLink};
use crate::name::Topic;
use crate::output::{Event, LinkEnd, LinkId, LinkLoss, Output, StreamId, Timer};
use crate::proto::StreamMsg;
use crate::reason::Reason;
use crate::relay::Routes;
use crate::replica::Held;
use crate::stream::key::Key;
use crate::stream::{LocalWish, Phase, Role, Stream};
use crate::time::Instant;
use crate::wire::Dialect;
use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::time::Duration;
use last_word::LastWords;
use rand_chacha::ChaCha12Rng;
use rand_core::{Rng, SeedableRng};
use splice::Splice;

/// How often a source that only the budget holds back asks again.
const BUDGET_RETRY: Duration = Duration::from_millis(50);

/// What the machine around has to act on, or to pass to the driver.
#[derive(Debug)]
pub(crate) enum Item {
    Output(Output),
    /// Opener: the edge has dialed.
    Opened(StreamId, Instant),
    /// Opener: it has not.
    OpenFailed(StreamId, Reason, Instant),
    /// Opener: a stream wants a way.
    WantsWay(StreamId, Instant),
    /// Hub: a stream that is opened elsewhere wants a way.
    Claimed(StreamId, Instant),
    /// Hub: the node is not at the other end of this link, for a stream of this replica or one that is passed on.
    WrongWay(StreamId, LinkId, Instant),
    /// Hub: a stream of a pair is to be served by the other.
    Pump(StreamId, Instant),
    /// Hub: a stream of a pair has closed its side.
    SpliceClosed {
        id: StreamId,
        reset: bool,
        now: Instant,
    },
    /// Peers: `here` or `gone`.
    Said(LinkId, StreamMsg),
    /// The other side of a link leaves.
    Drained(LinkId, Instant),
    /// Acceptor: a stream asks for this address.
    Asked(StreamId),
    /// This end has ended a link.
    LinkEnded {
        link: LinkId,
        up_at: Instant,
        why: LinkLoss,
        now: Instant,
    },
}

/// A stream's local socket, as this machine knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Local {
    /// Acceptor: not dialed yet.
    None,
    Open,
    /// Closed, or never to be.
    Gone,
}

/// A stream and its place between a link and a socket.
#[derive(Debug)]
struct Entry {
    stream: Stream,
    link: Option<LinkId>,
    place: Place,
    local: Local,
    /// Its local socket is another stream of this mux.
    splice: Option<Splice>,
    is_spliced: bool,
    /// The driver asked to read and was told 0.
    read_blocked: bool,
    /// The driver has nothing to write.
    write_idle: bool,
    shutdown_told: bool,
    /// `Event::Detached` was the last that was told.
    detached_told: bool,
    /// Opener: whoever asked for the stream has been told what became of it.
    answered: bool,
    budget_retry_at: Option<Instant>,
    timer: Option<Instant>,
    client: String,
    trace_id: String,
}

/// What a new stream needs to be told.
#[derive(Debug)]
pub(crate) struct NewStream {
    pub(crate) stream: Stream,
    pub(crate) client: String,
    pub(crate) trace_id: String,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Mux {
    role: Role,
    pub(crate) config: Arc<Config>,
    pub(crate) budget: Budget,
    pub(crate) rng: ChaCha12Rng,
    streams: BTreeMap<StreamId, Box<Entry>>,
    topics: BTreeMap<Topic, StreamId>,
    last_words: LastWords,
    /// What is only passed on here.
    relay: Routes,
    links: BTreeMap<LinkId, Link>,
    items: VecDeque<Item>,
    timers: BTreeSet<(Instant, Timer)>,
    next_id: u64,
    /// Opener: what was said where a stream was refused.
    said: BTreeMap<StreamId, String>,
    /// This process leaves: it takes no new streams.
    leaving: bool,
}

impl Mux {
    pub(crate) fn new(role: Role, config: Arc<Config>, budget: Budget, seed: [u8; 32]) -> Mux {
        Mux {
            role,
            config,
            budget,
            rng: ChaCha12Rng::from_seed(seed),
            streams: BTreeMap::new(),
            topics: BTreeMap::new(),
            last_words: LastWords::default(),
            relay: Routes::default(),
            links: BTreeMap::new(),
            items: VecDeque::new(),
            timers: BTreeSet::new(),
            next_id: 0,
            said: BTreeMap::new(),
            leaving: false,
        }
    }

    pub(crate) fn fresh_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    pub(crate) fn emit(&mut self, output: Output) {
        self.items.push_back(Item::Output(output));
    }

    /// Before everything that waits to be polled: a reply goes in front of what follows from it.
    pub(crate) fn emit_first(&mut self, output: Output) {
        self.items.push_front(Item::Output(output));
    }

    pub(crate) fn event(&mut self, event: Event) {
        self.emit(Output::Event(event));
    }

    pub(crate) fn poll_item(&mut self) -> Option<Item> {
        let item = self.items.pop_front();
        if item.is_none() && self.items.capacity() > 64 {
            self.items = VecDeque::new();
        }
        item
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.links.is_empty() && self.streams.is_empty() && self.relay.is_empty()
    }

    // Links.

    /// A link whose dialect is settled, or (`None`) awaited from the response's headers.
    pub(crate) fn add_link(&mut self, new: NewLink, now: Instant) -> LinkId {
        let mode = match (new.dialect, self.role) {
            (None, _) => Mode::BaseKnock,
            (Some(Dialect::V1), _) => Mode::V1,
            (Some(Dialect::Base), Role::Opener) => Mode::BaseCloud,
            (Some(Dialect::Base), Role::Acceptor) => Mode::BaseEdge,
        };
        let heartbeat = Heartbeat::new(mode, &self.config.links, &mut self.rng, now);
        let id = LinkId(self.fresh_id());
        let (kind, dialect) = (new.kind, new.dialect);
        let link = Link::new(new, heartbeat, &self.config, now);
        self.links.insert(id, link);
        if let Some(dialect) = dialect {
            self.event(Event::LinkUp {
                link: id,
                kind,
                dialect,
            });
        }
        self.settle_link(id);
        id
    }

    /// The response's headers are here.
    pub(crate) fn establish_link(&mut self, id: LinkId, dialect: Dialect, now: Instant) {
        let Some(link) = self.links.get_mut(&id) else {
            return;
        };
        link.establish(dialect, now);
        if self.leaving {
            link.send_drain();
        }
        let kind = link.kind;
        self.event(Event::LinkUp {
            link: id,
            kind,
            dialect,
        });
        self.settle_link(id);
    }

    pub(crate) fn link(&self, id: LinkId) -> Option<&Link> {
        self.links.get(&id)
    }

    pub(crate) fn links(&self) -> impl DoubleEndedIterator<Item = (LinkId, &Link)> {
        self.links.iter().map(|(id, link)| (*id, link))
    }

    /// Clears everything of a link, here and nowhere else: its streams end, as long as no stream outlives its link.
    pub(crate) fn remove_link(&mut self, id: LinkId, why: LinkLoss, now: Instant) {
        let Some(link) = self.links.remove(&id) else {
            return;
        };
        if let Some(at) = link.timer {
            self.timers.remove(&(at, Timer::Link(id)));
        }
        self.event(Event::LinkDown {
            link: id,
            kind: link.kind,
            why,
            streams: link.streams.len(),
        });
        for stream in link.streams {
            self.detach(stream, Reason::NodeOffline, now);
        }
        self.lose_routes(id, now);
    }

    /// Ends a link from this side.
    pub(crate) fn end_link(&mut self, id: LinkId, end: LinkEnd, why: LinkLoss, now: Instant) {
        if let Some(up_at) = self.links.get(&id).map(|link| link.up_at) {
            self.remove_link(id, why, now);
            self.emit(Output::EndLink { link: id, end });
            self.items.push_back(Item::LinkEnded {
                link: id,
                up_at,
                why,
                now,
            });
        }
    }

    /// This end leaves, and the other side of this link hears of it.
    pub(crate) fn send_drain(&mut self, id: LinkId) {
        if let Some(link) = self.links.get_mut(&id) {
            link.send_drain();
        }
        self.settle_link(id);
    }

    /// Nothing new goes by this link.
    pub(crate) fn set_draining(&mut self, id: LinkId) {
        if let Some(link) = self.links.get_mut(&id) {
            link.draining = true;
        }
    }

    /// Control: the other side is to know this of a node.
    pub(crate) fn notice(&mut self, id: LinkId, what: Subject, held: Option<Arc<Held>>) {
        if let Some(link) = self.links.get_mut(&id) {
            link.notices.set(what, held);
            self.settle_link(id);
        }
    }

    pub(crate) fn wants_message(&self, id: LinkId) -> bool {
        self.links.get(&id).is_some_and(|link| link.full.is_empty())
    }

    // Streams.

    /// A new stream's name and its secret.
    pub(crate) fn draw(&mut self) -> (Topic, Key) {
        let mut topic = [0; 16];
        self.rng.fill_bytes(&mut topic);
        (Topic::from_random(topic), Key::random(&mut self.rng))
    }

    /// Takes a stream in that has no link yet. Its socket is there already.
    pub(crate) fn add_opened(&mut self, id: StreamId, new: NewStream, now: Instant) {
        self.insert(id, None, Local::Open, new, now);
    }

    /// Takes a stream in that came by a link. Its socket comes with `handle_dialed`.
    fn add_accepted(&mut self, id: StreamId, link: LinkId, new: NewStream, now: Instant) {
        self.insert(id, Some(link), Local::None, new, now);
    }

    fn insert(
        &mut self,
        id: StreamId,
        link: Option<LinkId>,
        local: Local,
        new: NewStream,
        now: Instant,
    ) {
        self.topics.insert(new.stream.identity.topic.clone(), id);
        self.streams.insert(
            id,
            Box::new(Entry {
                stream: new.stream,
                link,
                place: Place::default(),
                local,
                splice: None,
                is_spliced: false,
                read_blocked: true,
                write_idle: true,
                shutdown_told: false,
                detached_told: false,
                answered: false,
                budget_retry_at: None,
                timer: None,
                client: new.client,
                trace_id: new.trace_id,
            }),
        );
        self.settle(id, now);
    }

    /// Opener: sends the stream by this link.
    pub(crate) fn attach(&mut self, id: StreamId, link_id: LinkId, now: Instant) {
        let (Some(entry), Some(link)) = (self.streams.get_mut(&id), self.links.get_mut(&link_id))
        else {
            return;
        };
        entry.link = Some(link_id);
        link.streams.insert(id);
        entry.stream.identity.node.clone_from(&link.node);
        entry.stream.attach(link.dialect, &self.config.streams, now);
        self.settle(id, now);
    }

    /// Ends a stream for a reason of this end's own.
    pub(crate) fn fail(&mut self, id: StreamId, reason: Reason, now: Instant) {
        if let Some(entry) = self.streams.get_mut(&id) {
            entry.stream.fail(reason);
            self.settle(id, now);
        }
    }

    pub(crate) fn stream(&self, id: StreamId) -> Option<&Stream> {
        self.streams.get(&id).map(|entry| &entry.stream)
    }

    pub(crate) fn stream_ids(&self) -> Vec<StreamId> {
        self.streams.keys().copied().collect()
    }

    /// The one place where a stream's change shows: to its socket, its link, its timer, and at last in its end.
    fn settle(&mut self, id: StreamId, now: Instant) {
        let Some(entry) = self.streams.get_mut(&id) else {
            return;
        };
        entry.stream.settle();
        if entry.splice == Some(Splice::Gone) {
            entry.stream.finish();
        }
        if entry.stream.is_adrift()
            && let Some(link) = entry.link.take()
        {
            entry.place = Place::default();
            leave(&mut self.links, &mut self.items, link, id);
        }
        let is_told = entry.detached_told || entry.splice.is_some();
        if entry.stream.is_detached() && entry.stream.phase() == Phase::Open && !is_told {
            entry.detached_told = true;
            self.items
                .push_back(Item::Output(Output::Event(Event::Detached { id })));
        }
        let role = entry.stream.role();
        if role == Role::Opener && entry.stream.wants_way() {
            self.items.push_back(Item::WantsWay(id, now));
        }
        if entry.link.is_none()
            && let Some(reason) = entry.stream.ended()
        {
            entry.stream.cut(reason); // There is nobody to tell.
        }
        if role == Role::Opener && !entry.answered {
            match entry.stream.phase() {
                Phase::Opening => {}
                _ if entry.stream.connected_at.is_some() => {
                    entry.answered = true;
                    self.items.push_back(Item::Opened(id, now));
                }
                Phase::Ended(reason) => {
                    entry.answered = true;
                    self.items.push_back(Item::OpenFailed(id, reason, now));
                }
                Phase::Open => {}
            }
        }
        match entry.stream.local_wish() {
            LocalWish::Close { reset } if entry.local != Local::Gone => {
                entry.local = Local::Gone;
                self.items.push_back(match entry.splice {
                    Some(_) => Item::SpliceClosed { id, reset, now },
                    None => Item::Output(Output::Close { id, reset }),
                });
            }
            LocalWish::Close { .. } => {}
            LocalWish::Keep => {
                if entry.local == Local::Open && entry.wants_service() {
                    self.items.push_back(match entry.splice {
                        Some(_) => Item::Pump(id, now),
                        None => Item::Output(Output::Local(id)),
                    });
                }
            }
        }
        if entry.local == Local::Gone && entry.stream.is_over() {
            self.forget(id, now);
            return;
        }
        entry.budget_retry_at = match entry.budget_retry_at {
            None if entry.read_blocked && entry.stream.replay.wants_budget() => {
                Some(now + BUDGET_RETRY)
            }
            kept => kept,
        };
        if let Some(link_id) = entry.link
            && let Some(link) = self.links.get_mut(&link_id)
        {
            if entry.stream.has_control(now) {
                link.schedule.add_urgent(id, &mut entry.place);
            }
            if entry.stream.has_content() {
                link.schedule.add_active(id, &mut entry.place);
            }
            if link.asleep && link.has_work() {
                link.asleep = false;
                self.items
                    .push_back(Item::Output(Output::TransmitReady(link_id)));
            }
            if entry.stream.awaits_answer() {
                link.waiting.insert(id);
            } else {
                link.waiting.remove(&id);
            }
            if entry.stream.is_full() {
                link.full.insert(id);
            } else if link.full.remove(&id) && link.full.is_empty() {
                self.items
                    .push_back(Item::Output(Output::LinkReadable(link_id)));
            }
        }
        let deadline = [
            entry.stream.deadline(&self.config.streams, now),
            entry.budget_retry_at,
        ];
        if let Some(at) = deadline.into_iter().flatten().min()
            && entry.timer.is_none_or(|timer| at < timer)
        {
            if let Some(timer) = entry.timer.replace(at) {
                self.timers.remove(&(timer, Timer::Stream(id)));
            }
            self.timers.insert((at, Timer::Stream(id)));
        }
    }

    /// The stream is over at both sides: nothing of it stays but its record and, at the acceptor, its last word.
    fn forget(&mut self, id: StreamId, now: Instant) {
        let Some(entry) = self.streams.remove(&id) else {
            return;
        };
        if let Some(timer) = entry.timer {
            self.timers.remove(&(timer, Timer::Stream(id)));
        }
        if let Some(link) = entry.link {
            leave(&mut self.links, &mut self.items, link, id);
        }
        self.topics.remove(&entry.stream.identity.topic);
        let role = entry.stream.role();
        if role == Role::Acceptor {
            self.last_words
                .keep(&entry.stream, self.config.streams.grace, now);
        }
        let record = entry.record(id, role, now);
        match self.role {
            // Of a pair the acceptor tells.
            Role::Opener if role == Role::Acceptor => self.event(Event::Relayed(record)),
            Role::Opener if entry.is_spliced => {}
            Role::Opener | Role::Acceptor => self.event(Event::StreamEnded(record)),
        }
    }

    /// Wakes a link's transport if there is something for it; sets its timer.
    fn settle_link(&mut self, id: LinkId) {
        let Some(link) = self.links.get_mut(&id) else {
            return;
        };
        if link.asleep && link.has_work() {
            link.asleep = false;
            self.items
                .push_back(Item::Output(Output::TransmitReady(id)));
        }
        if let Some(at) = link.heartbeat.deadline()
            && link.timer.is_none_or(|timer| at < timer)
        {
            if let Some(timer) = link.timer.replace(at) {
                self.timers.remove(&(timer, Timer::Link(id)));
            }
            self.timers.insert((at, Timer::Link(id)));
        }
    }
}

/// A stream goes by this link no more. If it was the last that held up the link's reading, that goes on.
fn leave(
    links: &mut BTreeMap<LinkId, Link>,
    items: &mut VecDeque<Item>,
    link_id: LinkId,
    id: StreamId,
) {
    let Some(link) = links.get_mut(&link_id) else {
        return;
    };
    link.streams.remove(&id);
    link.waiting.remove(&id);
    if link.full.remove(&id) && link.full.is_empty() {
        items.push_back(Item::Output(Output::LinkReadable(link_id)));
    }
}

impl Entry {
    /// Whether the driver has to be told to serve the socket; it won't be told the same again.
    fn wants_service(&mut self) -> bool {
        let read = self.read_blocked && self.stream.wants_read() > 0;
        let write = self.write_idle && self.stream.receive.held() > 0;
        let shutdown = !self.shutdown_told && self.stream.receive.wants_shutdown();
        if read {
            self.read_blocked = false;
            self.budget_retry_at = None;
        }
        if write {
            self.write_idle = false;
        }
        if shutdown {
            self.shutdown_told = true;
        }
        read || write || shutdown
    }
}
