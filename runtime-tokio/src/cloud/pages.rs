//! What the cloud's admin pages show.
use std::sync::Arc;
use std::time::Duration;

use proto_core::connect::ProxyCredentials;

use super::replica::Replica;
use super::{Denial, Directory};
use crate::admin::{Answer, Login, Source, api};
use crate::metrics::Metrics;

pub(super) struct Pages {
    pub(super) replica: Arc<Replica>,
    pub(super) directory: Arc<dyn Directory>,
    pub(super) drain_jitter: Duration,
}

impl Source for Pages {
    fn is_ready(&self) -> bool {
        // It listens; whether edges come is nothing that a restart or a balancer could change.
        !self.replica.with_cloud(|cloud| cloud.is_draining())
    }

    fn refresh(&self) -> Answer<()> {
        self.replica.refresh_metrics();
        Box::pin(std::future::ready(()))
    }

    fn metrics(&self) -> &Metrics {
        self.replica.metrics()
    }

    fn nodes(&self) -> Answer<Vec<api::Node>> {
        let replica = self.replica.clone();
        Box::pin(async move { replica.node_infos().await })
    }

    fn streams(&self) -> Answer<Vec<api::Stream>> {
        let replica = self.replica.clone();
        Box::pin(async move { replica.stream_infos().await })
    }

    fn drain(&self) -> Answer<Option<api::Drain>> {
        let (replica, jitter) = (self.replica.clone(), self.drain_jitter);
        Box::pin(async move {
            replica.drain(jitter);
            Some(replica.drained().await)
        })
    }

    fn login(&self, credentials: ProxyCredentials) -> Answer<Login> {
        let user = self.directory.verify(credentials, None);
        Box::pin(async move {
            match user.await {
                Ok(user) if user.is_admin => Login::Administrator,
                Ok(_) => Login::User,
                Err(Denial::Wrong(_)) => Login::Wrong,
                Err(Denial::Unavailable(_)) => Login::Unavailable,
            }
        })
    }
}
