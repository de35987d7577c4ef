//! Time. Timers are lazy: one that fires early because its deadline has moved on is set again.

use super::Mux;
use crate::output::{Deadline, Event, GrpcCode, LinkEnd, LinkId, LinkLoss, StreamId, Timer};
use crate::stream::{Phase, Role};
use crate::time::Instant;
use rand_core::Rng;

impl Mux {
    pub(crate) fn deadline(&self) -> Option<Deadline> {
        self.timers
            .first()
            .map(|&(at, timer)| Deadline { at, timer })
    }

    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        self.last_words.expire(now);
        while let Some(&(at, timer)) = self.timers.first() {
            if at > now {
                return;
            }
            self.timers.pop_first();
            match timer {
                Timer::Link(id) => self.link_timeout(id, now),
                Timer::Stream(id) => self.stream_timeout(id, now),
                Timer::Reconnect => {}
            }
        }
    }

    fn link_timeout(&mut self, id: LinkId, now: Instant) {
        let Some(link) = self.links.get_mut(&id) else {
            return;
        };
        link.timer = None;
        // A link that isn't read can't show signs of life.
        if !link.full.is_empty() {
            link.heartbeat.excuse(now);
        }
        if link.heartbeat.handle_timeout(now) {
            let end = LinkEnd {
                code: GrpcCode::DeadlineExceeded,
                text: "no sign of life",
            };
            self.end_link(id, end, LinkLoss::Silent, now);
        } else {
            self.settle_link(id);
        }
    }

    fn stream_timeout(&mut self, id: StreamId, now: Instant) {
        let Some(entry) = self.streams.get_mut(&id) else {
            return;
        };
        entry.timer = None;
        if entry.budget_retry_at.is_some_and(|at| at <= now) {
            entry.budget_retry_at = None;
        }
        let opening = entry.stream.phase() == Phase::Opening;
        let jitter = f64::from(self.rng.next_u32()) / f64::from(u32::MAX);
        entry
            .stream
            .handle_timeout(&self.config.streams, now, jitter);
        if let (true, Role::Acceptor, Some(reason)) =
            (opening, entry.stream.role(), entry.stream.ended())
        {
            let took = now.saturating_duration_since(entry.stream.opened_at);
            let failure = Some(reason);
            self.event(Event::Dialed { failure, took });
        }
        self.settle(id, now);
    }
}
