//! Which connections lead to which replica.
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use proto_core::registry::{believed, strangers};
use proto_core::{LinkId, ReplicaId};

use tokio::sync::OnceCell;

use crate::grpc::peer::PeerConnection;

/// A connection that is made when it is first of use, by whoever is first.
type Lazy = Arc<OnceCell<PeerConnection>>;

/// The way to a replica: where its control link leads, and for each lane a connection for the links of its nodes.
///
/// One connection for all lanes would be driven in one of them, and each message of the others' cost a wake between threads: a
/// relayed stream was half as fast.
#[derive(Clone)]
pub(super) struct Way {
    pub(super) remote: SocketAddr,
    lanes: Arc<[Mutex<Lazy>]>,
}

impl Way {
    /// To a replica that a control link leads to.
    pub(super) fn new(remote: SocketAddr, lanes: usize) -> Way {
        Way {
            remote,
            lanes: (0..lanes).map(|_| Mutex::default()).collect(),
        }
    }

    /// The connection of this lane; to be made, if it isn't yet.
    pub(super) fn lane(&self, lane: usize) -> Lazy {
        self.lane_mut(lane).clone()
    }

    /// That connection proved useless: the next link is for a new one.
    pub(super) fn renew(&self, lane: usize, useless: &Lazy) {
        let mut current = self.lane_mut(lane);
        if Arc::ptr_eq(&current, useless) {
            *current = Lazy::default();
        }
    }

    fn lane_mut(&self, lane: usize) -> std::sync::MutexGuard<'_, Lazy> {
        let lane = &self.lanes[lane % self.lanes.len()];
        lane.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The ways, by the replicas and by the control links.
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

    /// Its control link has ended. The links of nodes live on for as long as their connections do.
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

    /// Which of its addresses lead to nobody.
    pub(super) fn strangers(&self, addresses: &[IpAddr]) -> Vec<IpAddr> {
        strangers(
            addresses,
            self.by_replica.values().map(|way| way.remote.ip()),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lanes_connection_is_renewed_by_who_found_it_useless_and_by_nobody_later() {
        let way = Way::new(SocketAddr::from(([127, 0, 0, 1], 9000)), 2);
        let (first, other) = (way.lane(0), way.lane(1));
        assert!(
            Arc::ptr_eq(&first, &way.lane(0)),
            "one for all of the lane's nodes"
        );
        way.renew(0, &first);
        let second = way.lane(0);
        assert!(!Arc::ptr_eq(&first, &second));
        way.renew(0, &first);
        assert!(Arc::ptr_eq(&second, &way.lane(0)), "it is another by now");
        assert!(Arc::ptr_eq(&other, &way.lane(1)));
    }
}
