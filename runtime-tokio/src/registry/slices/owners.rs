//! Slices that belong to nobody: whoever finds them takes them away.
//!
//! Usually a slice goes with its Pod, by the cluster's own hand. Not where that is broken, and not while a Pod that has failed
//! or was evicted still stands in the books.
use std::sync::Arc;

use kube::core::params::{DeleteParams, Preconditions};

use super::Shared;
use super::object::Owner;
use crate::kubernetes::Error;

/// Asks for ever.
pub(super) async fn run(shared: Arc<Shared>) {
    loop {
        let (owner, deadline) = {
            let state = &mut *shared.state();
            let owner = state.owners.poll_ask(shared.clock.now());
            (owner, state.owners.deadline())
        };
        let Some(owner) = owner else {
            tokio::select! {
                () = shared.sleep_until(deadline) => {}
                () = shared.to_ask.notified() => {}
            }
            continue;
        };
        let settled = shared.settle_owner(&owner).await;
        if let Err(error) = &settled {
            tracing::debug!(%error, pod = owner.pod, "whether a replica is still there can't be told");
        }
        let now = shared.clock.now();
        let state = &mut *shared.state();
        state.owners.handle_asked(&owner, settled.is_ok(), now);
    }
}

impl Shared {
    async fn settle_owner(&self, owner: &Owner) -> Result<(), Error> {
        if self.is_there(owner).await? {
            return Ok(());
        }
        let slices = self.state().table.of(owner);
        for (name, version) in slices {
            tracing::info!(
                slice = name,
                pod = owner.pod,
                "nodes of a replica that is gone are taken away"
            );
            // Not if somebody has made it his meanwhile.
            let params = DeleteParams::default().preconditions(Preconditions {
                resource_version: Some(version),
                uid: None,
            });
            match self.slices.delete(&name, &params).await {
                Err(error) if error.is_missing() => {}
                other => other?,
            }
            self.metrics.registry_wrote("ok");
        }
        Ok(())
    }

    async fn is_there(&self, owner: &Owner) -> Result<bool, Error> {
        // Nobody's.
        if owner.pod.is_empty() {
            return Ok(false);
        }
        let pod = match self.pods.get(&owner.pod).await {
            Ok(pod) => pod,
            Err(error) if error.is_missing() => return Ok(false),
            Err(error) => return Err(error),
        };
        let phase = pod.status.and_then(|status| status.phase);
        let has_ended = matches!(phase.as_deref(), Some("Failed" | "Succeeded"));
        Ok(pod.metadata.uid.as_deref() == Some(&owner.uid) && !has_ended)
    }
}
