//! Reading everybody's slices, and hearing of their changes.
use std::net::IpAddr;

use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::core::params::ListParams;
use proto_core::Instant;

use super::object::{Seen, selector};
use super::table::Changed;
use super::{EndpointSlices, State};
use crate::kubernetes::{Change, Error};
use crate::registry::kept::{Owner, is_later};

impl EndpointSlices {
    /// Reads all there is.
    pub(super) async fn look(&self) -> Result<(), Error> {
        let params = ListParams::default().labels(&selector(&self.service));
        let list = self.slices.list(&params).await?;
        let version = list.metadata.resource_version.unwrap_or_default();
        let all: Vec<Seen> = list.items.into_iter().map(Seen::of).collect();
        let now = self.common.now();
        let owner = self.common.owner();
        let is_first = !*self.common.looked.borrow();
        let state = &mut *self.state();
        let Some(changed) = state.table.replace(&all, &version) else {
            return Ok(());
        };
        state.owners(changed, &owner, is_first, now);
        let known: Vec<u32> = state.versions.keys().copied().collect();
        let mut there = Vec::new();
        for seen in all {
            if let Some(number) = self.number(&seen.name) {
                there.push(number);
                state.see(number, seen.version.clone(), Some(seen));
            }
        }
        for number in known {
            if !there.contains(&number) {
                state.see(number, version.clone(), None);
            }
        }
        state.settle(self.address, &owner, now);
        self.common.to_write.notify_one();
        self.common.to_ask.notify_one();
        Ok(())
    }

    pub(super) fn change(&self, change: Change<EndpointSlice>) {
        let (now, owner) = (self.common.now(), self.common.owner());
        let state = &mut *self.state();
        let (seen, is_there) = match change {
            Change::Applied(slice) => (Seen::of(slice), true),
            Change::Deleted(slice) => (Seen::of(slice), false),
            Change::Bookmark(version) => return state.table.advance(&version),
        };
        let changed = match is_there {
            true => state.table.apply(&seen),
            false => state.table.remove(&seen.name, &seen.version),
        };
        state.owners(changed, &owner, false, now);
        if let Some(number) = self.number(&seen.name) {
            let version = seen.version.clone();
            state.see(number, version, is_there.then_some(seen));
            state.settle(self.address, &owner, now);
            self.common.to_write.notify_one();
        }
        self.common.to_ask.notify_one();
    }
}

impl State {
    /// Owners of others' slices have come and gone.
    fn owners(&mut self, changed: Changed, own: &Owner, is_old: bool, now: Instant) {
        let owners = &mut self.core.owners;
        for owner in changed.went {
            owners.handle_gone(&owner);
        }
        for owner in changed.came.iter().filter(|owner| *owner != own) {
            owners.handle_seen(owner, is_old, now);
        }
    }

    /// A slice of this replica's was seen, or seen to be gone.
    fn see(&mut self, number: u32, version: String, seen: Option<Seen>) {
        self.seen.insert(number, (version, seen));
    }

    /// Tells the core of this replica's slices what is no echo of its own writes: so not while one is under way.
    pub(super) fn settle(&mut self, address: IpAddr, owner: &Owner, now: Instant) {
        if self.core.is_writing {
            return;
        }
        let slices = &mut self.core.slices;
        for (number, (version, seen)) in std::mem::take(&mut self.seen) {
            let known = self.versions.get(&number);
            if known.is_some_and(|known| !is_later(&version, known)) {
                continue;
            }
            match seen {
                Some(seen) => {
                    self.versions.insert(number, version);
                    let is_exact = seen.is_exact(address, owner);
                    let nodes = seen.nodes.into_iter().collect();
                    slices.handle_seen(number, nodes, is_exact, now);
                }
                None => {
                    self.versions.remove(&number);
                    slices.handle_missing(number, now);
                }
            }
        }
    }
}
