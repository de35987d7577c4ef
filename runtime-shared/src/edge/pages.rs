//! What the edge's admin pages show.
use std::sync::Arc;

use proto_core::{Edge, Machine};
use tokio::sync::watch;

use crate::admin::{api, infos};
use crate::clock::Clock;
use crate::driver::Mailbox;
use crate::metrics::Metrics;
use crate::runtime::Runtime;

/// What the edge's admin pages show.
pub struct Pages<R: Runtime> {
    mailbox: Arc<Mailbox<Edge, R>>,
    linked: watch::Receiver<bool>,
    metrics: Arc<Metrics>,
    clock: Clock,
}

impl<R: Runtime> Clone for Pages<R> {
    fn clone(&self) -> Pages<R> {
        Pages {
            mailbox: self.mailbox.clone(),
            linked: self.linked.clone(),
            metrics: self.metrics.clone(),
            clock: self.clock,
        }
    }
}

impl<R: Runtime> Pages<R> {
    pub(super) fn new(
        mailbox: Arc<Mailbox<Edge, R>>,
        linked: watch::Receiver<bool>,
        metrics: Arc<Metrics>,
        clock: Clock,
    ) -> Pages<R> {
        Pages {
            mailbox,
            linked,
            metrics,
            clock,
        }
    }

    /// The edge has a link.
    pub fn is_ready(&self) -> bool {
        *self.linked.borrow()
    }

    /// Brings up to date what is measured only when somebody looks.
    pub async fn refresh(self) {
        let infos = self.mailbox.ask(|edge, _| edge.stream_infos()).await;
        let infos = infos.unwrap_or_default();
        self.metrics
            .set_streams(infos.iter().map(|info| info.state.as_str()));
    }

    /// What is shown after that.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// The streams.
    pub async fn streams(self) -> Vec<api::Stream> {
        let infos = self.mailbox.ask(|edge, _| edge.stream_infos()).await;
        let infos = infos.unwrap_or_default().into_iter();
        infos.map(|info| infos::stream(info, &self.clock)).collect()
    }
}
