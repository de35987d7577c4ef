//! The side of the transport, inwards: what a link's message means, for this role and dialect (PROTOCOL.md).
//!
//! What belongs to an older epoch or another link is dropped here, in one place, before any rule sees it. Whatever
//! breaks the rules harms the stream that it names, else the link that brought it.

use super::{Item, Mux, NewStream};
use crate::config::EARLY_BYTES;
use crate::name::Topic;
use crate::output::{Event, GrpcCode, LinkEnd, LinkId, LinkKind, LinkLoss, StreamId};
use crate::proto::StreamMsg;
use crate::reason::Reason;
use crate::relay::route::Toward;
use crate::stream::key::Key;
use crate::stream::{Identity, Phase, Role, Stream};
use crate::time::Instant;
use crate::wire::{self, CATEGORY_LINK, Dialect, HEARTBEAT_BYTES_MAX, Kind};
use alloc::string::String;

/// The most that is kept of a replica's words.
const SAID_BYTES_MAX: usize = 200;

impl Mux {
    pub(crate) fn handle_message(&mut self, id: LinkId, msg: StreamMsg, now: Instant) {
        let Some(link) = self.links.get_mut(&id) else {
            return;
        };
        link.heartbeat.heard(now);
        let dialect = link.dialect;
        if let Err(fault) = wire::check(&msg, self.config.links.message_bytes_max) {
            return match link.kind.is_peer() {
                true => self.event(Event::Ignored("over a limit of the wire")),
                false => self.end_link_for(id, fault.0, now),
            };
        }
        let Some(kind) = Kind::parse(&msg.r#type) else {
            self.event(Event::Ignored("unknown type"));
            return self.settle_link(id);
        };
        if kind.is_of_link() {
            self.handle_link_message(id, dialect, kind, msg, now);
        } else if msg.node.eq_ignore_ascii_case(&link.node)
            || dialect == Dialect::Base && msg.node.is_empty()
        {
            match dialect {
                Dialect::V1 => self.handle_stream_message(id, kind, msg, now),
                Dialect::Base => self.handle_base_message(id, kind, msg, now),
            }
        } else {
            self.event(Event::Ignored("another node"));
        }
        if let Some(link) = self.links.get_mut(&id)
            && !link.waiting.is_empty()
        {
            link.heartbeat.still_awaits(now);
        }
        self.settle_link(id);
    }

    fn end_link_for(&mut self, id: LinkId, text: &'static str, now: Instant) {
        let end = LinkEnd {
            code: GrpcCode::InvalidArgument,
            text,
        };
        self.event(Event::Refused(Reason::ProtocolError));
        self.end_link(id, end, LinkLoss::Fault, now);
    }

    fn handle_link_message(
        &mut self,
        id: LinkId,
        dialect: Dialect,
        kind: Kind,
        msg: StreamMsg,
        now: Instant,
    ) {
        if msg.category != CATEGORY_LINK {
            return self.event(Event::Ignored("category"));
        }
        let Some(link) = self.links.get_mut(&id) else {
            return;
        };
        match (dialect, kind, self.role) {
            (Dialect::V1, Kind::Heartbeat | Kind::HeartbeatEcho, _)
                if msg.data.len() > HEARTBEAT_BYTES_MAX =>
            {
                self.end_link_for(id, "heartbeat over 16 bytes", now);
            }
            (Dialect::V1, Kind::Heartbeat, _) | (Dialect::Base, Kind::Heartbeat, Role::Opener) => {
                link.heartbeat.asked(msg.data);
            }
            (Dialect::V1, Kind::HeartbeatEcho, _)
            | (Dialect::Base, Kind::Heartbeat, Role::Acceptor) => {
                if let Some(took) = link.heartbeat.echoed(&msg.data, now) {
                    let shortest = link.round_trip();
                    link.window.measured(now, took, shortest);
                    self.event(Event::RoundTrip { link: id, took });
                }
            }
            (Dialect::V1, Kind::Drain, _) => {
                if !core::mem::replace(&mut link.draining, true) {
                    self.items.push_back(Item::Drained(id, now));
                }
            }
            (Dialect::V1, Kind::Here | Kind::Gone, _) if link.kind == LinkKind::ControlIn => {
                self.items.push_back(Item::Said(id, msg));
            }
            // For control links only.
            (Dialect::V1, Kind::Here | Kind::Gone, _) => self.out_of_place(id, now),
            _ => self.event(Event::Ignored("out of place")),
        }
    }

    // Version 1.

    fn handle_stream_message(&mut self, link: LinkId, kind: Kind, msg: StreamMsg, now: Instant) {
        let from = self.leads_toward(link);
        let may = match kind {
            Kind::Connecting | Kind::Resume => from == Some(Toward::Opener),
            Kind::Connected | Kind::ConnectFailed | Kind::Resumed => from == Some(Toward::Acceptor),
            Kind::Content | Kind::Window | Kind::Eof | Kind::Closed => from.is_some(),
            // A relay's word; an edge and a client are ends themselves.
            Kind::Detached => self
                .links
                .get(&link)
                .is_some_and(|link| !matches!(link.kind, LinkKind::Edge | LinkKind::Client)),
            Kind::TcpForward => return self.event(Event::Ignored("out of place")),
            Kind::Heartbeat | Kind::HeartbeatEcho | Kind::Drain | Kind::Here | Kind::Gone => return,
        };
        if !may {
            return self.out_of_place(link, now);
        }
        let Some(topic) = Topic::parse(&msg.topic) else {
            return self.out_of_place(link, now);
        };
        let relayed = self.role == Role::Opener
            && match from {
                Some(Toward::Opener) => !self.accepts(&topic),
                Some(Toward::Acceptor) | None => !self.topics.contains_key(&topic),
            }
            && !self.is_uplink(link);
        if relayed {
            return match kind {
                Kind::Connecting | Kind::Resume => self.handle_claim(link, topic, msg, now),
                _ => self.handle_relayed(link, topic, kind, msg, now),
            };
        }
        match (self.topics.get(&topic).copied(), kind) {
            (None, Kind::Connecting) => self.handle_connecting(link, topic, msg, now),
            (Some(id), Kind::Connecting | Kind::Resume) => {
                self.handle_again(link, id, kind, &msg, now);
            }
            (None, Kind::Resume) => self.handle_late(link, &topic, kind, &msg, now),
            (None, Kind::Closed) => {
                self.last_words.free(&topic, now);
            }
            (None, _) => self.handle_routeless(link, kind, &msg),
            (Some(id), kind) => self.handle_known(link, id, kind, msg, now),
        }
    }

    fn is_uplink(&self, link: LinkId) -> bool {
        let link = self.links.get(&link);
        link.is_some_and(|link| link.kind == LinkKind::Uplink)
    }

    /// A message that this kind of link may not bring: it ends the link, but "a bad message on a peer link never" does.
    fn out_of_place(&mut self, link: LinkId, now: Instant) {
        match self
            .links
            .get(&link)
            .is_some_and(|link| link.kind.is_peer())
        {
            true => self.event(Event::Ignored("not for this kind of link")),
            false => self.end_link_for(link, "not for this kind of link", now),
        }
    }

    /// A message of a stream that isn't here: an opener's answers that there is no route, once for many.
    fn handle_routeless(&mut self, link: LinkId, kind: Kind, msg: &StreamMsg) {
        self.event(Event::Ignored("unknown stream"));
        // A replica's word: a client says `closed` when it ends a stream, and nothing more.
        let tells = self.role == Role::Opener && !self.is_uplink(link);
        if tells && matches!(kind, Kind::Content | Kind::Eof | Kind::Connected) {
            let code = Reason::UnknownStream.code();
            self.answer(link, Kind::Detached, msg, code);
        }
    }

    fn handle_known(
        &mut self,
        link: LinkId,
        id: StreamId,
        kind: Kind,
        msg: StreamMsg,
        now: Instant,
    ) {
        let Some(entry) = self.streams.get_mut(&id) else {
            return;
        };
        if entry.link != Some(link) || entry.stream.epoch() != msg.epoch {
            return self.event(Event::Ignored("another attachment"));
        }
        let (is_uplink, leaves) = self.links.get(&link).map_or((false, false), |link| {
            (link.kind == LinkKind::Uplink, link.draining)
        });
        let stream = &mut entry.stream;
        if stream.ended().is_some() {
            if kind == Kind::Closed {
                stream.closed(Reason::Done);
            }
            return self.event(Event::Ignored("stream has ended"));
        }
        // Whoever is at the other end of this link has yet to show that it holds the stream.
        let refuses = matches!(kind, Kind::Closed | Kind::Detached);
        if stream.is_asking() && !refuses && kind != Kind::Resumed {
            return self.event(Event::Ignored("before its proof"));
        }
        let result = match kind {
            Kind::Connected => {
                stream.set_instance(String::from_utf8_lossy(&msg.data).into_owned());
                if is_uplink {
                    stream.identity.node = msg.node; // The replica knows how the edge spells it.
                }
                stream.connected(msg.ack, msg.limit, now).map(|_| ())
            }
            Kind::Resumed => match stream.resumed(&msg, now) {
                Ok(Some(resumption)) => return self.resumed(id, resumption, now),
                Ok(None) => return self.event(Event::Ignored("a wrong proof")),
                Err(reason) => Err(reason),
            },
            Kind::ConnectFailed => {
                let reason = failure(msg.code);
                if is_uplink && leaves && reason == Reason::Draining {
                    return self.detach(id, reason, now); // Its successor is on its way.
                }
                if is_uplink {
                    self.said.insert(id, printable(&msg.data));
                }
                let elsewhere = matches!(reason, Reason::NodeOffline | Reason::Draining);
                if elsewhere && !is_uplink && stream.phase() == Phase::Opening {
                    return self.wrong_way_of(id, link, now);
                }
                stream.cut(reason);
                Ok(())
            }
            Kind::Content => stream
                .content(msg.offset, msg.data, now)
                .and_then(|()| stream.acked(msg.ack, msg.limit, now))
                .map(|()| {
                    if msg.want_ack {
                        stream.receive.ack_now(now);
                    }
                }),
            Kind::Window => stream.acked(msg.ack, msg.limit, now),
            Kind::Eof => stream.peer_ended(msg.offset, now),
            Kind::Closed => {
                stream.closed(Reason::from_code(msg.code).unwrap_or(Reason::ProtocolError));
                Ok(())
            }
            Kind::Detached => return self.handle_detached(id, msg.code, now),
            Kind::Connecting
            | Kind::Resume
            | Kind::TcpForward
            | Kind::Heartbeat
            | Kind::HeartbeatEcho
            | Kind::Drain
            | Kind::Here
            | Kind::Gone => Ok(()),
        };
        if let Err(reason) = result {
            stream.fail(reason);
            self.event(Event::Refused(reason));
        }
        self.settle(id, now);
    }

    fn handle_connecting(&mut self, link: LinkId, topic: Topic, msg: StreamMsg, now: Instant) {
        let Some(key) = Key::from_wire(&msg.key).filter(|_| msg.epoch > 0) else {
            return self.refuse(link, Kind::Connecting, &msg, Reason::ProtocolError);
        };
        if self.last_words.find(&topic, now).is_some() {
            return self.handle_late(link, &topic, Kind::Connecting, &msg, now);
        }
        let _ = self.accept(link, topic, key, msg, now);
    }

    /// Takes a new stream in, in either dialect, and asks for its dial.
    pub(super) fn accept(
        &mut self,
        link_id: LinkId,
        topic: Topic,
        key: Key,
        msg: StreamMsg,
        now: Instant,
    ) -> Option<StreamId> {
        if !wire::may_ask(&msg) {
            self.event(Event::Refused(Reason::ProtocolError));
            self.refuse(link_id, Kind::Connecting, &msg, Reason::ProtocolError);
            return None;
        }
        if self.leaving {
            self.event(Event::Refused(Reason::Draining));
            self.refuse(link_id, Kind::Connecting, &msg, Reason::Draining);
            return None;
        }
        let limits = &self.config.links;
        let crowded = self
            .links
            .get(&link_id)
            .is_none_or(|link| link.streams.len() >= limits.streams_per_link_max);
        let stream = Stream::new(
            Role::Acceptor,
            Identity {
                topic,
                node: msg.node.clone(),
                category: msg.category.clone(),
                addr: msg.addr.clone(),
                user: msg.user.clone(),
            },
            key,
            &self.budget,
            &self.config.streams,
            now,
        );
        let Some(mut stream) = stream.filter(|_| !crowded) else {
            self.event(Event::Refused(Reason::OverLimit));
            self.refuse(link_id, Kind::Connecting, &msg, Reason::OverLimit);
            return None;
        };
        let link = self.links.get_mut(&link_id)?;
        let limit = msg.limit.max(EARLY_BYTES);
        if let Some(instance) = &link.instance {
            stream.set_instance(instance.uuid().into());
        }
        stream.accept(link.dialect, &self.config.streams, msg.epoch, limit, now);
        let id = StreamId(self.fresh_id());
        if let Some(link) = self.links.get_mut(&link_id) {
            link.streams.insert(id);
        }
        let new = NewStream {
            stream,
            client: String::new(),
            trace_id: String::new(),
        };
        self.add_accepted(id, link_id, new, now);
        self.items.push_back(Item::Asked(id));
        Some(id)
    }

    /// Answers `connecting` or `resume` with a refusal that changes nothing else.
    pub(super) fn refuse(&mut self, link: LinkId, kind: Kind, msg: &StreamMsg, reason: Reason) {
        let answer = match kind {
            Kind::Connecting => Kind::ConnectFailed,
            _ => Kind::Closed,
        };
        self.answer(link, answer, msg, reason.code());
    }

    pub(super) fn answer(&mut self, link: LinkId, kind: Kind, to: &StreamMsg, code: u32) {
        let Some(link) = self.links.get_mut(&link) else {
            return;
        };
        let mut answer = StreamMsg {
            node: to.node.clone(),
            category: to.category.clone(),
            r#type: kind.as_str().into(),
            topic: to.topic.clone(),
            ..StreamMsg::default()
        };
        match link.dialect {
            Dialect::V1 => {
                answer.code = code;
                answer.epoch = to.epoch;
            }
            Dialect::Base => {
                let word = Reason::from_code(code).map_or("", Reason::as_str);
                answer.data = word.into();
            }
        }
        if !link.answer(answer) {
            self.event(Event::Ignored("answers over the limit"));
        }
    }

    // The base dialect.

    fn handle_base_message(&mut self, link: LinkId, kind: Kind, msg: StreamMsg, now: Instant) {
        let Some(topic) = Topic::parse(&msg.topic) else {
            return self.event(Event::Ignored("no topic"));
        };
        let known = self.topics.get(&topic).copied();
        match (known, kind, self.role) {
            (None, Kind::Connecting, Role::Acceptor) => {
                // Base streams are never resumed: the key is nobody's.
                let key = Key::random(&mut self.rng);
                let _ = self.accept(
                    link,
                    topic,
                    key,
                    StreamMsg {
                        limit: 0,
                        epoch: 0,
                        ..msg
                    },
                    now,
                );
            }
            (_, Kind::Connecting, _) => {
                // An edge that wants to reach something through the cloud (its `httpProxy`): not through this one.
                self.event(Event::Refused(Reason::TargetForbidden));
                self.refuse(link, Kind::Connecting, &msg, Reason::TargetForbidden);
            }
            (None, Kind::TcpForward, _) => {
                self.event(Event::Ignored("unknown stream"));
                let once = self
                    .links
                    .get_mut(&link)
                    .is_some_and(|link| link.first_unknown(&topic));
                if once {
                    self.answer(link, Kind::Closed, &msg, Reason::UnknownStream.code());
                }
            }
            (None, _, _) => self.event(Event::Ignored("unknown stream")),
            (Some(id), kind, _) => self.handle_base_known(link, id, kind, msg, now),
        }
    }

    fn handle_base_known(
        &mut self,
        link: LinkId,
        id: StreamId,
        kind: Kind,
        msg: StreamMsg,
        now: Instant,
    ) {
        let role = self.role;
        let Some(entry) = self.streams.get_mut(&id) else {
            return;
        };
        let stream = &mut entry.stream;
        if entry.link != Some(link) || stream.ended().is_some() {
            return self.event(Event::Ignored("stream has ended"));
        }
        let result = match (kind, role) {
            (Kind::Connected, Role::Opener) => stream.connected(0, 0, now).map(|_| ()),
            (Kind::ConnectFailed, Role::Opener) if stream.phase() == Phase::Opening => {
                stream.cut(base_failure(&msg.data));
                Ok(())
            }
            (Kind::TcpForward, _) => stream.content(0, msg.data, now),
            (Kind::Closed, _) if stream.phase() == Phase::Opening && role == Role::Opener => {
                stream.cut(Reason::Unreachable);
                Ok(())
            }
            (Kind::Closed, _) => {
                stream.closed(Reason::Done);
                Ok(())
            }
            _ => return self.event(Event::Ignored("out of place")),
        };
        if let Err(reason) = result {
            stream.fail(reason);
            self.event(Event::Refused(reason));
        }
        self.settle(id, now);
    }
}

/// Why a dial failed, as the edge says. `done` is no failure: taken for one, its stream would wait for bytes to deliver.
fn failure(code: u32) -> Reason {
    let reason = Reason::from_code(code).filter(|reason| *reason != Reason::Done);
    reason.unwrap_or(Reason::LocalError)
}

/// A replica's words as people may be shown them: one line, printable, not too long.
fn printable(text: &[u8]) -> String {
    let shown = |byte: u8| match byte {
        b' '..=b'~' => char::from(byte),
        _ => '?',
    };
    text.iter()
        .take(SAID_BYTES_MAX)
        .map(|byte| shown(*byte))
        .collect()
}

/// What a base edge's error text means: its words are its language's own, and only their sense is used.
fn base_failure(text: &[u8]) -> Reason {
    let text = String::from_utf8_lossy(text);
    let says = |word: &str| text.contains(word);
    if says("refused") {
        Reason::Refused
    } else if says("timeout") || says("timed out") {
        Reason::DialTimeout
    } else if says("no such host") || says("name-not-found") {
        Reason::NameNotFound
    } else if says("over-limit") {
        Reason::OverLimit
    } else if says("forbidden") {
        Reason::TargetForbidden
    } else {
        Reason::Unreachable
    }
}
