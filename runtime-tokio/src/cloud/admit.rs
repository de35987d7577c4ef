//! Links whose credential was right: admitted by the core, and given to the hub of their node.
use std::net::SocketAddr;
use std::sync::Arc;

use proto_core::cloud::LinkRefusal;
use proto_core::hub::{ClientUp, LinkUp};
use proto_core::name::NodeName;
use proto_core::{Dialect, Instance};

use super::User;
use super::replica::Replica;
use crate::driver::Install;
use crate::grpc::PingPace;
use crate::grpc::server::Incoming;

impl Replica {
    /// Admits an authenticated link and gives it to its node's hub.
    pub(super) async fn take_link(
        self: &Arc<Self>,
        node: NodeName,
        incoming: Incoming,
        remote: SocketAddr,
        message_bytes_max: usize,
    ) {
        if let Err(refusal) = self.with_cloud(|cloud| cloud.admit_link(self.clock().now())) {
            return self.refuse(incoming, "edge", refusal).await;
        }
        let version1 = incoming.request().offers_version1();
        let up = LinkUp {
            dialect: if version1 { Dialect::V1 } else { Dialect::Base },
            instance: incoming.request().instance().and_then(Instance::parse),
            spelling: node.clone(),
            remote: remote.to_string(),
            draining: version1 && incoming.request().is_draining(),
            wall_ms: self.clock().wall_ms(),
        };
        let link = match incoming.accept(version1, message_bytes_max, self.base_pace()) {
            Ok(link) => link,
            Err(error) => return tracing::debug!(%node, %error, "a link was lost before it was up"),
        };
        tracing::debug!(%node, %remote, "a link was taken");
        self.post(
            &node,
            Box::new(move |hub, now| Install::Link(hub.link_up(up, now), link)),
        );
    }

    /// Admits an authenticated client's link and gives it to the hub of the node that it is for.
    pub(super) async fn take_client(
        self: &Arc<Self>,
        node: NodeName,
        user: User,
        incoming: Incoming,
        remote: SocketAddr,
        message_bytes_max: usize,
    ) {
        let now = self.clock().now();
        let admitted = self.with_cloud(|cloud| {
            let known = (cloud.only_if_found(&node, now), cloud.offline_since(&node));
            cloud.admit_link(now).map(|()| known)
        });
        let (only_if_found, offline_since) = match admitted {
            Ok(known) => known,
            Err(refusal) => return self.refuse(incoming, "client", refusal).await,
        };
        let up = ClientUp {
            user: Some(user.name),
            rights: user.rights,
            resume: user.resume,
            remote: remote.to_string(),
            only_if_found,
            offline_since,
        };
        match incoming.accept(true, message_bytes_max, self.base_pace()) {
            Ok(link) => self.post(
                &node,
                Box::new(move |hub, now| Install::Link(hub.client_up(up, now), link)),
            ),
            Err(error) => tracing::debug!(%node, %error, "a link was lost before it was up"),
        }
    }

    pub(super) async fn refuse(
        &self,
        incoming: Incoming,
        kind: &'static str,
        refusal: LinkRefusal,
    ) {
        self.metrics().link_asked(kind, "refused");
        tracing::info!(kind, text = refusal.text, "a link was refused");
        incoming
            .refuse(refusal.code as u16, refusal.text, refusal.pushback)
            .await;
    }

    /// A base edge is pinged as often as others are asked for a heartbeat.
    fn base_pace(&self) -> PingPace {
        let links = &self.config().links;
        PingPace {
            interval: links.heartbeat_interval,
            patience: links.heartbeat_probe * links.heartbeat_missed,
        }
    }
}
