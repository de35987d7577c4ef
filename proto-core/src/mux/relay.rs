//! Streams that are passed between two links of this node: the routes' side of the mux.

use super::{Item, Mux};
use crate::link::schedule::Schedule;
use crate::name::Topic;
use crate::output::{Event, LinkId, LinkKind, StreamId, StreamInfo, StreamRecord, StreamState};
use crate::proto::StreamMsg;
use crate::reason::Reason;
use crate::relay::route::{Route, Toward, half_id};
use crate::stream::Role;
use crate::time::Instant;
use crate::wire::{self, Kind};
use alloc::string::String;
use alloc::vec::Vec;

impl Mux {
    /// Who is at the other end of a link, or behind it. `None`: nobody's streams go by it.
    pub(super) fn leads_toward(&self, link: LinkId) -> Option<Toward> {
        match (self.links.get(&link)?.kind, self.role) {
            (LinkKind::Uplink, Role::Acceptor) => Some(Toward::Opener),
            (LinkKind::Uplink, Role::Opener) => Some(Toward::Acceptor),
            (LinkKind::Edge | LinkKind::PeerOut, _) => Some(Toward::Acceptor),
            (LinkKind::Client | LinkKind::PeerIn, _) => Some(Toward::Opener),
            (LinkKind::ControlIn | LinkKind::ControlOut, _) => None,
        }
    }

    /// `connecting` or `resume` of a stream that is opened elsewhere. The hub looks for its way.
    pub(super) fn handle_claim(
        &mut self,
        link_id: LinkId,
        topic: Topic,
        mut msg: StreamMsg,
        now: Instant,
    ) {
        let Some(link) = self.links.get(&link_id) else {
            return;
        };
        let is_client = link.kind == LinkKind::Client;
        if is_client {
            msg.user.clone_from(&link.user);
        }
        let is_known = self
            .relay
            .find(&(link_id, topic.clone(), msg.epoch))
            .is_some();
        if is_known {
            return self.event(Event::Ignored("a second claim"));
        }
        if self.topics.contains_key(&topic) {
            return self.refuse_claim(link_id, &msg, Reason::UnknownStream);
        }
        if msg.epoch == 0 || msg.key.len() != 16 || !wire::may_ask(&msg) {
            return self.refuse_claim(link_id, &msg, Reason::ProtocolError);
        }
        let room_max = self.config.streams.relay_bytes_max;
        let route = match is_client && self.is_crowded(link_id, &topic, msg.epoch) {
            true => None,
            false => Route::new(topic, link_id, msg.clone(), &self.budget, room_max, now),
        };
        let Some(route) = route else {
            return self.refuse_claim(link_id, &msg, Reason::OverLimit);
        };
        let id = StreamId(self.fresh_id());
        let _ = self.fresh_id(); // The other half's.
        self.relay.insert(id, route);
        self.items.push_back(Item::Claimed(id, now));
    }

    /// Whether a client's link has as many streams as it may. What this stream has there already makes way for it.
    fn is_crowded(&self, link_id: LinkId, topic: &Topic, epoch: u32) -> bool {
        let lost = self.links.get(&link_id).map_or(0, |link| link.lost.len());
        let older = self.relay.older(topic, epoch);
        let older = older.iter().filter_map(|id| self.relay.get(*id));
        let own = older.filter(|route| route.opener == link_id).count();
        self.relay.count_of_link(link_id) + lost >= self.config.links.streams_per_link_max + own
    }

    /// "A `resume` that can't be passed [is answered with] `detached`, a `connecting` with `connect-failed`."
    fn refuse_claim(&mut self, link: LinkId, msg: &StreamMsg, reason: Reason) {
        self.event(Event::Refused(reason));
        let kind = match Kind::parse(&msg.r#type) {
            Some(Kind::Resume) => Kind::Detached,
            _ => Kind::ConnectFailed,
        };
        self.answer(link, kind, msg, reason.code());
    }

    /// Any other message of a stream that is opened elsewhere.
    pub(super) fn handle_relayed(
        &mut self,
        link: LinkId,
        topic: Topic,
        kind: Kind,
        msg: StreamMsg,
        now: Instant,
    ) {
        let from = self.leads_toward(link);
        let claim = (link, topic, msg.epoch);
        let (Some(id), Some(from)) = (self.relay.find(&claim), from) else {
            self.event(Event::Ignored("unknown stream"));
            return match kind {
                Kind::Content | Kind::Eof | Kind::Window | Kind::Connected | Kind::Resumed => {
                    self.answer(link, Kind::Detached, &msg, Reason::UnknownStream.code());
                }
                _ => {}
            };
        };
        if kind == Kind::Detached {
            return self.route_cut(id, from, &msg, now);
        }
        let Some(route) = self.relay.get_mut(id) else {
            return;
        };
        let is_wrong_way = kind == Kind::ConnectFailed
            && route.asking.is_some()
            && [Reason::NodeOffline.code(), Reason::Draining.code()].contains(&msg.code);
        if is_wrong_way {
            return self.wrong_way(id, link, now);
        }
        if route.ended.is_some() {
            return;
        }
        if let Err(reason) = route.take(from.back(), kind, msg, now) {
            route.fail(reason);
            self.event(Event::Refused(reason));
        }
        self.settle_route(id, now);
    }

    /// The way to one end of a route is gone, says the relay behind that link.
    fn route_cut(&mut self, id: StreamId, gone: Toward, msg: &StreamMsg, now: Instant) {
        let Some(route) = self.relay.get(id) else {
            return;
        };
        if route.has_last(gone.back()) {
            return; // What it said last may still have to be passed on, and is all there is to say.
        }
        let reason = Reason::from_code(msg.code).unwrap_or(Reason::NodeOffline);
        // A `resume` that was not passed on. Of a `connecting` that is said by `connect-failed`. One that has an opener move has
        // led to the edge.
        let heard = [Reason::NoAnswer, Reason::Draining].contains(&reason);
        let unheard = route.is_resume && !heard;
        if gone == Toward::Acceptor && route.asking.is_some() && unheard {
            if let Some(link) = route.acceptor {
                self.wrong_way(id, link, now);
            }
            return;
        }
        self.tell_lost(id, gone.back(), reason);
        // One that asks its opener to move leads on until it has.
        if reason != Reason::Draining {
            self.relay.remove(id);
        }
    }

    /// The node isn't where this route led: the hub looks for another way.
    fn wrong_way(&mut self, id: StreamId, link: LinkId, now: Instant) {
        if self.relay.ask_again(id) {
            self.items.push_back(Item::WrongWay(id, link, now));
        }
    }

    /// The state of a link that a route of it is gone: told once, and never lost while the link lives.
    fn tell_lost(&mut self, id: StreamId, toward: Toward, reason: Reason) {
        let Some(route) = self.relay.get(id) else {
            return;
        };
        let msg = StreamMsg {
            code: reason.code(),
            ..route.message(Kind::Detached)
        };
        let Some(link_id) = route.link(toward) else {
            return;
        };
        if let Some(link) = self.links.get_mut(&link_id) {
            link.lose(route.topic.clone(), msg);
        }
        self.settle_link(link_id);
    }

    /// Leads a route on by this link. False: it can't be.
    pub(crate) fn lead_route(&mut self, id: StreamId, link: LinkId, now: Instant) -> bool {
        let led = self.links.contains_key(&link) && self.relay.lead(id, link);
        self.settle_route(id, now);
        led
    }

    /// There is no way: whoever asks is told, and may ask again.
    pub(crate) fn refuse_route(&mut self, id: StreamId, reason: Reason, text: &str, now: Instant) {
        let Some(route) = self.relay.get_mut(id) else {
            return;
        };
        if route.is_resume {
            self.tell_lost(id, Toward::Opener, reason);
            self.relay.remove(id);
            return;
        }
        route.refuse(reason, String::from(text));
        self.settle_route(id, now);
    }

    /// Ends a relayed stream at both ends.
    pub(crate) fn fail_route(&mut self, id: StreamId, reason: Reason, now: Instant) {
        if let Some(route) = self.relay.get_mut(id) {
            route.fail(reason);
            self.settle_route(id, now);
        }
    }

    /// The openers whose streams go by this link, all or those of one process, are to move to the node's newer one. Their
    /// routes stay until they have.
    pub(crate) fn move_openers(&mut self, link: LinkId, uuid: Option<&str>) {
        for id in self.relay.of_link(link) {
            let Some(route) = self.relay.get_mut(id) else {
                continue;
            };
            let is_first = route.acceptor == Some(link)
                && uuid.is_none_or(|uuid| route.instance == uuid)
                && route.asking.is_none()
                && !core::mem::replace(&mut route.moved, true);
            if is_first {
                self.tell_lost(id, Toward::Opener, Reason::Draining);
            }
        }
    }

    /// Every way is worth another try.
    pub(crate) fn forget_tried(&mut self) {
        for id in self.relay.iter().map(|(id, _)| id).collect::<Vec<_>>() {
            if let Some(route) = self.relay.get_mut(id) {
                route.tried.clear();
            }
        }
    }

    pub(crate) fn routes(&self) -> impl Iterator<Item = (StreamId, &Route)> {
        self.relay.iter()
    }

    pub(crate) fn route(&self, id: StreamId) -> Option<&Route> {
        self.relay.get(id)
    }

    pub(crate) fn route_mut(&mut self, id: StreamId) -> Option<&mut Route> {
        self.relay.get_mut(id)
    }

    /// Streams and routes that go by a link.
    pub(crate) fn load_of_link(&self, link: LinkId) -> usize {
        let own = self.links.get(&link).map_or(0, |link| link.streams.len());
        own + self.relay.count_of_link(link)
    }

    /// A link is gone, and with it its routes.
    pub(super) fn lose_routes(&mut self, link: LinkId, now: Instant) {
        for id in self.relay.of_link(link) {
            let Some(route) = self.relay.get_mut(id) else {
                continue;
            };
            let stays = match route.opener == link {
                true => Toward::Acceptor,
                false => Toward::Opener,
            };
            if route.outlives_its_link(stays) {
                continue;
            }
            if route.opener == link {
                self.tell_lost(id, Toward::Acceptor, Reason::NodeOffline);
            } else if route.asking.is_some() && !route.may_be_heard() {
                self.wrong_way(id, link, now);
                continue;
            } else if route.ended.is_none() {
                // No epoch is asked twice: whoever asked asks again, with the next.
                let reason = match route.may_be_heard() && route.connected_at.is_none() {
                    true => Reason::NoAnswer,
                    false => Reason::NodeOffline,
                };
                self.tell_lost(id, Toward::Opener, reason);
            } else {
                // The end that it was about to tell is on its way to the opener, or was for the acceptor alone.
                self.settle_route(id, now);
                if self
                    .relay
                    .get(id)
                    .is_some_and(|route| route.has_control(Toward::Opener))
                {
                    continue;
                }
            }
            self.drop_route(id, now);
        }
    }

    fn drop_route(&mut self, id: StreamId, now: Instant) {
        let opener = self.relay.get(id).map(|route| route.opener);
        let client = opener.and_then(|link| self.links.get(&link));
        let client = client.map(|link| link.remote.clone()).unwrap_or_default();
        let Some(route) = self.relay.remove(id) else {
            return;
        };
        let Some(reason) = route.ended else {
            return;
        };
        let (bytes_to_edge, bytes_from_edge) = route.counts();
        self.event(Event::Relayed(StreamRecord {
            id,
            topic: route.topic.as_str().into(),
            node: self.node_name().into(),
            target: route.addr,
            user: route.user,
            client,
            trace_id: String::new(),
            opened_at: route.asked_at,
            connected_at: route.connected_at,
            ended_at: now,
            bytes_to_edge,
            bytes_from_edge,
            reason,
            detached: false,
        }));
    }

    /// The one place where a route's change shows: to its links, and at last in its end.
    pub(super) fn settle_route(&mut self, id: StreamId, now: Instant) {
        let Some(route) = self.relay.get_mut(id) else {
            return;
        };
        let mut wake = Vec::new();
        for toward in [Toward::Acceptor, Toward::Opener] {
            let Some(link_id) = route.link(toward) else {
                continue;
            };
            let Some(link) = self.links.get_mut(&link_id) else {
                continue;
            };
            let (control, content) = (route.has_control(toward), route.has_content(toward));
            let half = route.half(toward);
            if control {
                link.schedule
                    .add_urgent(half_id(id, toward), &mut half.place);
            }
            if content {
                link.schedule
                    .add_active(half_id(id, toward), &mut half.place);
            }
            if control || content {
                wake.push(link_id);
            }
        }
        if route.is_over() {
            self.drop_route(id, now);
        }
        wake.into_iter().for_each(|link| self.settle_link(link));
    }

    /// The half whose turn it is to send control, if it is a route's. `None`: it is none, or has nothing.
    pub(super) fn relay_control(
        &mut self,
        half: StreamId,
        link: LinkId,
        now: Instant,
    ) -> Option<StreamMsg> {
        let (id, toward) = self.relay.of_half(half)?;
        let route = self.relay.get_mut(id)?;
        Schedule::urgent_taken(&mut route.half(toward).place);
        if route.link(toward) != Some(link) {
            return None;
        }
        let passed = route.next_control(toward);
        if let Some(passed) = &passed
            && passed.settles
        {
            let (topic, epoch) = (route.topic.clone(), route.epoch);
            for old in self.relay.older(&topic, epoch) {
                self.relay.remove(old);
            }
        }
        self.settle_route(id, now);
        passed.map(|passed| passed.msg)
    }

    /// The same for content. `None`: it is no route's, or has none, and has been taken out of the queue.
    pub(super) fn relay_content(
        &mut self,
        half: StreamId,
        link_id: LinkId,
        now: Instant,
    ) -> Option<StreamMsg> {
        let bytes_max = self.config.links.content_bytes_max;
        let found = self.relay.of_half(half);
        let link = self.links.get_mut(&link_id)?;
        let route = found.and_then(|(id, toward)| {
            let route = self.relay.get_mut(id)?;
            (route.link(toward) == Some(link_id)).then_some((id, toward, route))
        });
        let Some((id, toward, route)) = route else {
            link.schedule.drop_front();
            return None;
        };
        let msg = route.next_content(toward, bytes_max);
        let bytes = msg.as_ref().map_or(0, |msg| msg.data.len());
        let more = route.has_content(toward);
        link.schedule
            .served(half, &mut route.half(toward).place, bytes, more);
        self.settle_route(id, now);
        msg
    }

    pub(super) fn route_infos(&self) -> impl Iterator<Item = StreamInfo> {
        self.relay.iter().map(|(id, route)| {
            let (bytes_to_edge, bytes_from_edge) = route.counts();
            let client = self.links.get(&route.opener);
            StreamInfo {
                id,
                topic: route.topic.as_str().into(),
                node: self.node_name().into(),
                target: route.addr.clone(),
                user: route.user.clone(),
                client: client.map(|link| link.remote.clone()).unwrap_or_default(),
                state: match route.connected_at {
                    Some(_) => StreamState::Open,
                    None => StreamState::Dialing,
                },
                opened_at: route.asked_at,
                bytes_to_edge,
                bytes_from_edge,
            }
        })
    }

    fn node_name(&self) -> &str {
        self.links
            .values()
            .next()
            .map_or("", |link| link.node.as_str())
    }
}
