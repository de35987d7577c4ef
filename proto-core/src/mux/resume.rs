//! Streams that outlive their links: detached, asked for again, resumed (PROTOCOL.md, "Attachment").

use super::{Item, Mux, leave};
use crate::link::schedule::Place;
use crate::name::Topic;
use crate::output::{Event, LinkId, StreamId};
use crate::proto::StreamMsg;
use crate::reason::Reason;
use crate::stream::key::Key;
use crate::stream::{Resumption, Role};
use crate::time::Instant;
use crate::wire::Kind;
use rand_core::Rng;

impl Mux {
    /// The stream's way is gone: it waits for another if it can, else it ends with `reason`.
    pub(super) fn detach(&mut self, id: StreamId, reason: Reason, now: Instant) {
        let Some(entry) = self.streams.get_mut(&id) else {
            return;
        };
        if let Some(link) = entry.link.take() {
            leave(&mut self.links, &mut self.items, link, id);
        }
        entry.place = Place::default();
        match entry.stream.is_resumable(&self.config.streams) {
            true => entry.stream.detach(now),
            false => entry.stream.cut(reason),
        }
        self.settle(id, now);
    }

    /// A relay says that the way to the other end is gone.
    pub(super) fn handle_detached(&mut self, id: StreamId, code: u32, now: Instant) {
        let jitter = f64::from(self.rng.next_u32()) / f64::from(u32::MAX);
        let Some(entry) = self.streams.get_mut(&id) else {
            return;
        };
        // "Where only another instance is known the answer is `detached` with `unknown-stream`."
        if self.role == Role::Opener && Reason::from_code(code) == Some(Reason::UnknownStream) {
            entry.stream.orphan(now);
        }
        let pause = self.role == Role::Opener && entry.stream.is_asking();
        self.detach(id, Reason::NodeOffline, now);
        if pause && let Some(entry) = self.streams.get_mut(&id) {
            entry.stream.pause(now, jitter);
            self.settle(id, now);
        }
    }

    /// Opener: the node is not where `connecting` was sent. Whoever opened the stream knows another way, or waits.
    pub(super) fn wrong_way_of(&mut self, id: StreamId, link: LinkId, now: Instant) {
        let Some(entry) = self.streams.get_mut(&id) else {
            return;
        };
        entry.link = None;
        entry.place = Place::default();
        entry.stream.unask();
        leave(&mut self.links, &mut self.items, link, id);
        self.items.push_back(Item::WrongWay(id, link, now));
    }

    /// Opener: moves the streams of a link that has a successor.
    pub(crate) fn detach_all(&mut self, link: LinkId, uuid: Option<&str>, now: Instant) {
        let streams: alloc::vec::Vec<StreamId> = self
            .links
            .get(&link)
            .map(|link| link.streams.iter().copied().collect())
            .unwrap_or_default();
        for id in streams {
            if self.stream(id).is_some_and(|stream| {
                stream.is_resumable(&self.config.streams)
                    && uuid.is_none_or(|uuid| stream.instance() == uuid)
            }) {
                self.detach(id, Reason::NodeOffline, now);
            }
        }
    }

    /// Opener: streams without a way that want one.
    pub(crate) fn wanting(&self) -> impl Iterator<Item = StreamId> {
        self.streams
            .iter()
            .filter(|(_, entry)| entry.stream.role() == Role::Opener && entry.stream.wants_way())
            .map(|(id, _)| *id)
    }

    /// Opener: another process has taken the place of the one that holds the other end.
    pub(crate) fn orphan(&mut self, id: StreamId, now: Instant) {
        if let Some(entry) = self.streams.get_mut(&id)
            && entry.stream.orphan(now)
        {
            self.settle(id, now);
        }
    }

    /// Opener: the acceptor goes on.
    pub(super) fn resumed(&mut self, id: StreamId, resumption: Resumption, now: Instant) {
        let was_detached = self
            .streams
            .get_mut(&id)
            .is_some_and(|entry| core::mem::take(&mut entry.detached_told));
        self.event(Event::Resumed {
            id,
            stalled: resumption.stalled,
            replayed: resumption.replayed,
            was_detached,
        });
        self.settle(id, now);
    }

    /// Acceptor: `connecting` or `resume` of a stream that is here. It is believed if it proves that it comes from the
    /// stream's opener and is newer than what was believed before; else nothing changes.
    pub(super) fn handle_again(
        &mut self,
        link_id: LinkId,
        id: StreamId,
        kind: Kind,
        msg: &StreamMsg,
        now: Instant,
    ) {
        let Some(entry) = self.streams.get_mut(&id) else {
            return;
        };
        let stream = &mut entry.stream;
        let proved = match kind {
            Kind::Connecting => Key::from_wire(&msg.key).is_some_and(|key| stream.key().is(&key)),
            _ => {
                stream.identity.addr == msg.addr
                    && stream.connected_at.is_some()
                    && stream
                        .key()
                        .is_proved(&msg.key, kind, &msg.topic, msg.epoch)
            }
        };
        if !proved || msg.epoch <= stream.epoch() || stream.ended().is_some() {
            return self.refuse(link_id, kind, msg, Reason::UnknownStream);
        }
        if let Some(old) = entry.link.replace(link_id) {
            leave(&mut self.links, &mut self.items, old, id);
        }
        entry.place = Place::default();
        if let Some(link) = self.links.get_mut(&link_id) {
            link.streams.insert(id);
        }
        let result = match kind {
            Kind::Connecting => Ok(stream.connect_again(msg)),
            _ => stream.resume(msg, now),
        };
        match result {
            Ok(resumption) => self.resumed(id, resumption, now),
            Err(reason) => {
                self.event(Event::Refused(reason));
                self.fail(id, reason, now);
            }
        }
    }

    /// Acceptor: `connecting` or `resume` of a stream that isn't here any more.
    pub(super) fn handle_late(
        &mut self,
        link: LinkId,
        topic: &Topic,
        kind: Kind,
        msg: &StreamMsg,
        now: Instant,
    ) {
        match self
            .last_words
            .find(topic, now)
            .and_then(|word| word.answer(kind, msg))
        {
            Some(answer) => self.push_answer(link, answer),
            None => self.refuse(link, kind, msg, Reason::UnknownStream),
        }
    }

    fn push_answer(&mut self, link: LinkId, answer: StreamMsg) {
        let queued = self
            .links
            .get_mut(&link)
            .is_some_and(|link| link.answer(answer));
        if !queued {
            self.event(Event::Ignored("answers over the limit"));
        }
    }
}
