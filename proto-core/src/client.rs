//! The operator's command as an opener: keeps a link to the cloud for one node, and holds its streams whatever becomes of
//! links and replicas.

pub use crate::uplink::Reconnect;

use crate::budget::Budget;
use crate::config::Config;
use crate::connect::{Context, line};
use crate::machine::{Machine, machine_over_mux};
use crate::mux::{Item, Mux, NewStream};
use crate::name::NodeName;
use crate::output::{
    AttemptId, ClientOutput, Deadline, Event, LinkId, LinkInfo, LinkLoss, NotOpened, Output,
    StreamId, StreamInfo, Timer,
};
use crate::proto::StreamMsg;
use crate::reason::Reason;
use crate::stream::{Identity, Role, Stream};
use crate::target::Target;
use crate::time::Instant;
use crate::uplink::{DialectChoice, UplinkSettings, Uplinks};
use crate::wire::CATEGORY_SSH;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;
use bytes::Bytes;
use core::time::Duration;

/// How long somebody who asks for a stream waits for the first link.
const FIRST_LINK_TIMEOUT: Duration = Duration::from_secs(15);
/// A stall that is shorter isn't worth a word.
const TOLD_AFTER: Duration = Duration::from_secs(3);
/// How long the last words of streams that are ended may take to reach the transport.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// What a client is told at its start.
#[derive(Clone, Debug)]
pub struct ClientConfig {
    /// The node that it is for, in any spelling.
    pub node: NodeName,
    /// How many addresses of the cloud there are to choose from.
    pub addresses: usize,
    /// Pauses between tries to connect.
    pub reconnect: Reconnect,
    /// Limits and times.
    pub limits: Config,
}

/// A line for people: why a stream to this target has ended.
pub fn explain(reason: Reason, node: &NodeName, target: &Target) -> String {
    line_of(reason, node, Some(target))
}

fn line_of(reason: Reason, node: &NodeName, target: Option<&Target>) -> String {
    let context = Context {
        node: Some(node),
        target,
        ..Context::default()
    };
    line(reason.into(), &context)
}

/// Whether streams stand still for want of a way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stall {
    None,
    /// Nobody has been told yet.
    Since(Instant),
    Told,
}

/// See the module.
#[derive(Debug)]
pub struct Client {
    node: NodeName,
    uplinks: Uplinks,
    /// Streams that have not been attached yet, or whose `connecting` is to be sent by another link.
    fresh: BTreeSet<StreamId>,
    /// What was asked for and has had no answer.
    asked: BTreeMap<StreamId, Target>,
    /// A link has been up.
    was_linked: bool,
    /// Tries before that.
    tries: usize,
    addresses: usize,
    /// Why there was no link for those who asked.
    no_link: Option<LinkLoss>,
    stall: Stall,
    /// Its streams were ended, at the first of these times; they have until the second to say so.
    end: Option<(Instant, Instant)>,
    mux: Mux,
}

impl Client {
    /// A client that is about to connect. `seed` is drawn from the system: topics and keys are secrets.
    pub fn new(config: ClientConfig, budget: Budget, seed: [u8; 32], now: Instant) -> Client {
        let mut mux = Mux::new(Role::Opener, Arc::new(config.limits), budget, seed);
        let settings = UplinkSettings {
            addresses: config.addresses,
            reconnect: config.reconnect,
            dialect: DialectChoice::V1,
            node: config.node.to_string(),
        };
        Client {
            node: config.node,
            uplinks: Uplinks::new(settings, &mut mux, now),
            fresh: BTreeSet::new(),
            asked: BTreeMap::new(),
            was_linked: false,
            tries: 0,
            addresses: config.addresses.max(1),
            no_link: None,
            stall: Stall::None,
            end: None,
            mux,
        }
    }

    /// Whether a link to the cloud is up.
    pub fn is_linked(&self) -> bool {
        self.uplinks.is_up()
    }

    /// Whether it has ended, for good.
    pub fn has_ended(&self) -> bool {
        self.uplinks.is_down()
    }

    /// Asks for a stream to `target` at the node. Exactly one `ClientOutput::Opened` or `NotOpened` answers. `early`
    /// goes right behind the question.
    pub fn open(&mut self, target: &Target, early: Bytes, now: Instant) -> StreamId {
        let id = StreamId(self.mux.fresh_id());
        let (topic, key) = self.mux.draw();
        let identity = Identity {
            topic,
            node: self.node.to_string(),
            category: CATEGORY_SSH.into(),
            addr: target.to_string(),
            user: String::new(), // The first replica says who we are.
        };
        let config = &self.mux.config.streams;
        let stream = Stream::new(Role::Opener, identity, key, &self.mux.budget, config, now);
        let Some(stream) = stream.filter(|_| self.end.is_none()) else {
            let why = NotOpened::Refused {
                reason: Reason::OverLimit,
                text: String::new(),
            };
            self.tell(ClientOutput::NotOpened { id, why });
            self.mux.emit(Output::Close { id, reset: false });
            return id;
        };
        let new = NewStream {
            stream,
            client: String::new(),
            trace_id: String::new(),
        };
        self.asked.insert(id, target.clone());
        self.mux.add_opened(id, new, now);
        if !early.is_empty() {
            self.mux.handle_early(id, early, now);
        }
        self.fresh.insert(id);
        self.find_way(id, now);
        id
    }

    /// The request of an attempt was sent. From now on the link may be asked what to transmit.
    pub fn link_started(
        &mut self,
        attempt: AttemptId,
        remote: String,
        now: Instant,
    ) -> Option<LinkId> {
        self.uplinks.started(&mut self.mux, attempt, remote, now)
    }

    /// The response's headers are here, with `tunnel-protocol: 1` or without it.
    pub fn link_established(&mut self, link: LinkId, version_1: bool, now: Instant) {
        let mux = &mut self.mux;
        if !self.uplinks.established(mux, link, version_1, now) {
            return;
        }
        self.was_linked = true;
        let older: Vec<LinkId> = mux
            .links()
            .map(|(id, _)| id)
            .filter(|id| *id != link)
            .collect();
        for old in older {
            mux.detach_all(old, None, now);
        }
        let wanting: Vec<StreamId> = mux.wanting().chain(self.fresh.iter().copied()).collect();
        for id in wanting {
            self.find_way(id, now);
        }
    }

    /// An attempt came to nothing.
    pub fn connect_failed(&mut self, attempt: AttemptId, why: LinkLoss, now: Instant) {
        if self.uplinks.failed(&mut self.mux, attempt, why, now) {
            self.tried(why, now);
        }
    }

    /// The machine's network changed: the next try comes at once, and a link that is up has to show that it still is.
    pub fn network_changed(&mut self, now: Instant) {
        self.uplinks.network_changed(&mut self.mux, now);
    }

    /// Ends the streams and the links, for good.
    pub fn shut_down(&mut self, now: Instant) {
        if self.end.is_some() {
            return;
        }
        self.end = Some((now, now + LAST_WORDS));
        for id in self.mux.stream_ids() {
            self.mux.fail(id, Reason::Reset, now);
        }
        self.finish(now);
    }

    fn finish(&mut self, now: Instant) {
        let over = self
            .end
            .is_some_and(|(_, until)| until <= now || self.mux.is_empty());
        if over && !self.uplinks.is_down() {
            self.uplinks
                .shut_down(&mut self.mux, "the client has ended", now);
        }
    }

    /// A try has failed. Before the first link, each address is tried once, and then whoever asked is told; a cloud that
    /// takes no links just now is asked again.
    fn tried(&mut self, why: LinkLoss, now: Instant) {
        if self.was_linked {
            return;
        }
        self.no_link = Some(why);
        if matches!(why, LinkLoss::Unavailable { .. }) {
            return;
        }
        self.tries += 1;
        if self.tries >= self.addresses {
            self.give_up(now);
        }
    }

    fn give_up(&mut self, now: Instant) {
        self.no_link.get_or_insert(LinkLoss::Silent);
        for id in self.fresh.clone() {
            self.mux.fail(id, Reason::NoAnswer, now);
        }
    }

    /// A stream wants to go by a link: by the newest. A question whose answer was that its replica leaves is not put to
    /// that one again.
    fn find_way(&mut self, id: StreamId, now: Instant) {
        let Some(stream) = self.mux.stream(id) else {
            return;
        };
        let wants = stream.wants_way() || self.fresh.contains(&id);
        let (connected, asked) = (stream.connected_at.is_some(), stream.epoch() > 0);
        if !wants || stream.ended().is_some() {
            return;
        }
        if connected && self.stall == Stall::None {
            self.stall = Stall::Since(now);
        }
        let best = self.uplinks.best();
        let best = best.and_then(|best| Some((best, self.mux.link(best)?.draining)));
        match best {
            Some((link, draining)) if connected || !draining || !asked => {
                self.fresh.remove(&id);
                self.mux.attach(id, link, now);
            }
            _ if !connected => {
                self.fresh.insert(id);
            }
            _ => {}
        }
    }

    fn open_failed(&mut self, id: StreamId, reason: Reason) {
        let asked = self.asked.remove(&id);
        let text = match self.mux.take_said(id) {
            text if text.is_empty() => line_of(reason, &self.node, asked.as_ref()),
            text => text,
        };
        let why = match (self.fresh.remove(&id), self.no_link) {
            (true, Some(why)) if !self.was_linked => NotOpened::NoLink(why),
            _ => NotOpened::Refused { reason, text },
        };
        self.tell(ClientOutput::NotOpened { id, why });
    }

    /// Something has moved: perhaps all streams have a way again.
    fn unstall(&mut self) {
        if self.stall != Stall::None && !self.mux.has_waiting() {
            if self.stall == Stall::Told {
                self.tell(ClientOutput::Back);
            }
            self.stall = Stall::None;
        }
    }

    fn tell(&mut self, output: ClientOutput) {
        self.mux.emit_first(Output::Client(output)); // Before what follows from it.
    }

    fn first_link_deadline(&self) -> Option<Instant> {
        if self.was_linked {
            return None;
        }
        let asked = self.fresh.iter().filter_map(|id| self.mux.stream(*id));
        let asked = asked.filter(|stream| stream.ended().is_none());
        let first = asked.map(|stream| stream.opened_at).min()?;
        Some(first + FIRST_LINK_TIMEOUT)
    }

    fn end_deadline(&self) -> Option<Instant> {
        let (since, until) = self.end.filter(|_| !self.uplinks.is_down())?;
        match self.mux.is_empty() {
            true => Some(since), // Which is over: now.
            false => Some(until),
        }
    }
}

machine_over_mux!(Client {
    fn link_lost(&mut self, link: LinkId, why: LinkLoss, now: Instant) {
        let Some(up_at) = self.mux.link(link).map(|link| link.up_at) else {
            return;
        };
        self.mux.remove_link(link, why, now);
        self.uplinks.lost(&mut self.mux, link, up_at, why, now);
        self.tried(why, now);
    }

    fn handle_timeout(&mut self, now: Instant) {
        self.mux.handle_timeout(now);
        self.uplinks.handle_timeout(&mut self.mux, now);
        if self.first_link_deadline().is_some_and(|at| at <= now) {
            self.give_up(now);
        }
        if matches!(self.stall, Stall::Since(since) if since + TOLD_AFTER <= now) {
            self.stall = match self.mux.has_waiting() {
                true => Stall::Told,
                false => Stall::None,
            };
            if self.stall == Stall::Told {
                self.tell(ClientOutput::Reconnecting);
            }
        }
        self.finish(now);
    }

    fn poll_output(&mut self) -> Option<Output> {
        loop {
            match self.mux.poll_item()? {
                Item::Output(output) => {
                    if let Output::Event(Event::Resumed { .. } | Event::StreamEnded(_)) = &output {
                        self.unstall();
                    }
                    return Some(output);
                }
                Item::Opened(id, _) => {
                    self.asked.remove(&id);
                    self.tell(ClientOutput::Opened { id });
                }
                Item::OpenFailed(id, reason, _) => self.open_failed(id, reason),
                Item::WantsWay(id, at) => self.find_way(id, at),
                Item::Drained(link, at) => self.uplinks.drained(&mut self.mux, link, at),
                Item::LinkEnded {
                    link,
                    up_at,
                    why,
                    now,
                } => {
                    self.uplinks.lost(&mut self.mux, link, up_at, why, now);
                    self.tried(why, now);
                }
                Item::Asked(_)
                | Item::Said(..)
                | Item::Claimed(..)
                | Item::WrongWay(..)
                | Item::Pump(..)
                | Item::SpliceClosed { .. } => {}
            }
        }
    }

    fn deadline(&self) -> Option<Deadline> {
        let told = match self.stall {
            Stall::Since(since) => Some(since + TOLD_AFTER),
            Stall::None | Stall::Told => None,
        };
        let own = [
            self.uplinks.deadline(&self.mux),
            self.first_link_deadline(),
            self.end_deadline(),
            told,
        ];
        let own = own.into_iter().flatten().min().map(|at| Deadline {
            at,
            timer: Timer::Reconnect,
        });
        [self.mux.deadline(), own].into_iter().flatten().min()
    }

    fn is_idle(&self) -> bool {
        self.mux.is_idle()
    }
});
