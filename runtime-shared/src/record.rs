//! What the machines tell, as log lines, audit records and metrics: the same words at both ends.
use proto_core::output::{LinkId, StreamRecord};
use proto_core::{Dialect, Event, LinkKind};

use crate::clock::Clock;
use crate::metrics::{LinkLabels, Metrics};

/// Who tells.
#[derive(Clone, Copy, Debug)]
pub struct Teller<'a> {
    /// Which node it is about.
    pub node: &'a str,
    /// Where it is counted.
    pub metrics: &'a Metrics,
    /// What time it is.
    pub clock: &'a Clock,
}

impl Teller<'_> {
    /// Tells of an event. `dialect_of` knows the links that were up before it.
    pub fn tell(&self, event: &Event, dialect_of: impl Fn(LinkId) -> Option<Dialect>) {
        let (node, metrics) = (self.node, self.metrics);
        match event {
            Event::LinkUp {
                link,
                kind,
                dialect,
            } => {
                metrics.link_up(labels(*kind, *dialect));
                tracing::info!(node, %link, dialect = dialect.as_str(), "a link is up");
            }
            Event::LinkDown {
                link,
                kind,
                why,
                streams,
            } => {
                if let Some(dialect) = dialect_of(*link) {
                    metrics.link_down(labels(*kind, dialect), why.as_str());
                }
                tracing::info!(node, %link, reason = why.as_str(), streams, "a link is down");
            }
            Event::ConnectFailed { why, retry_in } => {
                metrics.link_asked("edge", why.as_str());
                tracing::debug!(
                    node,
                    reason = why.as_str(),
                    ?retry_in,
                    "no link; there will be another try"
                );
            }
            Event::Connected { took, .. } => metrics.connect_took(*took),
            Event::Detached { id } => {
                metrics.stream_left("open");
                metrics.stream_entered("detached");
                tracing::debug!(node, stream = %id, "a stream waits for another link");
            }
            Event::Resumed {
                id,
                stalled,
                replayed,
                was_detached,
            } => {
                if *was_detached {
                    metrics.stream_left("detached");
                    metrics.stream_entered("open");
                }
                metrics.resumed(*stalled, *replayed);
                tracing::debug!(node, stream = %id, ?stalled, replayed, "a stream was resumed");
            }
            Event::Dialed { failure, took } => {
                metrics.dialed(failure.map_or("ok", |reason| reason.as_str()), *took)
            }
            Event::StreamEnded(record) => self.stream_ended(record),
            Event::Relayed(record) => self.audit(record),
            Event::Refused(reason) => {
                metrics.refused(reason.as_str());
                tracing::info!(node, reason = reason.as_str(), "something was refused");
            }
            Event::Ignored(what) => {
                metrics.refused("ignored");
                tracing::debug!(node, what, "a message was ignored");
            }
            Event::RoundTrip { took, .. } => metrics.rtt(*took),
        }
    }

    fn stream_ended(&self, record: &StreamRecord) {
        self.metrics.stream_closed(record.reason.as_str());
        self.audit(record);
    }

    fn audit(&self, record: &StreamRecord) {
        let reason = record.reason.as_str();
        let duration = record.ended_at.saturating_duration_since(record.opened_at);
        tracing::info!(
            target: "audit",
            topic = record.topic,
            node = record.node,
            target = record.target,
            user = record.user,
            remote = record.client,
            trace_id = record.trace_id,
            opened = %self.clock.wall_at(record.opened_at).date_time(),
            connected = record.connected_at.is_some(),
            duration_ms = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX),
            bytes_to_edge = record.bytes_to_edge,
            bytes_from_edge = record.bytes_from_edge,
            reason,
            code = record.reason.code(),
        );
        tracing::debug!(
            node = record.node,
            topic = record.topic,
            target = record.target,
            reason,
            "a stream ended"
        );
    }
}

fn labels(kind: LinkKind, dialect: Dialect) -> LinkLabels {
    LinkLabels {
        kind: match kind {
            // Both ends count it by the same name.
            LinkKind::Uplink => LinkKind::Edge.as_str(),
            kind => kind.as_str(),
        },
        dialect: dialect.as_str(),
    }
}
