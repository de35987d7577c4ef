//! The other replicas: connections to them and from them, what they say, and the registry.
//!
//! The core's `Peers` decides; here are its driver, the table of connections that hubs make links on, and the look-ups.
mod addresses;
mod connect;
mod peers;
mod serve;
mod ways;
mod wishes;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use proto_core::auth::Secret;
use proto_core::peers::PeersConfig;
use proto_core::registry::{Answers, AnswersConfig};
use proto_core::{Budget, Config, Peers, ReplicaId};
use tokio::sync::{Notify, watch};

use crate::clock::Clock;
use crate::driver::{Driver, Mailbox};
use crate::registry::Registry;
use crate::seed;

use super::replica::Replica;
use connect::Connector;
use peers::PeersShell;
use ways::Ways;

pub(super) use serve::serve;

/// Where the other replicas are, and what this one shows them.
#[derive(Clone)]
pub struct PeersSettings {
    /// `host:port` of each; this one's may be among them.
    pub addresses: Vec<String>,
    /// `host:port` of a name whose addresses they are.
    pub dns: Option<String>,
    /// TLS towards them.
    pub tls: watch::Receiver<Arc<rustls::ClientConfig>>,
    /// The cluster's token; none: certificates say who is a replica.
    pub token: watch::Receiver<Option<Secret>>,
}

impl PeersSettings {
    /// Nobody is to be looked for.
    fn is_empty(&self) -> bool {
        self.addresses.is_empty() && self.dns.is_none()
    }
}

/// What a replica has of its cluster.
pub(super) struct Cluster {
    me: ReplicaId,
    /// There are no others to be told anything.
    is_alone: bool,
    connector: Connector,
    token: watch::Receiver<Option<Secret>>,
    mailbox: Arc<Mailbox<Peers>>,
    ways: Mutex<Ways>,
    answers: Mutex<Answers>,
    registry: Arc<dyn Registry>,
    message_bytes_max: usize,
    ends: watch::Sender<bool>,
    /// A replica was heard of that this one has no way to: it may be time to look for the others.
    stranger: Notify,
}

/// A cluster whose driver does not run yet, because what it tells is for the replica that it belongs to.
pub(super) struct Unstarted {
    machine: Peers,
    settings: PeersSettings,
}

impl Cluster {
    pub(super) fn new(
        settings: PeersSettings,
        registry: Arc<dyn Registry>,
        config: Arc<Config>,
        budget: Budget,
        message_bytes_max: usize,
    ) -> (Cluster, Unstarted) {
        let machine = Peers::new(PeersConfig::default(), config, budget, seed());
        let me = machine.me();
        let connector = Connector {
            me,
            tls: settings.tls.clone(),
            token: settings.token.clone(),
            message_bytes_max,
        };
        let cluster = Cluster {
            me,
            is_alone: settings.is_empty(),
            connector,
            token: settings.token.clone(),
            mailbox: Mailbox::new(),
            ways: Mutex::default(),
            answers: Mutex::new(Answers::new(AnswersConfig::default())),
            registry,
            message_bytes_max,
            ends: watch::Sender::new(false),
            stranger: Notify::new(),
        };
        let unstarted = Unstarted { machine, settings };
        (cluster, unstarted)
    }

    /// There are no other replicas that it knows of.
    pub(super) fn is_alone(&self) -> bool {
        self.is_alone
    }

    pub(super) fn registry(&self) -> &dyn Registry {
        &*self.registry
    }

    fn ways(&self) -> MutexGuard<'_, Ways> {
        self.ways.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn answers(&self) -> MutexGuard<'_, Answers> {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the links between replicas.
    pub(super) fn shut_down(&self) {
        self.ends.send_replace(true);
        self.tell(Peers::shut_down);
    }

    fn tell(&self, what: impl FnOnce(&mut Peers, proto_core::Instant) + Send + 'static) {
        // One that has ended needn't hear it.
        let _ = self.mailbox.post(Box::new(move |peers, now| {
            what(peers, now);
            crate::driver::Install::Nothing
        }));
    }
}

impl Unstarted {
    /// Starts looking for the others.
    pub(super) fn start(self, replica: &Arc<Replica>, clock: Clock) {
        let cluster = replica.cluster();
        let shell = PeersShell::new(replica.clone());
        let driver = Driver::new(self.machine, shell, clock, cluster.mailbox.clone());
        tokio::spawn(tokio::task::unconstrained(driver));
        if !self.settings.is_empty() {
            tokio::spawn(addresses::follow(self.settings, replica.clone()));
        }
    }
}
