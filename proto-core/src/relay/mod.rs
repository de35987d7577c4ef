//! The streams that a replica passes between two links of one node: routes by (link, topic, epoch), with room of their own
//! and no replay (PROTOCOL.md, "Relays").

mod lane;
pub(crate) mod route;

use crate::name::Topic;
use crate::output::{LinkId, StreamId};
use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use route::{Route, Toward, half_id};

/// A route's name on one of its links.
pub(crate) type Claim = (LinkId, Topic, u32);

/// The routes of one node at one replica.
#[derive(Debug, Default)]
pub(crate) struct Routes {
    routes: BTreeMap<StreamId, Box<Route>>,
    claims: BTreeMap<Claim, StreamId>,
}

impl Routes {
    pub(crate) fn is_empty(&self) -> bool {
        self.routes.is_empty()
    }

    /// Takes a claim in; it must be new on its link.
    pub(crate) fn insert(&mut self, id: StreamId, route: Route) {
        let claim = (route.opener, route.topic.clone(), route.epoch);
        self.claims.insert(claim, id);
        self.routes.insert(id, Box::new(route));
    }

    /// Leads a route on by this link. False: the link has one of this name.
    pub(crate) fn lead(&mut self, id: StreamId, link: LinkId) -> bool {
        let Some(route) = self.routes.get_mut(&id) else {
            return false;
        };
        let claim = (link, route.topic.clone(), route.epoch);
        if self.claims.contains_key(&claim) {
            return false;
        }
        self.claims.insert(claim, id);
        route.acceptor = Some(link);
        true
    }

    /// The route's way was wrong. False: nothing was kept to ask again with.
    pub(crate) fn ask_again(&mut self, id: StreamId) -> bool {
        let Some(route) = self.routes.get_mut(&id) else {
            return false;
        };
        if let Some(link) = route.acceptor {
            self.claims
                .remove(&(link, route.topic.clone(), route.epoch));
        }
        route.ask_again()
    }

    pub(crate) fn find(&self, claim: &Claim) -> Option<StreamId> {
        self.claims.get(claim).copied()
    }

    pub(crate) fn get(&self, id: StreamId) -> Option<&Route> {
        self.routes.get(&id).map(|route| &**route)
    }

    pub(crate) fn get_mut(&mut self, id: StreamId) -> Option<&mut Route> {
        self.routes.get_mut(&id).map(|route| &mut **route)
    }

    /// The route that has this half.
    pub(crate) fn of_half(&self, half: StreamId) -> Option<(StreamId, Toward)> {
        if self.routes.contains_key(&half) {
            return Some((half, Toward::Acceptor));
        }
        let id = StreamId(half.0.checked_sub(1)?);
        (self.routes.contains_key(&id) && half == half_id(id, Toward::Opener))
            .then_some((id, Toward::Opener))
    }

    pub(crate) fn remove(&mut self, id: StreamId) -> Option<Route> {
        let route = self.routes.remove(&id)?;
        for link in [Some(route.opener), route.acceptor].into_iter().flatten() {
            let claim = (link, route.topic.clone(), route.epoch);
            if self.claims.get(&claim) == Some(&id) {
                self.claims.remove(&claim);
            }
        }
        Some(*route)
    }

    /// The routes that lead over a link.
    pub(crate) fn of_link(&self, link: LinkId) -> Vec<StreamId> {
        let all = self.routes.iter();
        all.filter(|(_, route)| route.opener == link || route.acceptor == Some(link))
            .map(|(id, _)| *id)
            .collect()
    }

    pub(crate) fn count_of_link(&self, link: LinkId) -> usize {
        let all = self.routes.values();
        all.filter(|route| route.opener == link || route.acceptor == Some(link))
            .count()
    }

    /// Older attachments of a topic: once a newer one is answered they have no more use.
    pub(crate) fn older(&self, topic: &Topic, epoch: u32) -> Vec<StreamId> {
        let all = self.routes.iter();
        all.filter(|(_, route)| route.topic == *topic && route.epoch < epoch)
            .map(|(id, _)| *id)
            .collect()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (StreamId, &Route)> {
        self.routes.iter().map(|(id, route)| (*id, &**route))
    }
}
