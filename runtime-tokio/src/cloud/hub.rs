//! What a hub's driver does that an edge's doesn't.
use std::collections::HashMap;
use std::sync::Arc;

use proto_core::connect::Reply;
use proto_core::name::NodeName;
use proto_core::output::{ClusterOutput, ConnectAttempt};
use proto_core::target::Target;
use proto_core::{Dialect, Event, Instant, LinkId, Machine, NodeHub, StreamId};

use super::replica::Replica;
use crate::driver::{Mailbox, Moved, Shell};
use crate::record::Teller;
use crate::{Tokio, TokioTask};
use runtime_shared::grpc::Loss;

pub(super) struct HubShell {
    replica: Arc<Replica>,
    node: NodeName,
    mailbox: Arc<Mailbox<NodeHub>>,
    /// For the metrics: a link's end doesn't say what it spoke.
    dialects: HashMap<LinkId, Dialect>,
}

impl HubShell {
    pub(super) fn new(
        replica: Arc<Replica>,
        node: NodeName,
        mailbox: Arc<Mailbox<NodeHub>>,
    ) -> HubShell {
        HubShell {
            replica,
            node,
            mailbox,
            dialects: HashMap::new(),
        }
    }
}

impl Shell for HubShell {
    type Machine = NodeHub;
    type Runtime = Tokio;

    fn established(&mut self, _: &mut NodeHub, _: LinkId, _: bool, _: Instant) {}

    fn lost(&mut self, machine: &mut NodeHub, link: LinkId, loss: &Loss, now: Instant) {
        tracing::debug!(node = %self.node, %link, ?loss, "a link was lost");
        machine.link_lost(link, loss.to_core(), now);
    }

    fn dial(&mut self, _: StreamId, _: Target) -> Option<TokioTask> {
        None
    }

    fn connect(&mut self, _: ConnectAttempt) {}

    fn cluster(&mut self, wish: ClusterOutput) {
        self.replica.wish(&self.node, &self.mailbox, wish);
    }

    fn replied(&mut self, reply: &Reply) {
        let (code, reason) = (reply.status(), reply.reason_word());
        self.replica.metrics().connect_reply(code, reason);
        if reply.refusal().is_some() {
            self.replica.metrics().refused(reason);
            tracing::info!(node = %self.node, code, reason, "a CONNECT was refused");
        }
    }

    fn moved(&mut self, moved: Moved) {
        self.replica.metrics().moved(moved.read, moved.written);
    }

    fn event(&mut self, hub: &NodeHub, event: Event) {
        if let Event::LinkUp { link, dialect, .. } = event {
            self.dialects.insert(link, dialect);
        }
        let teller = Teller {
            node: hub.node().as_str(),
            metrics: self.replica.metrics(),
            clock: self.replica.clock(),
        };
        teller.tell(&event, |link| self.dialects.get(&link).copied());
        if let Event::LinkDown { link, .. } = event {
            self.dialects.remove(&link);
        }
        self.replica.event(&self.node, &event);
    }

    fn is_over(&mut self, _: &NodeHub) -> bool {
        self.replica.retire(&self.node, &self.mailbox)
    }
}
