//! Look-ups: from what is followed, from DNS, or from the API server itself, as the core says.
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use proto_core::name::NodeName;
use proto_core::registry::Source;
use tokio::sync::oneshot;

use super::{Kept, Refreshes};
use crate::registry::{Answer, NotFound};

/// How long a look-up waits for the API server: a CONNECT waits for the look-up.
const REFRESH_TIMEOUT: Duration = Duration::from_secs(2);

/// Asks one source after the other.
pub(super) async fn find<K: Kept>(kept: &K, node: &NodeName) -> Answer {
    let common = kept.common();
    let order = kept.core(|core| core.sources.order(node, common.now()));
    let mut last = Answer {
        source: Source::Watch.as_str(),
        result: Err(NotFound::Failed),
    };
    for (place, source) in order.iter().enumerate() {
        let result = match source {
            Source::Watch => known(kept, node),
            Source::Dns => by_dns(kept, node).await,
            Source::Api => by_api(kept, node).await,
        };
        last = Answer {
            source: source.as_str(),
            result,
        };
        if last.result != Err(NotFound::Failed) {
            break;
        }
        if place + 1 < order.len() {
            common
                .metrics
                .registry_asked(last.source, NotFound::Failed.as_str());
        }
    }
    last
}

/// From what is followed, or was until a moment ago: then it says nothing of who isn't there.
fn known<K: Kept>(kept: &K, node: &NodeName) -> Result<Vec<IpAddr>, NotFound> {
    match kept.known(node) {
        Some(found) if !found.is_empty() => Ok(found),
        Some(_) if kept.core(|core| core.sources.is_followed()) => Err(NotFound::Nobody),
        _ => Err(NotFound::Failed),
    }
}

async fn by_dns<K: Kept>(kept: &K, node: &NodeName) -> Result<Vec<IpAddr>, NotFound> {
    let Some(dns) = &kept.common().dns else {
        return Err(NotFound::Failed);
    };
    dns.addresses(&kept.dns_name(node)).await
}

async fn by_api<K: Kept>(kept: &K, node: &NodeName) -> Result<Vec<IpAddr>, NotFound> {
    let (done, is_done) = oneshot::channel();
    if kept.common().refreshes.try_send(done).is_err() {
        return Err(NotFound::Failed);
    }
    match tokio::time::timeout(REFRESH_TIMEOUT, is_done).await {
        Ok(Ok(())) => {}
        Ok(Err(_)) | Err(_) => return Err(NotFound::Failed),
    }
    match kept.known(node) {
        Some(found) if !found.is_empty() => Ok(found),
        Some(_) => Err(NotFound::Nobody),
        None => Err(NotFound::Failed),
    }
}

/// Reads all of the registry for those who ask, once for all who wait.
pub(super) async fn refresh<K: Kept>(kept: Arc<K>, mut asked: Refreshes) {
    while let Some(first) = asked.recv().await {
        let now = kept.common().now();
        let is_due = kept.core(|core| core.sources.poll_list(now));
        if is_due && let Err(error) = kept.look().await {
            tracing::debug!(%error, "the replicas' nodes could not be read");
            drop(first);
            while let Ok(waiting) = asked.try_recv() {
                drop(waiting);
            }
            continue;
        }
        let _ = first.send(());
        while let Ok(waiting) = asked.try_recv() {
            let _ = waiting.send(());
        }
    }
}
