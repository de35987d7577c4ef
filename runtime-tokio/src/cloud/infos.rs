//! What the API tells of nodes and streams: each hub is asked, and answers for its own.
use std::collections::HashMap;
use std::sync::Arc;

use futures_util::future::join_all;
use proto_core::name::NodeName;
use proto_core::output::LinkInfo;
use proto_core::{LinkKind, Machine};

use super::replica::Replica;
use crate::admin::{self, api};

impl Replica {
    /// Every known node, in the order of their names.
    pub(super) async fn node_infos(self: Arc<Self>) -> Vec<api::Node> {
        let known: Vec<_> = self.with_cloud(|cloud| {
            cloud
                .nodes()
                .map(|(node, here, lost)| (node.clone(), here, lost))
                .collect()
        });
        let asked = self.hubs().into_iter().map(async |(node, hub)| {
            (
                node,
                hub.ask(|hub, _| {
                    let mut links = hub.link_infos();
                    links.retain(|link| link.kind == LinkKind::Edge);
                    (hub.node().clone(), links)
                })
                .await,
            )
        });
        let mut hubs: HashMap<NodeName, (NodeName, Vec<LinkInfo>)> = join_all(asked)
            .await
            .into_iter()
            .filter_map(|(node, answer)| Some((node, answer?)))
            .collect();
        let mut nodes: Vec<_> = known
            .into_iter()
            .map(|(node, here, lost)| match hubs.remove(&node) {
                Some((spelling, links)) if here => self.online(&spelling, &links),
                Some(_) | None => api::Node {
                    name: node.to_string(),
                    state: "offline".to_owned(),
                    since: lost.map(|at| at.date_time().to_string()),
                    ..api::Node::default()
                },
            })
            .collect();
        nodes.sort_by(|a, b| a.name.cmp(&b.name));
        nodes
    }

    fn online(&self, node: &NodeName, links: &[LinkInfo]) -> api::Node {
        let newest = links.iter().max_by_key(|link| link.up_at);
        api::Node {
            name: node.to_string(),
            state: "online".to_owned(),
            since: newest.map(|link| self.clock().wall_at(link.up_at).date_time().to_string()),
            instance: newest
                .and_then(|link| link.instance.as_ref())
                .map(|instance| instance.to_string()),
            replica: Some(self.name().to_owned()),
            dialect: newest.map(|link| link.dialect.as_str().to_owned()),
            remote: newest.map(|link| link.remote.clone()),
            rtt_ms: newest
                .and_then(|link| link.round_trip)
                .map(|rtt| rtt.as_secs_f64() * 1000.0),
            streams: links.iter().map(|link| link.streams as u64).sum(),
        }
    }

    /// Every stream, the oldest first.
    pub(super) async fn stream_infos(self: Arc<Self>) -> Vec<api::Stream> {
        let asked = self.hubs().into_iter().map(async |(_, hub)| {
            hub.ask(|hub, _| hub.stream_infos())
                .await
                .unwrap_or_default()
        });
        let mut infos: Vec<_> = join_all(asked).await.into_iter().flatten().collect();
        infos.sort_by_key(|info| info.opened_at);
        infos
            .into_iter()
            .map(|info| admin::infos::stream(info, self.clock()))
            .collect()
    }
}
