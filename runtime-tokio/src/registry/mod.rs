//! Who holds a node, for those who have just started or can't reach a peer, and for everybody else who can ask DNS.
//!
//! A registry knows replicas by their addresses. For how long its answers are believed, and which of them, is decided in
//! `proto_core::registry`. Kinds that live in a file read and write it themselves, because the file is what they are.
#[cfg(feature = "kubernetes")]
mod configmap;
mod dns;
mod hosts;
#[cfg(feature = "kubernetes")]
mod kept;
mod lines;
#[cfg(feature = "kubernetes")]
mod slices;

use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;

use proto_core::name::NodeName;
use proto_core::replica::Held;

#[cfg(feature = "kubernetes")]
pub use configmap::ConfigMapSettings;
pub use dns::{Dns, DnsServer};
pub use hosts::{Hosts, HostsSettings};
#[cfg(feature = "kubernetes")]
pub use slices::EndpointSlicesSettings;

/// A look-up.
pub type Found = Pin<Box<dyn Future<Output = Answer> + Send>>;

/// The end of a registry.
pub type Leaving = Pin<Box<dyn Future<Output = ()> + Send>>;

/// What a look-up came to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Answer {
    /// Where the answer comes from: the word for metrics.
    pub source: &'static str,
    /// The addresses of the replicas that are said to hold the node.
    pub result: Result<Vec<IpAddr>, NotFound>,
}

/// Why a look-up says nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NotFound {
    /// The registry says that nobody holds it, or knows of no such node.
    Nobody,
    /// There is no answer.
    Failed,
}

impl NotFound {
    /// The word for metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            NotFound::Nobody => "nobody",
            NotFound::Failed => "failed",
        }
    }
}

/// A registry. Nothing waits for it: what it is told it writes in its own time, and a look-up answers within seconds.
pub trait Registry: Send + Sync + 'static {
    /// This replica's links to a node have come, changed or gone.
    fn set(&self, node: &NodeName, held: &[Held]);
    /// Another replica holds a node, or none does any more, as they say themselves.
    fn set_elsewhere(&self, _: &NodeName, _: bool) {}
    /// Who holds it?
    fn find(&self, node: &NodeName) -> Found;
    /// The replica at this address, its answer, does not hold the node.
    fn wrong(&self, _: &NodeName, _: IpAddr) {}
    /// This replica ends in good order: what doesn't end with it is taken out, if that can be done within seconds.
    fn leave(&self) -> Leaving {
        Box::pin(std::future::ready(()))
    }
}

/// One replica, or replicas that rely on what they tell each other: nothing to set up, nobody to ask.
#[derive(Clone, Copy, Debug, Default)]
pub struct Memory;

impl Registry for Memory {
    fn set(&self, _: &NodeName, _: &[Held]) {}

    fn find(&self, _: &NodeName) -> Found {
        Box::pin(std::future::ready(Answer {
            source: "memory",
            result: Err(NotFound::Nobody),
        }))
    }
}
