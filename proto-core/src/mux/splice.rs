//! Towards a base edge the replica that holds its link is the acceptor: version 1 ends here (PROTOCOL.md, "Base dialect").
//!
//! Two streams of this mux are each other's local socket: the acceptor of whoever opened the stream, and an opener on the
//! base link. What a driver does between a stream and a socket, `pump` does between the two.

use super::{Local, Mux, NewStream};
use crate::name::Topic;
use crate::output::{LinkId, StreamId};
use crate::reason::Reason;
use crate::stream::key::Key;
use crate::stream::{Identity, Role, Stream};
use crate::time::Instant;
use crate::wire::Kind;
use alloc::string::String;

/// The other stream of a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Splice {
    With(StreamId),
    /// It is gone: what still comes is acked and dropped.
    Gone,
}

impl Mux {
    /// A claim whose way is a base link: this end accepts it, and opens the stream that the edge knows.
    pub(crate) fn accept_claim(&mut self, route: StreamId, edge: LinkId, now: Instant) {
        let Some(route) = self.relay.remove(route) else {
            return;
        };
        let (link, topic) = (route.opener, route.topic.clone());
        let Some((claim, early, ended)) = route.into_claim() else {
            return;
        };
        let kind = Kind::parse(&claim.r#type);
        if kind == Some(Kind::Resume) || self.last_words.find(&topic, now).is_some() {
            return self.handle_late(link, &topic, kind.unwrap_or(Kind::Resume), &claim, now);
        }
        let Some(key) = Key::from_wire(&claim.key) else {
            return self.refuse(link, Kind::Connecting, &claim, Reason::ProtocolError);
        };
        let Some(id) = self.accept(link, topic, key, claim, now) else {
            return;
        };
        let instance = self.links.get(&edge).and_then(|edge| edge.instance.clone());
        let Some(entry) = self.streams.get_mut(&id) else {
            return;
        };
        if let Some(instance) = instance {
            entry.stream.set_instance(instance.uuid().into());
        }
        let mut fault = None;
        let mut offset = 0;
        for data in early {
            let bytes = data.len() as u64;
            fault = fault.or(entry.stream.content(offset, data, now).err());
            offset += bytes;
        }
        if ended {
            fault = fault.or(entry.stream.peer_ended(offset, now).err());
        }
        let identity = entry.stream.identity.clone();
        match self.open_spliced(id, identity, now) {
            _ if fault.is_some() => self.fail(id, Reason::ProtocolError, now),
            None => self.handle_dialed(id, Err(Reason::OverLimit), now),
            Some(other) => {
                if let Some(entry) = self.streams.get_mut(&id) {
                    entry.splice = Some(Splice::With(other));
                }
                self.attach(other, edge, now);
            }
        }
    }

    fn open_spliced(
        &mut self,
        with: StreamId,
        identity: Identity,
        now: Instant,
    ) -> Option<StreamId> {
        let (topic, key) = self.draw();
        let identity = Identity { topic, ..identity };
        let stream = Stream::new(
            Role::Opener,
            identity,
            key,
            &self.budget,
            &self.config.streams,
            now,
        )?;
        let id = StreamId(self.fresh_id());
        let new = NewStream {
            stream,
            client: String::new(),
            trace_id: String::new(),
        };
        self.add_opened(id, new, now);
        if let Some(entry) = self.streams.get_mut(&id) {
            entry.splice = Some(Splice::With(with));
            entry.is_spliced = true;
        }
        Some(id)
    }

    /// What the edge answered is what the dial came to. False: it is no such stream.
    pub(crate) fn spliced_answer(
        &mut self,
        id: StreamId,
        result: Result<(), Reason>,
        now: Instant,
    ) -> bool {
        // One that failed may be forgotten by now.
        let splice = match self.streams.get(&id) {
            Some(entry) => entry.splice,
            None => self.spliced_with(id).map(Splice::With),
        };
        match splice {
            Some(Splice::With(other)) => {
                self.handle_dialed(other, result, now);
                self.pump(id, now);
                true
            }
            Some(Splice::Gone) | None => false,
        }
    }

    /// Moves what can be moved between a stream and the other of its pair, both ways.
    pub(crate) fn pump(&mut self, id: StreamId, now: Instant) {
        match self.streams.get(&id).and_then(|entry| entry.splice) {
            Some(Splice::With(other)) => {
                self.pour(id, other, now);
                self.pour(other, id, now);
            }
            Some(Splice::Gone) => {
                let bytes = self.pending_write(id).map(bytes::Bytes::len).sum();
                self.written(id, bytes, now);
                self.take_shutdown(id, now);
            }
            None => {}
        }
    }

    fn pour(&mut self, from: StreamId, to: StreamId, now: Instant) {
        loop {
            let Some(mut data) = self.pending_write(from).next().cloned() else {
                break;
            };
            let room = self.wants_read(to, now).min(data.len());
            if room == 0 {
                return;
            }
            data.truncate(room);
            self.handle_read(to, data, now);
            self.written(from, room, now);
        }
        if self.take_shutdown(from, now) {
            self.handle_read_eof(to, now);
        }
    }

    /// One of a pair has closed its side.
    pub(crate) fn splice_closed(&mut self, id: StreamId, reset: bool, now: Instant) {
        let splice = self
            .streams
            .get_mut(&id)
            .and_then(|entry| entry.splice.take());
        let gone = splice.or_else(|| self.spliced_with(id).map(Splice::With));
        let Some(Splice::With(other)) = gone else {
            return;
        };
        let Some(entry) = self.streams.get_mut(&other) else {
            return;
        };
        let is_acceptor = entry.stream.role() == Role::Acceptor;
        if reset || !is_acceptor || entry.local != Local::Open {
            entry.splice = None;
            return self.handle_socket_error(other, now);
        }
        // "The edge's `closed` becomes `eof`, what the opener still sends is acked and dropped."
        entry.splice = Some(Splice::Gone);
        self.handle_read_eof(other, now);
        self.pump(other, now);
    }

    fn spliced_with(&self, id: StreamId) -> Option<StreamId> {
        let mut all = self.streams.iter();
        all.find(|(_, entry)| entry.splice == Some(Splice::With(id)))
            .map(|(other, _)| *other)
    }

    /// Whether messages of this topic that come from openers are for a stream that ends here.
    pub(super) fn accepts(&self, topic: &Topic) -> bool {
        let id = self.topics.get(topic);
        let entry = id.and_then(|id| self.streams.get(id));
        entry.is_some_and(|entry| entry.stream.role() == Role::Acceptor)
    }
}
