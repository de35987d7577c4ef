//! Which connection leads to which replica.
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};

use proto_core::registry::believed;
use proto_core::{LinkId, ReplicaId};

use crate::grpc::peer::PeerConnection;

/// A connection that this replica has made.
#[derive(Clone)]
pub(super) struct Way {
    pub(super) peer: PeerConnection,
    pub(super) remote: SocketAddr,
}

/// The connections, by the replicas and by the control links that they came with.
#[derive(Default)]
pub(super) struct Ways {
    by_replica: HashMap<ReplicaId, Way>,
    by_link: HashMap<LinkId, ReplicaId>,
}

impl Ways {
    pub(super) fn insert(&mut self, link: LinkId, replica: ReplicaId, way: Way) {
        self.by_link.insert(link, replica);
        self.by_replica.insert(replica, way);
    }

    /// Its control link has ended. Links that it carries end with it, each for itself.
    pub(super) fn remove(&mut self, link: LinkId) {
        if let Some(replica) = self.by_link.remove(&link) {
            self.by_replica.remove(&replica);
        }
    }

    pub(super) fn to(&self, replica: ReplicaId) -> Option<Way> {
        self.by_replica.get(&replica).cloned()
    }

    pub(super) fn address(&self, replica: ReplicaId) -> Option<IpAddr> {
        self.by_replica.get(&replica).map(|way| way.remote.ip())
    }

    /// Whom a registry's answer means.
    pub(super) fn at(&self, addresses: &[IpAddr]) -> Vec<ReplicaId> {
        let all = self.by_replica.iter();
        believed(addresses, all.map(|(id, way)| (*id, way.remote.ip())))
    }
}
