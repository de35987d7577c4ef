//! Connections from other replicas: each of their requests becomes a link, of the node's hub or of `Peers`.
use std::net::SocketAddr;
use std::sync::Arc;

use proto_core::ReplicaId;
use proto_core::auth::Secret;
use proto_core::name::NodeName;

use super::{Cluster, Replica};
use crate::driver::Install;
use crate::grpc::server::Incoming;
use crate::grpc::{LinkRequest, code, peer::PeerRequest};

impl Cluster {
    /// Whether a request shows the cluster's token. In constant time for tokens of the same length.
    pub(in crate::cloud) fn shows_token(&self, request: &LinkRequest) -> bool {
        let token = self.token.borrow();
        let shown = request
            .authorization()
            .and_then(|value| std::str::from_utf8(value).ok())
            .and_then(|value| value.strip_prefix("Bearer "));
        match (&*token, shown) {
            (Some(token), Some(shown)) => *token == Secret::new(shown.to_owned()),
            _ => false,
        }
    }

    /// Whether tokens make replicas.
    pub(in crate::cloud) fn has_token(&self) -> bool {
        self.token.borrow().is_some()
    }
}

/// Serves a connection of another replica's until it ends. `by_certificate`: it has proved that already, for all of its links.
pub(in crate::cloud) async fn serve(
    replica: Arc<Replica>,
    incoming: Incoming,
    by_certificate: bool,
    remote: SocketAddr,
) {
    let (first, mut requests) = incoming.into_peer();
    take(&replica, first, by_certificate, remote);
    while let Some(request) = requests.next().await {
        take(&replica, request, by_certificate, remote);
    }
    tracing::debug!(%remote, "a connection of another replica's has ended");
}

fn take(replica: &Arc<Replica>, asked: PeerRequest, by_certificate: bool, remote: SocketAddr) {
    let request = asked.request();
    let is_peer = request.kind() == Some(b"peer")
        && (by_certificate || replica.cluster().shows_token(request));
    if !is_peer {
        replica.metrics().link_asked("peer", "unauthenticated");
        let text = "the credential is missing or wrong";
        return asked.refuse(code::UNAUTHENTICATED, text, None);
    }
    let (Ok(node), Some(from), true) =
        (request.node(), request.replica(), request.offers_version1())
    else {
        replica.metrics().link_asked("peer", "refused");
        let text = "a replica's link has tunnel-protocol, tunnel-replica, and a node's name if any";
        return asked.refuse(code::INVALID_ARGUMENT, text, None);
    };
    match node {
        Some(node) => take_for_node(replica, asked, &node, remote),
        None => take_control(replica, asked, from, remote),
    }
}

/// A link by which the other replica's streams go to a node that this one holds.
fn take_for_node(replica: &Arc<Replica>, asked: PeerRequest, node: &NodeName, remote: SocketAddr) {
    let cluster = replica.cluster();
    match asked.accept(cluster.me, cluster.message_bytes_max) {
        Ok(link) => replica.post(
            node,
            Box::new(move |hub, now| Install::Link(hub.peer_up(remote.to_string(), now), link)),
        ),
        Err(error) => tracing::debug!(%node, %error, "a link was lost before it was up"),
    }
}

/// The link on which the other replica says what it holds.
fn take_control(replica: &Replica, asked: PeerRequest, from: ReplicaId, remote: SocketAddr) {
    let cluster = replica.cluster();
    let link = match asked.accept(cluster.me, cluster.message_bytes_max) {
        Ok(link) => link,
        Err(error) => {
            return tracing::debug!(%error, "a link was lost before it was up");
        }
    };
    if cluster.ways().to(from).is_none() {
        cluster.stranger.notify_one();
    }
    let _ = cluster.mailbox.post(Box::new(move |peers, now| {
        match peers.link_made(from, remote.to_string(), now) {
            Some(id) => Install::Link(id, link),
            None => Install::Nothing,
        }
    }));
}
