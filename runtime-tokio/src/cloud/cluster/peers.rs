//! What the driver of `Peers` does that a hub's doesn't.
use std::collections::HashMap;
use std::sync::Arc;

use proto_core::connect::Reply;
use proto_core::output::{AttemptId, ClusterOutput, ConnectAttempt};
use proto_core::target::Target;
use proto_core::{Dialect, Event, Instant, LinkId, LinkKind, Machine, Peers, StreamId};

use super::Replica;
use super::ways::Way;
use crate::driver::{Install, Moved, Shell};
use crate::record::Teller;
use crate::{Tokio, TokioTask};
use runtime_shared::grpc::Loss;

pub(super) struct PeersShell {
    replica: Arc<Replica>,
    /// For the metrics: a link's end doesn't say what it spoke.
    dialects: HashMap<LinkId, Dialect>,
}

impl PeersShell {
    pub(super) fn new(replica: Arc<Replica>) -> PeersShell {
        PeersShell {
            replica,
            dialects: HashMap::new(),
        }
    }

    fn dial(&self, attempt: AttemptId, address: String) {
        let replica = self.replica.clone();
        tokio::spawn(async move {
            let lane = replica.lanes().of(&address);
            let made = replica.cluster().connector.connect(&address, lane).await;
            let known = replica.clone();
            let _ = replica
                .cluster()
                .mailbox
                .post(Box::new(move |peers, now| match made {
                    Ok(made) => {
                        let remote = made.remote.to_string();
                        let Some(link) = peers.link_up(attempt, made.replica, remote, now) else {
                            return Install::Nothing;
                        };
                        let way = Way::new(made.remote, known.lanes().count());
                        known.cluster().ways().insert(link, made.replica, way);
                        tracing::info!(address, replica = %made.replica, "another replica is reached");
                        Install::Link(link, made.control)
                    }
                    Err(failed) => {
                        tracing::debug!(address, error = failed.text, "another replica could not be reached");
                        peers.link_failed(attempt, failed.why, now);
                        Install::Nothing
                    }
                }));
        });
    }
}

impl Shell for PeersShell {
    type Machine = Peers;
    type Runtime = Tokio;

    fn established(&mut self, _: &mut Peers, _: LinkId, _: bool, _: Instant) {}

    fn lost(&mut self, peers: &mut Peers, link: LinkId, loss: &Loss, now: Instant) {
        tracing::info!(%link, %loss, "a link to or from another replica was lost");
        peers.link_lost(link, loss.to_core(), now);
    }

    fn dial(&mut self, _: StreamId, _: Target) -> Option<TokioTask> {
        None
    }

    fn connect(&mut self, _: ConnectAttempt) {}

    fn cluster(&mut self, wish: ClusterOutput) {
        match wish {
            ClusterOutput::DialPeer { attempt, address } => {
                PeersShell::dial(self, attempt, address);
            }
            ClusterOutput::Holders { node, holders } => self.replica.set_holders(node, holders),
            // A hub's.
            ClusterOutput::ConnectPeer { .. }
            | ClusterOutput::Held(_)
            | ClusterOutput::FindNode
            | ClusterOutput::WrongNode(_) => {}
        }
    }

    fn replied(&mut self, _: &Reply) {}

    fn moved(&mut self, _: Moved) {}

    fn event(&mut self, _: &Peers, event: Event) {
        match event {
            Event::ConnectFailed { why, .. } => {
                return self.replica.metrics().link_asked("peer", why.as_str());
            }
            Event::LinkUp { link, dialect, .. } => {
                self.dialects.insert(link, dialect);
            }
            Event::LinkDown {
                link,
                kind: LinkKind::ControlOut,
                ..
            } => self.replica.cluster().ways().remove(link),
            _ => {}
        }
        let teller = Teller {
            node: "",
            metrics: self.replica.metrics(),
            clock: self.replica.clock(),
        };
        teller.tell(&event, |link| self.dialects.get(&link).copied());
        if let Event::LinkDown { link, .. } = event {
            self.dialects.remove(&link);
        }
    }

    fn is_over(&mut self, _: &Peers) -> bool {
        *self.replica.cluster().ends.borrow()
    }
}
