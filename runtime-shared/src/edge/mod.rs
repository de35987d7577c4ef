//! The edge, in one task: its link and its sockets. Its admin pages are served by its runtime.
mod dial;
mod pages;
mod shell;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use proto_core::auth::EdgeBearer;
use proto_core::edge::EdgeConfig;
use proto_core::target::Targets;
use proto_core::{Budget, Edge, Machine};
use tokio::sync::{oneshot, watch};

use crate::clock::Clock;
use crate::driver::{Driver, Install, Mailbox};
use crate::metrics::Metrics;
use crate::runtime::{Runtime, within};
use crate::uplink::{CloudAddresses, Connector, Credential, FIELDS_BYTES_MAX, follow_network};
pub use pages::Pages;
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
    /// The admin listener, for who starts it.
    pub admin: Option<SocketAddr>,
    /// A Unix socket with the same pages, likewise.
    pub admin_socket: Option<PathBuf>,
    /// Where it counts.
    pub metrics: Arc<Metrics>,
}

/// An edge that runs.
pub struct Running<R: Runtime> {
    mailbox: Arc<Mailbox<Edge, R>>,
    ended: oneshot::Receiver<()>,
    /// Until it ends by itself.
    _driver: R::Task,
    /// What serves the driver.
    tasks: Vec<R::Task>,
    /// What serves others, such as its pages.
    beside: Vec<R::Task>,
    /// Of the admin listener.
    pub admin: Option<SocketAddr>,
    /// Whether the link is up.
    pub linked: watch::Receiver<bool>,
}

/// Starts an edge and gives its pages, which are the caller's to serve. Nothing waits for the cloud.
pub fn start<R: Runtime>(settings: Settings) -> (Running<R>, Pages<R>) {
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
    let shell = EdgeShell::<R>::new(
        node,
        connector,
        mailbox.clone(),
        tell_linked,
        settings.metrics.clone(),
        clock,
    );
    let driver = Driver::new(machine, shell, clock, mailbox.clone());
    let (tell_end, ended) = oneshot::channel();
    let driver = R::spawn(async move {
        driver.await;
        let _ = tell_end.send(());
    });
    let tasks = vec![
        R::spawn(follow_targets(settings.targets, mailbox.clone())),
        R::spawn(follow_network(mailbox.clone())),
    ];
    let pages = Pages::new(mailbox.clone(), linked.clone(), settings.metrics, clock);
    let running = Running {
        mailbox,
        ended,
        _driver: driver,
        tasks,
        beside: Vec::new(),
        admin: None,
        linked,
    };
    (running, pages)
}

impl<R: Runtime> Running<R> {
    /// Something else that goes on for as long as the edge runs, such as its pages.
    pub fn beside(&mut self, serving: impl Future<Output = ()> + Send + 'static) {
        self.beside.push(R::spawn(serving));
    }

    /// Drains as another process takes its place: the pages are that one's from now on.
    pub fn hand_over(&mut self) {
        self.beside.clear();
        self.drain();
    }

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
        let _ = (&mut self.ended).await;
    }

    /// How many streams there are.
    pub async fn streams(&self) -> usize {
        let streams = self.mailbox.ask(|edge, _| edge.stream_infos().len());
        streams.await.unwrap_or_default()
    }

    /// Ends the streams and the link now, but doesn't wait for longer than `patience`.
    pub async fn shut_down(mut self, patience: Duration) {
        self.tasks.clear();
        self.beside.clear();
        let told = self.mailbox.post(Box::new(|edge, now| {
            edge.shut_down(now);
            Install::Nothing
        }));
        if told.is_ok() {
            let _ = within::<R, _>(patience, self.ended).await;
        }
    }
}

async fn follow_targets<R: Runtime>(
    mut targets: watch::Receiver<Targets>,
    mailbox: Arc<Mailbox<Edge, R>>,
) {
    while targets.changed().await.is_ok() {
        let targets = targets.borrow_and_update().clone();
        let _ = mailbox.post(Box::new(move |edge, _| {
            edge.set_targets(targets);
            Install::Nothing
        }));
    }
}
