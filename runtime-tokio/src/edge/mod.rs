//! The edge on tokio, on one thread: its link, its sockets, its admin pages.
mod dial;
mod shell;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use proto_core::auth::EdgeBearer;
use proto_core::connect::ProxyCredentials;
use proto_core::edge::EdgeConfig;
use proto_core::target::Targets;
use proto_core::{Budget, Edge, Machine};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use crate::admin::{self, Answer, Login, Source, api};
use crate::clock::Clock;
use crate::driver::{Driver, Install, Mailbox};
use crate::metrics::Metrics;
use crate::net::options;
use crate::uplink::{CloudAddresses, Connector, Credential, FIELDS_BYTES_MAX, follow_network};
use shell::EdgeShell;

/// What an edge is told at its start, and how it is told of what changes.
pub struct Settings {
    /// For the core.
    pub edge: EdgeConfig,
    /// All buffers of the process.
    pub buffers_bytes_max: u64,
    /// Where the cloud is.
    pub cloud: CloudAddresses,
    /// TLS for links.
    pub tls: watch::Receiver<Arc<rustls::ClientConfig>>,
    /// The node's token; none: its certificate says who it is.
    pub bearer: watch::Receiver<Option<EdgeBearer>>,
    /// What may be dialed, when that changes.
    pub targets: watch::Receiver<Targets>,
    /// The admin listener.
    pub admin: Option<SocketAddr>,
    /// A Unix socket with the same pages.
    pub admin_socket: Option<PathBuf>,
    /// Where it counts.
    pub metrics: Arc<Metrics>,
}

/// An edge that runs.
pub struct Running {
    mailbox: Arc<Mailbox<Edge>>,
    driver: JoinHandle<()>,
    tasks: JoinSet<()>,
    /// Of the admin listener.
    pub admin: Option<SocketAddr>,
    /// Whether the link is up.
    pub linked: watch::Receiver<bool>,
}

/// Starts an edge. Nothing waits for the cloud; an error names the admin listener's address.
pub async fn start(settings: Settings) -> io::Result<Running> {
    let admin = settings.admin.map(options::listen).transpose()?;
    let admin_socket = settings.admin_socket.as_deref();
    let admin_socket = admin_socket.map(options::listen_at).transpose()?;
    let admin_address = admin
        .as_ref()
        .map(tokio::net::TcpListener::local_addr)
        .transpose()?;
    let (clock, mailbox) = (Clock::start(), Mailbox::new());
    let (tell_linked, linked) = watch::channel(false);
    let node = settings.edge.node.clone();
    let connector = Connector::new(
        settings.cloud,
        settings.tls,
        Credential::Edge(settings.bearer),
        settings.edge.limits.links.message_bytes_max + FIELDS_BYTES_MAX,
    );
    let machine = Edge::new(
        settings.edge,
        Budget::new(settings.buffers_bytes_max),
        crate::seed(),
        clock.now(),
    );
    let shell = EdgeShell::new(
        node,
        connector,
        mailbox.clone(),
        tell_linked,
        settings.metrics.clone(),
        clock,
    );
    let driver = tokio::spawn(Driver::new(machine, shell, clock, mailbox.clone()).run());
    let mut tasks = JoinSet::new();
    tasks.spawn(follow_targets(settings.targets, mailbox.clone()));
    tasks.spawn(follow_network(mailbox.clone()));
    let pages: Arc<dyn Source> = Arc::new(Pages {
        mailbox: mailbox.clone(),
        linked: linked.clone(),
        metrics: settings.metrics,
        clock,
    });
    if let Some(listener) = admin {
        tasks.spawn(serve(Box::pin(admin::run(listener, pages.clone()))));
    }
    if let Some(listener) = admin_socket {
        tasks.spawn(serve(Box::pin(admin::run_at(listener, pages))));
    }
    Ok(Running {
        mailbox,
        driver,
        tasks,
        admin: admin_address,
        linked,
    })
}

impl Running {
    /// Leaves in good order: nothing new, and what is open goes on until it ends or its time is over. `ended` waits for
    /// that.
    pub fn drain(&self) {
        let _ = self.mailbox.post(Box::new(|edge, now| {
            edge.drain(now);
            Install::Nothing
        }));
    }

    /// Waits for the edge's end: after `drain`.
    pub async fn ended(&mut self) {
        let _ = (&mut self.driver).await;
    }

    /// How many streams there are.
    pub async fn streams(&self) -> usize {
        let streams = self.mailbox.ask(|edge, _| edge.stream_infos().len());
        streams.await.unwrap_or_default()
    }

    /// Ends the streams and the link now, but doesn't wait for longer than `patience`.
    pub async fn shut_down(mut self, patience: Duration) {
        self.tasks.shutdown().await;
        let told = self.mailbox.post(Box::new(|edge, now| {
            edge.shut_down(now);
            Install::Nothing
        }));
        if told.is_ok() {
            let _ = tokio::time::timeout(patience, self.driver).await;
        }
    }
}

async fn serve(serving: Answer<io::Result<()>>) {
    if let Err(error) = serving.await {
        tracing::error!(%error, "the admin listener failed");
    }
}

async fn follow_targets(mut targets: watch::Receiver<Targets>, mailbox: Arc<Mailbox<Edge>>) {
    while targets.changed().await.is_ok() {
        let targets = targets.borrow_and_update().clone();
        let _ = mailbox.post(Box::new(move |edge, _| {
            edge.set_targets(targets);
            Install::Nothing
        }));
    }
}

/// What the edge's admin pages show.
struct Pages {
    mailbox: Arc<Mailbox<Edge>>,
    linked: watch::Receiver<bool>,
    metrics: Arc<Metrics>,
    clock: Clock,
}

impl Source for Pages {
    fn is_ready(&self) -> bool {
        *self.linked.borrow()
    }

    fn refresh(&self) -> Answer<()> {
        let (mailbox, metrics) = (self.mailbox.clone(), self.metrics.clone());
        Box::pin(async move {
            let infos = mailbox
                .ask(|edge, _| edge.stream_infos())
                .await
                .unwrap_or_default();
            metrics.set_streams(infos.iter().map(|info| info.state.as_str()));
        })
    }

    fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    fn nodes(&self) -> Answer<Vec<api::Node>> {
        // An edge knows of no node but itself, and `tunnel` asks the cloud.
        Box::pin(std::future::ready(Vec::new()))
    }

    fn streams(&self) -> Answer<Vec<api::Stream>> {
        let (mailbox, clock) = (self.mailbox.clone(), self.clock);
        Box::pin(async move {
            let infos = mailbox
                .ask(|edge, _| edge.stream_infos())
                .await
                .unwrap_or_default();
            infos
                .into_iter()
                .map(|info| admin::infos::stream(info, &clock))
                .collect()
        })
    }

    fn login(&self, _: ProxyCredentials) -> Answer<Login> {
        // An edge has no users: its API is for loopback.
        Box::pin(std::future::ready(Login::Wrong))
    }
}
