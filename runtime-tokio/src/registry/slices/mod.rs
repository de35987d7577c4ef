//! EndpointSlices under a headless Service: for every replica, and for whoever asks the cluster's DNS.
//!
//! Each replica keeps slices of its own, which belong to its Pod and go with it: one endpoint a node, its hostname the node's
//! label, its address the replica's.
mod follow;
mod object;
mod table;
mod write;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::core::params::WatchParams;
use proto_core::name::NodeName;
use proto_core::registry::{Label, SlicesConfig, Write, Written};
use tokio::runtime::Handle;

use super::kept::{Common, Core, Failure, Kept, Owner, Running};
use super::{Dns, Registry};
use crate::kubernetes::{Change, Client, Error, Objects};
use crate::metrics::Metrics;
use object::{Seen, selector};
use table::Table;

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

impl EndpointSlicesSettings {
    /// Begins to follow and to write, by tasks of this runtime. They end with the registry.
    pub fn start(self, runtime: &Handle) -> Arc<dyn Registry> {
        let (namespace, service) = (self.namespace, self.service);
        let core = Core::new(SlicesConfig::default(), self.dns.is_some());
        let (common, asked) =
            Common::new(&self.client, &namespace, self.pod, self.dns, self.metrics);
        let kept = EndpointSlices {
            slices: self.client.namespaced(&namespace),
            dns_suffix: format!("{service}.{namespace}.svc.{}", self.dns_zone),
            service,
            address: self.address,
            common,
            state: Mutex::new(State {
                core,
                table: Table::default(),
                versions: BTreeMap::new(),
                seen: BTreeMap::new(),
            }),
        };
        Arc::new(Running::start(kept, asked, runtime))
    }
}

/// See the module.
#[derive(Debug)]
struct EndpointSlices {
    slices: Objects<EndpointSlice>,
    service: String,
    address: IpAddr,
    /// What follows a node's label in DNS.
    dns_suffix: String,
    common: Common,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    core: Core,
    /// Everybody's slices.
    table: Table,
    /// The versions of this replica's slices that it knows of.
    versions: BTreeMap<u32, String>,
    /// What was seen of them since; `None`: that they are gone.
    seen: BTreeMap<u32, (String, Option<Seen>)>,
}

impl Kept for EndpointSlices {
    type Object = EndpointSlice;
    const LEAVES: bool = false;

    fn common(&self) -> &Common {
        &self.common
    }

    fn core<T>(&self, with: impl FnOnce(&mut Core) -> T) -> T {
        with(&mut self.state().core)
    }

    fn objects(&self) -> &Objects<EndpointSlice> {
        &self.slices
    }

    fn selects(&self) -> WatchParams {
        WatchParams::default().labels(&selector(&self.service))
    }

    fn version(&self) -> String {
        self.state().table.version().to_owned()
    }

    async fn look(&self) -> Result<(), Error> {
        self.look().await
    }

    fn change(&self, change: Change<EndpointSlice>) {
        self.change(change);
    }

    fn known(&self, node: &NodeName) -> Option<Vec<IpAddr>> {
        self.state().table.find(node)
    }

    fn dns_name(&self, node: &NodeName) -> String {
        format!("{}.{}", Label::of(node), self.dns_suffix)
    }

    async fn write(&self, write: &Write) -> Result<Written, Failure> {
        Ok(self.write(write).await?)
    }

    fn settle(&self) {
        let (owner, now) = (self.common.owner(), self.common.now());
        self.state().settle(self.address, &owner, now);
    }

    fn owners_of(&self, node: &NodeName, address: IpAddr) -> Vec<Owner> {
        let state = self.state();
        state
            .table
            .owners(node, address)
            .into_iter()
            .cloned()
            .collect()
    }

    async fn take_away(&self, owner: &Owner) -> Result<(), Failure> {
        Ok(self.take_away(owner).await?)
    }
}

impl EndpointSlices {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The name of a slice of this replica's.
    fn name(&self, slice: u32) -> String {
        format!("{}-{}-{slice}", self.service, self.common.pod)
    }

    /// The other way.
    fn number(&self, name: &str) -> Option<u32> {
        let rest = name.strip_prefix(&self.service)?.strip_prefix('-')?;
        let number = rest.strip_prefix(&self.common.pod)?.strip_prefix('-')?;
        let number = number.parse().ok()?;
        (self.name(number) == name).then_some(number)
    }
}
