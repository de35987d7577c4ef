//! A replica that leaves: what is told to its parts, and how far it has come.
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use proto_core::cloud::Left;
use proto_core::{Machine, NodeHub};

use super::replica::{Replica, tell};
use crate::admin::api;

/// How often the hubs are asked what they still have.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);

/// The API's word for it.
const DRAINED: &str = "drained";

impl Replica {
    /// Takes nothing new, and asks all links to go elsewhere within `jitter`. The same again changes nothing.
    pub(super) fn drain(&self, jitter: Duration) {
        if !self.begin_drain(Instant::now(), jitter) {
            return;
        }
        tracing::info!("this replica is leaving; its links are asked to go elsewhere");
        for (_, hub) in self.hubs() {
            tell(&hub, move |hub, now| hub.drain(jitter, now));
        }
    }

    /// For how long it has been leaving.
    pub(super) fn draining_for(&self) -> Option<Duration> {
        self.drain_begun().map(|(begun, _)| begun.elapsed())
    }

    /// How far it has come. Links between replicas are nothing to wait for.
    pub(super) async fn drained(self: Arc<Self>) -> api::Drain {
        let asked = self
            .hubs()
            .into_iter()
            .map(async |(_, hub)| hub.ask(|hub, _| left(hub)).await.unwrap_or_default());
        let (mut links, mut streams) = (0, 0);
        for (of_links, of_streams) in join_all(asked).await {
            links += of_links;
            streams += of_streams;
        }
        let (begun, jitter) = self
            .drain_begun()
            .unwrap_or((Instant::now(), Duration::ZERO));
        let others = !self.cluster().is_alone();
        let state = match (Left { links, streams }).is_drained(others, begun.elapsed(), jitter) {
            true => DRAINED,
            false => "draining",
        };
        api::Drain {
            state: state.to_owned(),
            links,
            streams,
        }
    }

    /// Until nothing is left that would be lost.
    pub(super) async fn until_drained(self: &Arc<Self>) {
        loop {
            if self.clone().drained().await.state == DRAINED {
                return;
            }
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
    }
}

/// What a hub still has: edges' and clients' links, and streams.
fn left(hub: &NodeHub) -> (u64, u64) {
    let links = hub.link_infos();
    let links = links.iter().filter(|link| !link.kind.is_peer()).count();
    (links as u64, hub.stream_infos().len() as u64)
}
