//! Look-ups: from what is followed, from DNS, or from the API server itself, as the core says.
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use proto_core::name::NodeName;
use proto_core::registry::{Label, Source};
use tokio::sync::{mpsc, oneshot};

use super::Shared;
use crate::registry::{Answer, NotFound};

/// How long a look-up waits for the API server: a CONNECT waits for the look-up.
const REFRESH_TIMEOUT: Duration = Duration::from_secs(2);

impl Shared {
    pub(super) async fn find(&self, node: &NodeName) -> Answer {
        let order = {
            let state = self.state();
            state.sources.order(node, self.clock.now())
        };
        let mut last = Answer {
            source: Source::Watch.as_str(),
            result: Err(NotFound::Failed),
        };
        for (place, source) in order.iter().enumerate() {
            let result = match source {
                Source::Watch => self.known(node),
                Source::Dns => self.by_dns(node).await,
                Source::Api => self.by_api(node).await,
            };
            last = Answer {
                source: source.as_str(),
                result,
            };
            if last.result != Err(NotFound::Failed) {
                break;
            }
            if place + 1 < order.len() {
                self.metrics
                    .registry_asked(last.source, NotFound::Failed.as_str());
            }
        }
        last
    }

    /// From what is followed, or was until a moment ago: then it says nothing of who isn't there.
    fn known(&self, node: &NodeName) -> Result<Vec<IpAddr>, NotFound> {
        let state = self.state();
        match state.table.find(node) {
            Some(found) if !found.is_empty() => Ok(found),
            Some(_) if state.sources.is_followed() => Err(NotFound::Nobody),
            _ => Err(NotFound::Failed),
        }
    }

    async fn by_dns(&self, node: &NodeName) -> Result<Vec<IpAddr>, NotFound> {
        let Some(dns) = &self.dns else {
            return Err(NotFound::Failed);
        };
        let name = format!("{}.{}", Label::of(node), self.dns_suffix);
        dns.addresses(&name).await
    }

    async fn by_api(&self, node: &NodeName) -> Result<Vec<IpAddr>, NotFound> {
        let (done, is_done) = oneshot::channel();
        if self.refreshes.try_send(done).is_err() {
            return Err(NotFound::Failed);
        }
        match tokio::time::timeout(REFRESH_TIMEOUT, is_done).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) | Err(_) => return Err(NotFound::Failed),
        }
        match self.state().table.find(node) {
            Some(found) if !found.is_empty() => Ok(found),
            Some(_) => Err(NotFound::Nobody),
            None => Err(NotFound::Failed),
        }
    }
}

/// Reads all of the registry for those who ask, once for all who wait.
pub(super) async fn refresh(shared: Arc<Shared>, mut asked: mpsc::Receiver<oneshot::Sender<()>>) {
    while let Some(first) = asked.recv().await {
        let is_due = {
            let now = shared.clock.now();
            shared.state().sources.poll_list(now)
        };
        if is_due && let Err(error) = shared.look().await {
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
