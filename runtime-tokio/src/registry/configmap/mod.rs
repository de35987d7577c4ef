//! A ConfigMap that all replicas share, SuperEdge's too: its key `hosts` is the file of a CoreDNS that mounts it.
//!
//! Each replica replaces only the lines with its own address, in the version that it has just read: whoever was quicker makes it
//! read again. Lines go with nobody, so an annotation says which address is whose Pod's, and those of a Pod that is gone are
//! taken away by whoever finds them. Lines that it doesn't name are others', and stay.
mod object;
mod write;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use k8s_openapi::api::core::v1;
use kube::core::params::WatchParams;
use proto_core::name::NodeName;
use proto_core::registry::{SlicesConfig, Write, Written};
use tokio::runtime::Handle;

use super::kept::{Common, Core, Failure, Kept, Owner, Running, is_later};
use super::lines::Table;
use super::{Dns, Registry};
use crate::kubernetes::{Change, Client, Error, Objects};
use crate::metrics::Metrics;
use object::{Own, Seen};

/// What the registry is made of.
#[derive(Debug)]
pub struct ConfigMapSettings {
    /// The way to the API server.
    pub client: Client,
    /// Where it is, and the replicas' Pods.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// This replica's Pod.
    pub pod: String,
    /// Its address.
    pub address: IpAddr,
    /// Who answers while it can't be followed.
    pub dns: Option<Dns>,
    /// Where it counts.
    pub metrics: Arc<Metrics>,
}

impl ConfigMapSettings {
    /// Begins to follow and to write, by tasks of this runtime. They end with the registry.
    pub fn start(self, runtime: &Handle) -> Arc<dyn Registry> {
        // All of a replica's lines are one piece.
        let config = SlicesConfig {
            nodes_max: usize::MAX,
            ..SlicesConfig::default()
        };
        let core = Core::new(config, self.dns.is_some());
        let (common, asked) = Common::new(
            &self.client,
            &self.namespace,
            self.pod,
            self.dns,
            self.metrics,
        );
        let kept = ConfigMap {
            maps: self.client.namespaced(&self.namespace),
            namespace: self.namespace,
            name: self.name,
            address: self.address,
            common,
            is_unowned: AtomicBool::new(false),
            state: Mutex::new(State {
                core,
                version: String::new(),
                known: None,
                own: None,
                replicas: BTreeMap::new(),
            }),
        };
        Arc::new(Running::start(kept, asked, runtime))
    }
}

/// See the module.
#[derive(Debug)]
struct ConfigMap {
    maps: Objects<v1::ConfigMap>,
    namespace: String,
    name: String,
    address: IpAddr,
    common: Common,
    /// It was said that nobody will take this replica's lines away.
    is_unowned: AtomicBool,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    core: Core,
    /// The latest that was seen.
    version: String,
    /// Who holds what. `None`: nothing was ever known.
    known: Option<Table>,
    /// This replica's lines, if the core hasn't heard of them yet.
    own: Option<Own>,
    replicas: BTreeMap<IpAddr, Owner>,
}

/// The one piece.
const ALL: u32 = 0;

impl Kept for ConfigMap {
    type Object = v1::ConfigMap;
    const LEAVES: bool = true;

    fn common(&self) -> &Common {
        &self.common
    }

    fn core<T>(&self, with: impl FnOnce(&mut Core) -> T) -> T {
        with(&mut self.state().core)
    }

    fn objects(&self) -> &Objects<v1::ConfigMap> {
        &self.maps
    }

    fn selects(&self) -> WatchParams {
        WatchParams::default().fields(&format!("metadata.name={}", self.name))
    }

    /// From what is there now: the ConfigMap's own version may be too old for the API server to know what came after.
    fn version(&self) -> String {
        String::new()
    }

    async fn look(&self) -> Result<(), Error> {
        match self.maps.get(&self.name).await {
            Ok(map) => self.see(Seen::of(&map, self.address)),
            Err(error) if error.is_missing() => self.see(Seen::default()),
            Err(error) => return Err(error),
        }
        Ok(())
    }

    fn change(&self, change: Change<v1::ConfigMap>) {
        match change {
            Change::Applied(map) => self.see(Seen::of(&map, self.address)),
            Change::Deleted(map) => self.see(Seen {
                version: map.metadata.resource_version.unwrap_or_default(),
                ..Seen::default()
            }),
            Change::Bookmark(_) => {}
        }
    }

    fn known(&self, node: &NodeName) -> Option<Vec<IpAddr>> {
        let state = self.state();
        let found = state.known.as_ref()?.get(node.key());
        Some(found.cloned().unwrap_or_default())
    }

    fn dns_name(&self, node: &NodeName) -> String {
        node.key().to_owned()
    }

    async fn write(&self, write: &Write) -> Result<Written, Failure> {
        self.write(write).await
    }

    fn settle(&self) {
        let now = self.common.now();
        self.state().settle(now);
    }

    fn owners_of(&self, node: &NodeName, address: IpAddr) -> Vec<Owner> {
        let state = self.state();
        let table = state.known.as_ref();
        let found = table.and_then(|table| table.get(node.key()));
        let is_there = found.is_some_and(|found| found.contains(&address));
        let owner = state.replicas.get(&address).filter(|_| is_there);
        owner.into_iter().cloned().collect()
    }

    async fn take_away(&self, owner: &Owner) -> Result<(), Failure> {
        self.take_away(owner).await
    }
}

impl ConfigMap {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// It is like this now, if that is no news of the past.
    fn see(&self, seen: Seen) {
        let (now, own) = (self.common.now(), self.common.owner());
        let is_first = !*self.common.looked.borrow();
        let state = &mut *self.state();
        // That there is none has no version.
        if !seen.version.is_empty() {
            if is_older(&seen.version, &state.version) {
                return;
            }
            state.version = seen.version;
        }
        state.known = Some(seen.table);
        state.own = Some(seen.own);
        let owners = &mut state.core.owners;
        for owner in state.replicas.values() {
            if !seen.replicas.values().any(|there| there == owner) {
                owners.handle_gone(owner);
            }
        }
        for owner in seen.replicas.values().filter(|owner| **owner != own) {
            owners.handle_seen(owner, is_first, now);
        }
        state.replicas = seen.replicas;
        state.settle(now);
        self.common.to_write.notify_one();
        self.common.to_ask.notify_one();
    }
}

fn is_older(version: &str, than: &str) -> bool {
    !than.is_empty() && version != than && !is_later(version, than)
}

impl State {
    /// Tells the core of this replica's lines; not while they are being written.
    fn settle(&mut self, now: proto_core::Instant) {
        if self.core.is_writing {
            return;
        }
        let slices = &mut self.core.slices;
        match self.own.take() {
            Some(own) if own.nodes.is_empty() && !own.is_mixed => slices.handle_missing(ALL, now),
            Some(own) => slices.handle_seen(ALL, own.nodes, !own.is_mixed, now),
            None => {}
        }
    }
}
