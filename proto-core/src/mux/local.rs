//! The side of the local sockets: what may be read, what is to be written, what the dial came to.

use super::{Local, Mux};
use crate::output::{Event, StreamId};
use crate::reason::Reason;
use crate::stream::Phase;
use crate::time::Instant;
use bytes::Bytes;

impl Mux {
    pub(crate) fn wants_read(&mut self, id: StreamId, now: Instant) -> usize {
        let Some(entry) = self.streams.get_mut(&id) else {
            return 0;
        };
        let room = entry.stream.wants_read();
        if room == 0 && !entry.read_blocked {
            entry.read_blocked = true;
            self.settle(id, now);
        }
        usize::try_from(room).unwrap_or(usize::MAX)
    }

    pub(crate) fn handle_read(&mut self, id: StreamId, data: Bytes, now: Instant) {
        if let Some(entry) = self.streams.get_mut(&id) {
            debug_assert!(data.len() as u64 <= entry.stream.wants_read());
            entry.stream.read(data, now);
            self.settle(id, now);
        }
    }

    /// Bytes that were read before anybody was asked how many are wanted.
    pub(crate) fn handle_early(&mut self, id: StreamId, data: Bytes, now: Instant) {
        if let Some(entry) = self.streams.get_mut(&id) {
            entry.stream.read(data, now);
            self.settle(id, now);
        }
    }

    pub(crate) fn handle_read_eof(&mut self, id: StreamId, now: Instant) {
        if let Some(entry) = self.streams.get_mut(&id) {
            entry.stream.read_ended(now);
            self.settle(id, now);
        }
    }

    pub(crate) fn handle_socket_error(&mut self, id: StreamId, now: Instant) {
        if let Some(entry) = self.streams.get_mut(&id) {
            entry.local = Local::Gone;
            entry.stream.fail(Reason::Reset);
            self.settle(id, now);
        }
    }

    /// What is to be written next, in order.
    pub(crate) fn pending_write(&self, id: StreamId) -> impl Iterator<Item = &Bytes> {
        self.streams
            .get(&id)
            .filter(|entry| entry.local == Local::Open)
            .into_iter()
            .flat_map(|entry| entry.stream.receive.pending())
    }

    pub(crate) fn written(&mut self, id: StreamId, bytes: usize, now: Instant) {
        let Some(entry) = self.streams.get_mut(&id) else {
            return;
        };
        let mut link = entry.link.and_then(|link| self.links.get_mut(&link));
        let line = link.as_mut();
        let line = line.map(|link| (link.round_trip(), &mut link.window));
        entry.stream.written(bytes, now, line);
        if let Some(link) = link
            && entry.stream.receive.grant_is_due()
            && link.window.wants_round_trip()
        {
            link.heartbeat.measure(now);
        }
        if entry.stream.receive.held() == 0 {
            entry.write_idle = true;
        }
        self.settle(id, now);
    }

    pub(crate) fn take_shutdown(&mut self, id: StreamId, now: Instant) -> bool {
        let Some(entry) = self.streams.get_mut(&id) else {
            return false;
        };
        if entry.local != Local::Open || !entry.stream.receive.wants_shutdown() {
            return false;
        }
        entry.stream.receive.shut_down();
        self.settle(id, now);
        true
    }

    pub(crate) fn handle_dialed(&mut self, id: StreamId, result: Result<(), Reason>, now: Instant) {
        let Some(entry) = self.streams.get_mut(&id) else {
            return;
        };
        if entry.stream.phase() != Phase::Opening || entry.local != Local::None {
            return;
        }
        let took = now.saturating_duration_since(entry.stream.opened_at);
        match result {
            Ok(()) => {
                entry.local = Local::Open;
                entry.stream.dialed(now);
            }
            Err(reason) => {
                entry.local = Local::Gone;
                entry.stream.dial_failed(reason);
            }
        }
        let failure = result.err();
        self.event(Event::Dialed { failure, took });
        self.settle(id, now);
    }
}
