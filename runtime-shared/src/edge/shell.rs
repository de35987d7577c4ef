//! What the edge's driver does that a hub's doesn't: it makes links, and dials.
use std::collections::HashMap;
use std::sync::Arc;

use proto_core::connect::Reply;
use proto_core::name::NodeName;
use proto_core::output::{ClusterOutput, ConnectAttempt};
use proto_core::target::Target;
use proto_core::{Dialect, Edge, Event, Instant, LinkId, Machine, StreamId};
use tokio::sync::watch;

use super::dial;
use crate::clock::Clock;
use crate::driver::{Install, Mailbox, Moved, Shell};
use crate::grpc::Loss;
use crate::metrics::Metrics;
use crate::net::changes;
use crate::record::Teller;
use crate::runtime::{Runtime, Task};
use crate::uplink::Connector;

pub(super) struct EdgeShell<R: Runtime> {
    node: NodeName,
    connector: Connector<R>,
    mailbox: Arc<Mailbox<Edge, R>>,
    linked: watch::Sender<bool>,
    /// For the metrics: a link's end doesn't say what it spoke.
    up: HashMap<LinkId, Dialect>,
    metrics: Arc<Metrics>,
    clock: Clock,
}

impl<R: Runtime> EdgeShell<R> {
    pub(super) fn new(
        node: NodeName,
        connector: Connector<R>,
        mailbox: Arc<Mailbox<Edge, R>>,
        linked: watch::Sender<bool>,
        metrics: Arc<Metrics>,
        clock: Clock,
    ) -> EdgeShell<R> {
        EdgeShell {
            node,
            connector,
            mailbox,
            linked,
            up: HashMap::new(),
            metrics,
            clock,
        }
    }
}

impl<R: Runtime> Shell for EdgeShell<R> {
    type Machine = Edge;
    type Runtime = R;

    fn established(&mut self, edge: &mut Edge, link: LinkId, version1: bool, now: Instant) {
        edge.link_established(link, version1, now);
    }

    fn lost(&mut self, edge: &mut Edge, link: LinkId, loss: &Loss, now: Instant) {
        tracing::info!(node = %self.node, %link, %loss, "the link was lost");
        edge.link_lost(link, loss.to_core(), now);
    }

    fn dial(&mut self, id: StreamId, target: Target) -> Option<R::Task> {
        let mailbox = self.mailbox.clone();
        let dial = R::spawn(async move {
            let dialed = dial::dial::<R>(&target).await;
            // A driver that has ended wants no socket.
            let _ = mailbox.post(Box::new(move |edge, now| {
                edge.handle_dialed(id, dialed.as_ref().map(drop).map_err(|reason| *reason), now);
                match dialed {
                    Ok(socket) => Install::Dialed(id, R::socket(socket)),
                    Err(_) => Install::Nothing,
                }
            }));
        });
        Some(dial)
    }

    fn connect(&mut self, attempt: ConnectAttempt) {
        let (connector, mailbox, id) = (
            self.connector.clone(),
            self.mailbox.clone(),
            attempt.attempt,
        );
        let connecting = R::spawn(async move {
            let own_addresses = changes::addresses();
            let made = connector.connect(attempt).await;
            let _ = mailbox.post(Box::new(move |edge, now| {
                edge.set_own_addresses(own_addresses);
                match made {
                    Ok((link, remote)) => edge
                        .link_started(id, remote, now)
                        .map_or(Install::Nothing, |id| Install::Link(id, link)),
                    Err(failed) => {
                        tracing::info!(error = failed.text, "the cloud could not be reached");
                        edge.connect_failed(id, failed.why, now);
                        Install::Nothing
                    }
                }
            }));
        });
        connecting.detach();
    }

    fn cluster(&mut self, _: ClusterOutput) {}

    fn replied(&mut self, _: &Reply) {}

    fn moved(&mut self, moved: Moved) {
        self.metrics.moved(moved.written, moved.read);
    }

    fn event(&mut self, _: &Edge, event: Event) {
        let teller = Teller {
            node: self.node.as_str(),
            metrics: &self.metrics,
            clock: &self.clock,
        };
        teller.tell(&event, |link| self.up.get(&link).copied());
        match event {
            Event::LinkUp { link, dialect, .. } => {
                self.up.insert(link, dialect);
            }
            Event::LinkDown { link, .. } => {
                self.up.remove(&link);
            }
            _ => return,
        }
        let is_linked = !self.up.is_empty();
        self.linked
            .send_if_modified(|linked| std::mem::replace(linked, is_linked) != is_linked);
    }

    fn is_over(&mut self, edge: &Edge) -> bool {
        // It is idle between two links as well.
        edge.has_ended() && self.mailbox.close_if_empty()
    }
}
