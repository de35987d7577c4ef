//! What a node's hub wants of the cluster.
use std::sync::Arc;
use std::time::Duration;

use proto_core::name::NodeName;
use proto_core::output::{AttemptId, ClusterOutput, LinkLoss};
use proto_core::registry::Ask;
use proto_core::replica::Held;
use proto_core::{NodeHub, ReplicaId};

use super::Replica;
use super::connect::authorization;
use super::ways::Way;
use crate::driver::{Install, Mailbox};
use crate::grpc::Link;
use crate::registry::Answer;

/// A replica that is there takes a link at once.
const LINK_TIMEOUT: Duration = Duration::from_secs(5);

impl Replica {
    /// Does what a hub wants done.
    pub(in crate::cloud) fn wish(
        self: &Arc<Self>,
        node: &NodeName,
        hub: &Arc<Mailbox<NodeHub>>,
        wish: ClusterOutput,
    ) {
        match wish {
            ClusterOutput::ConnectPeer { attempt, replica } => {
                let (of, node, hub) = (self.clone(), node.clone(), hub.clone());
                tokio::spawn(async move { of.link_to_peer(node, hub, attempt, replica).await });
            }
            ClusterOutput::Held(held) => self.held(node, held),
            ClusterOutput::FindNode => self.find(node),
            ClusterOutput::WrongNode(replica) => {
                let cluster = self.cluster();
                let address = cluster.ways().address(replica);
                if let Some(address) = address {
                    let now = self.clock().now();
                    cluster.answers().wrong(node, address, now);
                    cluster.registry.wrong(node, address);
                }
            }
            // Those of `Peers`.
            ClusterOutput::DialPeer { .. } | ClusterOutput::Holders { .. } => {}
        }
    }

    async fn link_to_peer(
        &self,
        node: NodeName,
        hub: Arc<Mailbox<NodeHub>>,
        attempt: AttemptId,
        replica: ReplicaId,
    ) {
        let way = self.cluster().ways().to(replica);
        let made = match way {
            None => Err(LinkLoss::Refused),
            Some(way) => self
                .link_by(&way, &node, replica)
                .await
                .map(|link| (link, way.remote.to_string())),
        };
        let _ = hub.post(Box::new(move |hub, now| match made {
            Ok((link, remote)) => hub
                .peer_link_up(attempt, remote, now)
                .map_or(Install::Nothing, |id| Install::Link(id, link)),
            Err(why) => {
                hub.peer_link_failed(attempt, why, now);
                Install::Nothing
            }
        }));
    }

    /// A link for a node on the connection of its lane.
    async fn link_by(
        &self,
        way: &Way,
        node: &NodeName,
        replica: ReplicaId,
    ) -> Result<Link, LinkLoss> {
        let index = self.lanes().index(node);
        let connection = way.lane(index);
        let token = authorization(&self.cluster().token);
        let open = async {
            let make = || {
                let lane = self.lanes().of(node);
                self.cluster().connector.connect_more(way.remote, lane)
            };
            let peer = connection.get_or_try_init(make).await;
            let peer = peer.map_err(|failed| failed.why)?;
            peer.open(token, Some(node))
                .await
                .map_err(|loss| loss.to_core())
        };
        let made = match tokio::time::timeout(LINK_TIMEOUT, open).await {
            Ok(Ok((link, there))) if there == replica => Ok(link),
            // Another process has its address by now.
            Ok(Ok(_)) => Err(LinkLoss::Refused),
            Ok(Err(why)) => Err(why),
            Err(_) => Err(LinkLoss::Silent),
        };
        if made.is_err() {
            way.renew(index, &connection);
        }
        made
    }

    fn held(&self, node: &NodeName, held: Vec<Held>) {
        let cluster = self.cluster();
        cluster.registry.set(node, &held);
        if !cluster.is_alone {
            let node = node.clone();
            cluster.tell(move |peers, _| peers.held(&node, held));
        }
    }

    fn find(self: &Arc<Self>, node: &NodeName) {
        let asked = self.cluster().answers().ask(node, self.clock().now());
        match asked {
            Ask::Known(addresses) => {
                let found = self.cluster().ways().at(&addresses);
                self.tell_hub(node, |hub, now| hub.handle_found(found, now));
            }
            Ask::Waiting => {}
            Ask::Now => {
                let (replica, node) = (self.clone(), node.clone());
                tokio::spawn(async move { replica.look_up(node).await });
            }
        }
    }

    async fn look_up(&self, node: NodeName) {
        let cluster = self.cluster();
        let Answer {
            source,
            result: found,
        } = cluster.registry.find(&node).await;
        let result = found.as_ref().map_or_else(|not| not.as_str(), |_| "ok");
        self.metrics().registry_asked(source, result);
        let now = self.clock().now();
        let addresses = cluster
            .answers()
            .answered(&node, found.unwrap_or_default(), now);
        let (found, strangers) = {
            let ways = cluster.ways();
            (ways.at(&addresses), ways.strangers(&addresses))
        };
        if !strangers.is_empty() {
            cluster.stranger.notify_one();
        }
        for address in strangers {
            cluster.registry.wrong(&node, address);
        }
        self.tell_hub(&node, |hub, now| hub.handle_found(found, now));
    }
}
