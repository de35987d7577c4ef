//! A replica of the cloud on tokio: the listener for edges, those for CONNECT, the admin pages, and a hub for each node.
mod admit;
mod cluster;
mod connects;
mod directory;
mod drain;
mod follow;
mod hub;
mod infos;
mod links;
mod pages;
mod replica;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use proto_core::auth::Tokens;
use proto_core::cloud::{Cloud, CloudConfig};
use proto_core::{Budget, Config};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use crate::admin;
use crate::clock::Clock;
use crate::lanes::Lanes;
use crate::metrics::Metrics;
use crate::net::accept::Acceptor;
use crate::net::options;
use crate::registry::Registry;
use cluster::Cluster;
pub use cluster::PeersSettings;
pub use connects::{ConnectListener, TlsMode};
pub use directory::{Denial, Directory, Identity, User};
use replica::Replica;

/// What a replica is told at its start, and how it is told of what changes.
pub struct Settings {
    /// Limits and times of the machines.
    pub limits: Config,
    /// Limits of the replica.
    pub cloud: CloudConfig,
    /// All buffers of the process.
    pub buffers_bytes_max: u64,
    /// The listener for edges.
    pub grpc: SocketAddr,
    /// Those for CONNECT.
    pub connect: Vec<ConnectListener>,
    /// The one for operators.
    pub admin: Option<SocketAddr>,
    /// TLS for links.
    pub grpc_tls: watch::Receiver<Arc<rustls::ServerConfig>>,
    /// TLS for CONNECT.
    pub connect_tls: watch::Receiver<Arc<rustls::ServerConfig>>,
    /// Edges' tokens.
    pub tokens: watch::Receiver<Arc<Tokens>>,
    /// Users and certificates.
    pub directory: Arc<dyn Directory>,
    /// Changes when the directory's answers may have changed.
    pub users_changed: watch::Receiver<()>,
    /// Threads for the data.
    pub lanes: usize,
    /// This replica's name in the API.
    pub name: String,
    /// The other replicas.
    pub peers: PeersSettings,
    /// Who holds a node, when none of them says.
    pub registry: Arc<dyn Registry>,
    /// How it leaves.
    pub drain: Drain,
    /// Where it counts.
    pub metrics: Arc<Metrics>,
}

/// How a replica leaves.
#[derive(Clone, Copy, Debug)]
pub struct Drain {
    /// Links are asked to leave spread over so long.
    pub jitter: Duration,
    /// What is still here after so long ends.
    pub max: Duration,
}

/// A replica that listens.
pub struct Running {
    replica: Arc<Replica>,
    tasks: JoinSet<()>,
    drain: Drain,
    /// Of the listener for edges.
    pub grpc: SocketAddr,
    /// Of those for CONNECT, in order.
    pub connect: Vec<SocketAddr>,
    /// Of the one for operators.
    pub admin: Option<SocketAddr>,
}

/// Listens everywhere, or nowhere: an error names the address.
pub async fn start(settings: Settings) -> io::Result<Running> {
    let clock = Clock::start();
    let budget = Budget::new(settings.buffers_bytes_max);
    let cloud = Cloud::new(settings.cloud, budget.clone(), clock.now());
    let listening = Listening::bind(&settings)?;
    let config = Arc::new(settings.limits);
    let message_bytes_max = config.links.message_bytes_max + links::FIELDS_BYTES_MAX;
    let (cluster, unstarted) = Cluster::new(
        settings.peers,
        settings.registry,
        config.clone(),
        budget.clone(),
        message_bytes_max,
    );
    let replica = Arc::new(Replica::new(replica::Parts {
        name: settings.name,
        cloud,
        config,
        budget,
        lanes: Lanes::start(settings.lanes)?,
        clock,
        metrics: settings.metrics,
        cluster,
    }));
    unstarted.start(&replica, clock);
    let mut running = Running {
        grpc: listening.grpc.local_addr()?,
        connect: listening
            .connect
            .iter()
            .map(|(_, acceptor)| acceptor.local_addr())
            .collect::<io::Result<_>>()?,
        admin: listening
            .admin
            .as_ref()
            .map(tokio::net::TcpListener::local_addr)
            .transpose()?,
        replica: replica.clone(),
        tasks: JoinSet::new(),
        drain: settings.drain,
    };
    replica.set_tokens(&settings.tokens.borrow());
    let tasks = &mut running.tasks;
    tasks.spawn(replica.clone().follow_tokens(settings.tokens.clone()));
    tasks.spawn(
        replica
            .clone()
            .follow_users(settings.users_changed, settings.directory.clone()),
    );
    tasks.spawn(replica.clone().ask_of_users(settings.directory.clone()));
    let front = links::Front {
        replica: replica.clone(),
        tls: settings.grpc_tls,
        tokens: settings.tokens,
        directory: settings.directory.clone(),
        message_bytes_max,
    };
    tasks.spawn(links::run(Arc::new(front), listening.grpc));
    let permits = Arc::new(Semaphore::new(settings.cloud.connects_max));
    for (listener, acceptor) in listening.connect {
        let front = connects::Front {
            replica: replica.clone(),
            listener,
            tls: settings.connect_tls.clone(),
            directory: settings.directory.clone(),
            limits: settings.cloud.connect,
            permits: permits.clone(),
        };
        tasks.spawn(connects::run(Arc::new(front), acceptor));
    }
    if let Some(listener) = listening.admin {
        let pages = pages::Pages {
            replica,
            directory: settings.directory,
            drain_jitter: settings.drain.jitter,
        };
        tasks.spawn(async move {
            if let Err(error) = admin::run(listener, Arc::new(pages)).await {
                tracing::error!(%error, "the admin listener failed");
            }
        });
    }
    Ok(running)
}

impl Running {
    /// Leaves in good order: nothing new is taken, links are asked to go elsewhere, and what is here may go on. Done when
    /// nothing is left that would be lost, or when the time for that is over.
    pub async fn drain(&self) {
        self.replica.drain(self.drain.jitter);
        let left = self
            .replica
            .draining_for()
            .map_or(self.drain.max, |past| self.drain.max.saturating_sub(past));
        let _ = tokio::time::timeout(left, self.replica.until_drained()).await;
    }

    /// Stops listening, ends every stream and link in good order, and waits for that, but not for longer than `patience`.
    pub async fn shut_down(mut self, patience: Duration) {
        self.tasks.shutdown().await;
        let _ = tokio::time::timeout(patience, self.replica.shut_down()).await;
    }
}

/// All listeners, bound.
struct Listening {
    grpc: Acceptor,
    connect: Vec<(ConnectListener, Acceptor)>,
    admin: Option<tokio::net::TcpListener>,
}

impl Listening {
    fn bind(settings: &Settings) -> io::Result<Listening> {
        let connect = settings
            .connect
            .iter()
            .map(|listener| Ok((*listener, Acceptor::new(options::listen(listener.listen)?))));
        Ok(Listening {
            grpc: Acceptor::new(options::listen(settings.grpc)?),
            connect: connect.collect::<io::Result<_>>()?,
            admin: settings.admin.map(options::listen).transpose()?,
        })
    }
}
