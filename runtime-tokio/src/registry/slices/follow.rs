//! Reading everybody's slices, and hearing of their changes.
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use kube::core::params::{ListParams, WatchParams};
use proto_core::Instant;
use proto_core::registry::FollowLoss;

use super::object::{Owner, Seen, is_later, selector};
use super::table::Changed;
use super::{Shared, State};
use crate::kubernetes::{Change, Error, Why};

/// A watch that the server ends sooner was none.
const WATCH_MIN: Duration = Duration::from_secs(1);

/// Follows for ever, as far as it is let.
pub(super) async fn run(shared: Arc<Shared>) {
    let mut told = None;
    loop {
        let (begin, deadline) = {
            let state = &mut *shared.state();
            let begin = state.sources.poll_follow(shared.clock.now());
            (begin, state.sources.deadline())
        };
        if !begin {
            shared.sleep_until(deadline).await;
            continue;
        }
        let (loss, why) = shared.follow().await;
        shared.looked.send_replace(true);
        let is_new = told.replace(loss) != Some(loss);
        if is_new && loss == FollowLoss::Forbidden {
            tracing::warn!(
                why,
                "the other replicas' nodes can't be followed: DNS is asked instead"
            );
        } else {
            tracing::debug!(why, "the other replicas' nodes are not followed");
        }
        let now = shared.clock.now();
        shared.state().sources.handle_lost(loss, now);
    }
}

fn loss(error: &Error) -> (FollowLoss, String) {
    let loss = match error.why() {
        Why::Refused(_) if error.is_forbidden() => FollowLoss::Forbidden,
        Why::Unreachable(_) | Why::Silent(_) => FollowLoss::Unreachable,
        Why::Refused(_) | Why::Unintelligible(_) => FollowLoss::Broken,
    };
    (loss, error.to_string())
}

impl Shared {
    /// Reads all there is, then hears what changes, until that fails.
    async fn follow(&self) -> (FollowLoss, String) {
        if let Err(error) = self.uid().await {
            tracing::debug!(%error, "this replica's Pod is not known");
        }
        if let Err(error) = self.look().await {
            return loss(&error);
        }
        self.looked.send_replace(true);
        let params = WatchParams::default().labels(&selector(&self.service));
        loop {
            let version = self.state().table.version().to_owned();
            let mut watching = match self.slices.watch(&params, &version).await {
                Ok(watching) => watching,
                Err(error) => return loss(&error),
            };
            let begun = self.clock.now();
            if !self.state().sources.is_followed() {
                self.state().sources.handle_followed(begun);
                tracing::debug!("the replicas' nodes are followed");
            }
            loop {
                match watching.next().await {
                    Some(Ok(change)) => self.change(change),
                    Some(Err(error)) => return loss(&error),
                    None => break,
                }
            }
            // The server ends it every few minutes; at once, it means something else.
            let lasted = self.clock.now().saturating_duration_since(begun);
            if lasted < WATCH_MIN {
                return (FollowLoss::Broken, "a watch ended at once".to_owned());
            }
        }
    }

    /// Reads all there is.
    pub(super) async fn look(&self) -> Result<(), Error> {
        let params = ListParams::default().labels(&selector(&self.service));
        let list = self.slices.list(&params).await?;
        let version = list.metadata.resource_version.unwrap_or_default();
        let all: Vec<Seen> = list.items.into_iter().map(Seen::of).collect();
        let now = self.clock.now();
        let owner = self.owner();
        let is_first = !*self.looked.borrow();
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
        self.to_write.notify_one();
        self.to_ask.notify_one();
        Ok(())
    }

    fn change(&self, change: Change<k8s_openapi::api::discovery::v1::EndpointSlice>) {
        let (now, owner) = (self.clock.now(), self.owner());
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
            self.to_write.notify_one();
        }
        self.to_ask.notify_one();
    }
}

impl State {
    /// Owners of others' slices have come and gone.
    fn owners(&mut self, changed: Changed, own: &Owner, is_old: bool, now: Instant) {
        for owner in changed.went {
            self.owners.handle_gone(&owner);
        }
        for owner in changed.came.iter().filter(|owner| *owner != own) {
            self.owners.handle_seen(owner, is_old, now);
        }
    }

    /// A slice of this replica's was seen, or seen to be gone.
    fn see(&mut self, number: u32, version: String, seen: Option<Seen>) {
        self.seen.insert(number, (version, seen));
    }

    /// Tells the core of this replica's slices what is no echo of its own writes: so not while one is under way.
    pub(super) fn settle(&mut self, address: IpAddr, owner: &Owner, now: Instant) {
        if self.is_writing {
            return;
        }
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
                    self.slices.handle_seen(number, nodes, is_exact, now);
                }
                None => {
                    self.versions.remove(&number);
                    self.slices.handle_missing(number, now);
                }
            }
        }
    }
}
