//! What nobody owns any more: whoever finds it takes it away.
//!
//! A slice usually goes with its Pod, by the cluster's own hand. Not where that is broken, and not while a Pod that has failed
//! or was evicted still stands in the books. Lines in a ConfigMap never go by themselves.
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;

use super::{Common, Failure, Kept, Owner};
use crate::kubernetes::Error;

/// Asks for ever.
pub(super) async fn run<K: Kept>(kept: Arc<K>) {
    let common = kept.common();
    loop {
        let (owner, deadline) = kept.core(|core| {
            let owner = core.owners.poll_ask(common.now());
            (owner, core.owners.deadline())
        });
        let Some(owner) = owner else {
            tokio::select! {
                () = common.sleep_until(deadline) => {}
                () = common.to_ask.notified() => {}
            }
            continue;
        };
        let settled = settle(&*kept, &owner).await;
        if let Err(error) = &settled {
            tracing::debug!(%error, pod = owner.pod, "whether a replica is still there can't be told");
        }
        let now = common.now();
        kept.core(|core| core.owners.handle_asked(&owner, settled.is_ok(), now));
    }
}

async fn settle<K: Kept>(kept: &K, owner: &Owner) -> Result<(), Failure> {
    match kept.common().is_there(owner).await? {
        true => Ok(()),
        false => kept.take_away(owner).await,
    }
}

impl Common {
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
        Ok(pod.metadata.uid.as_deref() == Some(&owner.uid) && !has_ended(&pod))
    }
}

/// It still stands in the books, and runs no more.
pub(in crate::registry) fn has_ended(pod: &Pod) -> bool {
    let phase = pod
        .status
        .as_ref()
        .and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Failed" | "Succeeded"))
}
