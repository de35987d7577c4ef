//! EndpointSlices under a headless Service: for every replica, and for whoever asks the cluster's DNS.
//!
//! Each replica keeps slices of its own, which belong to its Pod and go with it: one endpoint a node, its hostname the node's
//! label, its address the replica's. What is written when, which source answers a look-up, and when an owner is asked after,
//! is decided in `proto_core::registry`; here are the requests. Nothing waits for them.
mod follow;
mod lookup;
mod object;
mod owners;
mod table;
mod write;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use proto_core::Instant;
use proto_core::name::NodeName;
use proto_core::registry::{Owners, OwnersConfig, Slices, SlicesConfig, Sources, SourcesConfig};
use proto_core::replica::Held;
use tokio::runtime::Handle;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::task::JoinHandle;

use super::{Dns, Found, Registry};
use crate::clock::Clock;
use crate::kubernetes::{Client, Error, Objects};
use crate::metrics::Metrics;
use crate::seed;
use object::{Owner, Seen};
use table::Table;

/// Look-ups that wait for all of the registry to be read.
const REFRESHES_MAX: usize = 10_000;

/// What the registry is made of.
#[derive(Debug)]
pub struct EndpointSlicesSettings {
    /// The way to the API server.
    pub client: Client,
    /// Where Service and slices are.
    pub namespace: String,
    /// The headless Service.
    pub service: String,
    /// This replica's Pod.
    pub pod: String,
    /// Its address.
    pub address: IpAddr,
    /// Who answers while slices can't be followed.
    pub dns: Option<Dns>,
    /// The cluster's zone there.
    pub dns_zone: String,
    /// Where it counts.
    pub metrics: Arc<Metrics>,
}

/// See the module.
#[derive(Debug)]
pub struct EndpointSlices {
    shared: Arc<Shared>,
    tasks: Vec<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    slices: Objects<EndpointSlice>,
    pods: Objects<Pod>,
    service: String,
    pod: String,
    address: IpAddr,
    /// The Pod's own id, once the API server has told it.
    uid: OnceLock<String>,
    dns: Option<Dns>,
    /// What follows a node's label in DNS.
    dns_suffix: String,
    metrics: Arc<Metrics>,
    clock: Clock,
    state: Mutex<State>,
    /// There may be something to write.
    to_write: Notify,
    /// There may be an owner to ask after.
    to_ask: Notify,
    /// Slices have been looked for once, with whatever success.
    looked: watch::Sender<bool>,
    refreshes: mpsc::Sender<oneshot::Sender<()>>,
}

#[derive(Debug)]
struct State {
    slices: Slices,
    sources: Sources,
    owners: Owners<Owner>,
    /// Everybody's slices.
    table: Table,
    /// The versions of this replica's slices that it knows of.
    versions: BTreeMap<u32, String>,
    /// What was seen of them since; `None`: that they are gone.
    seen: BTreeMap<u32, (String, Option<Seen>)>,
    is_writing: bool,
}

impl EndpointSlices {
    /// Begins to follow and to write, by tasks of this runtime. They end with the value.
    pub fn start(settings: EndpointSlicesSettings, runtime: &Handle) -> EndpointSlices {
        let EndpointSlicesSettings {
            client,
            namespace,
            service,
            pod,
            address,
            dns,
            dns_zone,
            metrics,
        } = settings;
        let config = SourcesConfig {
            dns: dns.is_some(),
            ..SourcesConfig::default()
        };
        let state = State {
            slices: Slices::new(SlicesConfig::default()),
            sources: Sources::new(config, seed()),
            owners: Owners::new(OwnersConfig::default()),
            table: Table::default(),
            versions: BTreeMap::new(),
            seen: BTreeMap::new(),
            is_writing: false,
        };
        let (refreshes, asked) = mpsc::channel(REFRESHES_MAX);
        let shared = Arc::new(Shared {
            slices: client.namespaced(&namespace),
            pods: client.namespaced(&namespace),
            dns_suffix: format!("{service}.{namespace}.svc.{dns_zone}"),
            service,
            pod,
            address,
            uid: OnceLock::new(),
            dns,
            metrics,
            clock: Clock::start(),
            state: Mutex::new(state),
            to_write: Notify::new(),
            to_ask: Notify::new(),
            looked: watch::Sender::new(false),
            refreshes,
        });
        let tasks = vec![
            runtime.spawn(follow::run(shared.clone())),
            runtime.spawn(write::run(shared.clone())),
            runtime.spawn(owners::run(shared.clone())),
            runtime.spawn(lookup::refresh(shared.clone(), asked)),
        ];
        EndpointSlices { shared, tasks }
    }
}

impl Registry for EndpointSlices {
    fn set(&self, node: &NodeName, held: &[Held]) {
        let now = self.shared.clock.now();
        self.shared.state().slices.set(node, !held.is_empty(), now);
        self.shared.to_write.notify_one();
    }

    fn set_elsewhere(&self, node: &NodeName, is_elsewhere: bool) {
        let now = self.shared.clock.now();
        let slices = &mut self.shared.state().slices;
        slices.set_elsewhere(node, is_elsewhere, now);
        self.shared.to_write.notify_one();
    }

    fn find(&self, node: &NodeName) -> Found {
        let (shared, node) = (self.shared.clone(), node.clone());
        Box::pin(async move { shared.find(&node).await })
    }

    fn wrong(&self, node: &NodeName, address: IpAddr) {
        let now = self.shared.clock.now();
        let state = &mut *self.shared.state();
        state.sources.wrong(node, now);
        for owner in state.table.owners(node, address) {
            state.owners.doubt(owner, now);
        }
        self.shared.to_ask.notify_one();
    }
}

impl Drop for EndpointSlices {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// This Pod's id: what its slices belong to.
    async fn uid(&self) -> Result<&str, Error> {
        if let Some(uid) = self.uid.get() {
            return Ok(uid);
        }
        let pod = self.pods.get(&self.pod).await?;
        let uid = pod.metadata.uid.unwrap_or_default();
        Ok(self.uid.get_or_init(|| uid))
    }

    /// The name of a slice of this replica's.
    fn name(&self, slice: u32) -> String {
        format!("{}-{}-{slice}", self.service, self.pod)
    }

    /// The other way.
    fn number(&self, name: &str) -> Option<u32> {
        let rest = name.strip_prefix(&self.service)?.strip_prefix('-')?;
        let number = rest.strip_prefix(&self.pod)?.strip_prefix('-')?;
        let number = number.parse().ok()?;
        (self.name(number) == name).then_some(number)
    }

    /// Waits until a machine's deadline.
    async fn sleep_until(&self, deadline: Option<Instant>) {
        match deadline {
            Some(at) => tokio::time::sleep_until(self.clock.to_std(at).into()).await,
            None => std::future::pending().await,
        }
    }
}
