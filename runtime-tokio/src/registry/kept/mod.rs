//! A registry that the API server keeps, whatever its objects are: following it, looking nodes up, writing down which ones this
//! replica holds, and asking after the owners of what others wrote. What is done when, and which source answers, is decided in
//! `proto_core::registry`; here are the loops, and the requests are the kinds'. Nothing waits for them.
mod follow;
mod lookup;
mod owners;
mod write;

use std::net::IpAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::core::params::WatchParams;
use proto_core::Instant;
use proto_core::name::NodeName;
use proto_core::registry::{
    Owners, OwnersConfig, Slices, SlicesConfig, Sources, SourcesConfig, Write, Written,
};
use proto_core::replica::Held;
use tokio::runtime::Handle;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::task::JoinHandle;

use super::{Dns, Found, Leaving, Registry};
use crate::clock::Clock;
use crate::kubernetes::{Change, Client, Error, Kind, Objects};
use crate::metrics::Metrics;
use crate::seed;

pub(super) use owners::has_ended;
pub(super) use write::Failure;

/// Look-ups that wait for all of the registry to be read.
const REFRESHES_MAX: usize = 10_000;
/// How long the end of the process waits for the last write.
const LAST_WRITE_TIMEOUT: Duration = Duration::from_secs(2);

/// Whose something is: a Pod, by its name and its id.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub(super) struct Owner {
    pub(super) pod: String,
    pub(super) uid: String,
}

/// Whether this version of an object is later than that one. They are numbers, though older API servers don't promise it.
pub(super) fn is_later(version: &str, than: &str) -> bool {
    match (version.parse::<u64>(), than.parse::<u64>()) {
        (Ok(version), Ok(than)) => version > than,
        _ => version != than,
    }
}

/// A kind of registry.
pub(super) trait Kept: Send + Sync + Sized + 'static {
    /// What it is kept in.
    type Object: Kind;
    /// Whether a replica that ends in good order takes its nodes out. What belongs to its Pod goes with that.
    const LEAVES: bool;

    /// What all kinds have.
    fn common(&self) -> &Common;
    /// The machines, for a moment.
    fn core<T>(&self, with: impl FnOnce(&mut Core) -> T) -> T;
    fn objects(&self) -> &Objects<Self::Object>;
    /// Which objects are followed.
    fn selects(&self) -> WatchParams;
    /// From which version on their changes are to be told.
    fn version(&self) -> String;
    /// Reads all there is.
    fn look(&self) -> impl Future<Output = Result<(), Error>> + Send;
    /// Hears of a change.
    fn change(&self, change: Change<Self::Object>);
    /// Who holds a node, as far as is known here. `None`: nothing was ever known.
    fn known(&self, node: &NodeName) -> Option<Vec<IpAddr>>;
    /// A node's name in DNS.
    fn dns_name(&self, node: &NodeName) -> String;
    /// Does a write.
    fn write(&self, write: &Write) -> impl Future<Output = Result<Written, Failure>> + Send;
    /// It is over, and the core knows; what was seen meanwhile can be told it now.
    fn settle(&self);
    /// Who says that a node is at an address.
    fn owners_of(&self, node: &NodeName, address: IpAddr) -> Vec<Owner>;
    /// Takes away what an owner wrote that is gone.
    fn take_away(&self, owner: &Owner) -> impl Future<Output = Result<(), Failure>> + Send;
}

/// The machines.
#[derive(Debug)]
pub(super) struct Core {
    pub(super) slices: Slices,
    pub(super) sources: Sources,
    pub(super) owners: Owners<Owner>,
    pub(super) is_writing: bool,
}

/// What all kinds have.
#[derive(Debug)]
pub(super) struct Common {
    pub(super) clock: Clock,
    pub(super) metrics: Arc<Metrics>,
    /// Who answers while it can't be followed.
    dns: Option<Dns>,
    pods: Objects<Pod>,
    pub(super) pod: String,
    /// The Pod's own id, once the API server has told it.
    uid: OnceLock<String>,
    /// There may be something to write.
    pub(super) to_write: Notify,
    /// There may be an owner to ask after.
    pub(super) to_ask: Notify,
    /// It has been looked at once, with whatever success.
    pub(super) looked: watch::Sender<bool>,
    /// Nothing of this replica's stands there, and none will.
    left: watch::Sender<bool>,
    refreshes: mpsc::Sender<oneshot::Sender<()>>,
}

/// Who waits for all of the registry to be read.
pub(super) type Refreshes = mpsc::Receiver<oneshot::Sender<()>>;

impl Core {
    pub(super) fn new(slices: SlicesConfig, has_dns: bool) -> Core {
        let sources = SourcesConfig {
            dns: has_dns,
            ..SourcesConfig::default()
        };
        Core {
            slices: Slices::new(slices),
            sources: Sources::new(sources, seed()),
            owners: Owners::new(OwnersConfig::default()),
            is_writing: false,
        }
    }
}

impl Common {
    pub(super) fn new(
        client: &Client,
        namespace: &str,
        pod: String,
        dns: Option<Dns>,
        metrics: Arc<Metrics>,
    ) -> (Common, Refreshes) {
        let (refreshes, asked) = mpsc::channel(REFRESHES_MAX);
        let common = Common {
            clock: Clock::start(),
            metrics,
            dns,
            pods: client.namespaced(namespace),
            pod,
            uid: OnceLock::new(),
            to_write: Notify::new(),
            to_ask: Notify::new(),
            looked: watch::Sender::new(false),
            left: watch::Sender::new(false),
            refreshes,
        };
        (common, asked)
    }

    pub(super) fn now(&self) -> Instant {
        self.clock.now()
    }

    /// This Pod's id: what it writes belongs to that.
    pub(super) async fn uid(&self) -> Result<&str, Error> {
        if let Some(uid) = self.uid.get() {
            return Ok(uid);
        }
        let pod = self.pods.get(&self.pod).await?;
        let uid = pod.metadata.uid.unwrap_or_default();
        Ok(self.uid.get_or_init(|| uid))
    }

    /// This replica.
    pub(super) fn owner(&self) -> Owner {
        Owner {
            pod: self.pod.clone(),
            uid: self.uid.get().cloned().unwrap_or_default(),
        }
    }

    pub(super) fn pods(&self) -> &Objects<Pod> {
        &self.pods
    }

    /// Waits until a machine's deadline.
    async fn sleep_until(&self, deadline: Option<Instant>) {
        match deadline {
            Some(at) => tokio::time::sleep_until(self.clock.to_std(at).into()).await,
            None => std::future::pending().await,
        }
    }
}

/// A registry at work. Its tasks end with it.
pub(super) struct Running<K> {
    kept: Arc<K>,
    tasks: Vec<JoinHandle<()>>,
}

impl<K: Kept> Running<K> {
    /// Begins to follow and to write, by tasks of this runtime.
    pub(super) fn start(kept: K, asked: Refreshes, runtime: &Handle) -> Running<K> {
        let kept = Arc::new(kept);
        let tasks = vec![
            runtime.spawn(follow::run(kept.clone())),
            runtime.spawn(write::run(kept.clone())),
            runtime.spawn(owners::run(kept.clone())),
            runtime.spawn(lookup::refresh(kept.clone(), asked)),
        ];
        Running { kept, tasks }
    }
}

impl<K: Kept> Registry for Running<K> {
    fn set(&self, node: &NodeName, held: &[Held]) {
        let common = self.kept.common();
        let now = common.now();
        self.kept
            .core(|core| core.slices.set(node, !held.is_empty(), now));
        common.to_write.notify_one();
    }

    fn set_elsewhere(&self, node: &NodeName, is_elsewhere: bool) {
        let common = self.kept.common();
        let now = common.now();
        self.kept
            .core(|core| core.slices.set_elsewhere(node, is_elsewhere, now));
        common.to_write.notify_one();
    }

    fn find(&self, node: &NodeName) -> Found {
        let (kept, node) = (self.kept.clone(), node.clone());
        Box::pin(async move { lookup::find(&*kept, &node).await })
    }

    fn wrong(&self, node: &NodeName, address: IpAddr) {
        let common = self.kept.common();
        let now = common.now();
        let owners = self.kept.owners_of(node, address);
        self.kept.core(|core| {
            core.sources.wrong(node, now);
            for owner in &owners {
                core.owners.doubt(owner, now);
            }
        });
        common.to_ask.notify_one();
    }

    fn leave(&self) -> Leaving {
        let kept = self.kept.clone();
        Box::pin(async move {
            if !K::LEAVES {
                return;
            }
            let common = kept.common();
            let mut left = common.left.subscribe();
            let now = common.now();
            kept.core(|core| core.slices.leave(now));
            common.to_write.notify_one();
            let is_written = left.wait_for(|left| *left);
            if tokio::time::timeout(LAST_WRITE_TIMEOUT, is_written)
                .await
                .is_err()
            {
                tracing::warn!("this replica's nodes could not be taken out of the registry");
            }
        })
    }
}

impl<K> Drop for Running<K> {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_have_an_order() {
        assert!(is_later("10", "9") && !is_later("9", "10") && !is_later("9", "9"));
        assert!(is_later("a", "b") && !is_later("a", "a"));
    }
}
