//! What people and records are told of streams and links.

use super::{Entry, Mux};
use crate::output::{LinkInfo, StreamId, StreamInfo, StreamRecord, StreamState};
use crate::reason::Reason;
use crate::stream::{Phase, Role};
use crate::time::Instant;

impl Mux {
    pub(crate) fn stream_infos(&self) -> impl Iterator<Item = StreamInfo> {
        self.streams
            .iter()
            .filter(|(_, entry)| !entry.is_spliced)
            .map(|(id, entry)| entry.info(*id, entry.stream.role()))
            .chain(self.route_infos())
    }

    pub(crate) fn link_infos(&self) -> impl Iterator<Item = LinkInfo> {
        self.links.iter().map(|(id, link)| LinkInfo {
            link: *id,
            kind: link.kind,
            dialect: link.dialect,
            instance: link.instance.clone(),
            remote: link.remote.clone(),
            up_at: link.up_at,
            round_trip: link.heartbeat.round_trip(),
            streams: link.streams.len(),
        })
    }
}

impl Entry {
    /// Bytes towards the edge, and from it.
    fn counts(&self, role: Role) -> (u64, u64) {
        let (out, back) = (self.stream.replay.end(), self.stream.receive.received());
        match role {
            Role::Opener => (out, back),
            Role::Acceptor => (back, out),
        }
    }

    pub(super) fn record(&self, id: StreamId, role: Role, now: Instant) -> StreamRecord {
        let (bytes_to_edge, bytes_from_edge) = self.counts(role);
        let identity = &self.stream.identity;
        StreamRecord {
            id,
            topic: identity.topic.as_str().into(),
            node: identity.node.clone(),
            target: identity.addr.clone(),
            user: identity.user.clone(),
            client: self.client.clone(),
            trace_id: self.trace_id.clone(),
            opened_at: self.stream.opened_at,
            connected_at: self.stream.connected_at,
            ended_at: now,
            bytes_to_edge,
            bytes_from_edge,
            reason: self.stream.ended().unwrap_or(Reason::Done),
            detached: self.detached_told,
        }
    }

    fn info(&self, id: StreamId, role: Role) -> StreamInfo {
        let (bytes_to_edge, bytes_from_edge) = self.counts(role);
        let identity = &self.stream.identity;
        StreamInfo {
            id,
            topic: identity.topic.as_str().into(),
            node: identity.node.clone(),
            target: identity.addr.clone(),
            user: identity.user.clone(),
            client: self.client.clone(),
            state: match self.stream.phase() {
                _ if self.stream.is_detached() => StreamState::Detached,
                Phase::Opening => StreamState::Dialing,
                Phase::Open | Phase::Ended(_) => StreamState::Open,
            },
            opened_at: self.stream.opened_at,
            bytes_to_edge,
            bytes_from_edge,
        }
    }
}
