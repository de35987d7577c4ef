//! What keepers of links to the cloud ask of the streams that go by them, and tell them.

use super::Mux;
use crate::output::{LinkId, StreamId};
use crate::stream::Role;
use crate::time::Instant;
use alloc::string::String;

impl Mux {
    /// Whether a stream waits for a link, or for the answer that takes it up on one.
    pub(crate) fn has_waiting(&self) -> bool {
        self.streams.values().any(|entry| {
            entry.stream.ended().is_none() && (entry.link.is_none() || entry.stream.is_detached())
        })
    }

    /// Nothing goes by this link any more, and what has left it (an opener's) is taken up elsewhere.
    pub(crate) fn is_free(&self, link: LinkId) -> bool {
        let unused = self.link(link).is_none_or(|link| link.streams.is_empty());
        unused && (self.role == Role::Acceptor || !self.has_waiting())
    }

    /// Opener: the words with which a replica refused a stream.
    pub(crate) fn take_said(&mut self, id: StreamId) -> String {
        self.said.remove(&id).unwrap_or_default()
    }

    /// No streams are left.
    pub(crate) fn is_empty(&self) -> bool {
        self.streams.is_empty()
    }

    /// This process leaves: it says so on each of its links, and on those to come, and takes no new streams.
    pub(crate) fn leave(&mut self) {
        self.leaving = true;
        let links: alloc::vec::Vec<LinkId> = self.links.keys().copied().collect();
        for id in links {
            if let Some(link) = self.links.get_mut(&id) {
                link.send_drain();
            }
            self.settle_link(id);
        }
    }

    /// Whether this process leaves.
    pub(crate) fn is_leaving(&self) -> bool {
        self.leaving
    }

    /// Asks for a sign of life now.
    pub(crate) fn probe_link(&mut self, id: LinkId, now: Instant) {
        if let Some(link) = self.links.get_mut(&id) {
            link.heartbeat.doubt(now);
        }
        self.settle_link(id);
    }
}
