//! The edge on tokio, on one thread, with its admin pages.
use std::io;
use std::sync::Arc;

use proto_core::connect::ProxyCredentials;
use runtime_shared::edge::Pages;
pub use runtime_shared::edge::Settings;

use crate::Tokio;
use crate::admin::{self, Answer, Login, Source, api};
use crate::metrics::Metrics;
use crate::net::options;

/// An edge that runs.
pub type Running = runtime_shared::edge::Running<Tokio>;

/// Starts an edge. Nothing waits for the cloud; an error names the admin listener's address.
pub async fn start(settings: Settings) -> io::Result<Running> {
    let admin = settings.admin.map(options::listen_beside).transpose()?;
    let admin_socket = settings.admin_socket.as_deref();
    let admin_socket = admin_socket.map(options::listen_at).transpose()?.flatten();
    let (mut running, pages) = runtime_shared::edge::start::<Tokio>(settings);
    let pages: Arc<dyn Source> = Arc::new(pages);
    if let Some(listener) = admin {
        running.admin = Some(listener.local_addr()?);
        running.beside(serve(Box::pin(admin::run(listener, pages.clone()))));
    }
    if let Some(listener) = admin_socket {
        running.beside(serve(Box::pin(admin::run_at(listener, pages))));
    }
    Ok(running)
}

async fn serve(serving: Answer<io::Result<()>>) {
    if let Err(error) = serving.await {
        tracing::error!(%error, "the admin listener failed");
    }
}

impl Source for Pages<Tokio> {
    fn is_ready(&self) -> bool {
        self.is_ready()
    }

    fn refresh(&self) -> Answer<()> {
        Box::pin(self.clone().refresh())
    }

    fn metrics(&self) -> &Metrics {
        self.metrics()
    }

    fn nodes(&self) -> Answer<Vec<api::Node>> {
        // An edge knows of no node but itself, and `tunnel` asks the cloud.
        Box::pin(std::future::ready(Vec::new()))
    }

    fn streams(&self) -> Answer<Vec<api::Stream>> {
        Box::pin(self.clone().streams())
    }

    fn login(&self, _: ProxyCredentials) -> Answer<Login> {
        // An edge has no users: its API is for loopback.
        Box::pin(std::future::ready(Login::Wrong))
    }
}
