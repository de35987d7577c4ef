//! Who holds a node, for those who have just started or can't reach a peer, and for everybody else who can ask DNS.
//!
//! A registry knows replicas by their addresses. For how long its answers are believed, and which of them, is decided in
//! `proto_core::registry`. Kinds that live in a file read and write it themselves, because the file is what they are.
mod dns;
mod hosts;

use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;

use proto_core::name::NodeName;
use proto_core::replica::Held;

pub use dns::{Dns, DnsServer};
pub use hosts::{Hosts, HostsSettings};

/// What a look-up came to: the addresses of the replicas that are said to hold the node.
pub type Found = Pin<Box<dyn Future<Output = Result<Vec<IpAddr>, NotFound>> + Send>>;

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
    /// Who holds it?
    fn find(&self, node: &NodeName) -> Found;
    /// Where its answers come from: the word for metrics.
    fn source(&self) -> &'static str;
}

/// One replica, or replicas that rely on what they tell each other: nothing to set up, nobody to ask.
#[derive(Clone, Copy, Debug, Default)]
pub struct Memory;

impl Registry for Memory {
    fn set(&self, _: &NodeName, _: &[Held]) {}

    fn find(&self, _: &NodeName) -> Found {
        Box::pin(std::future::ready(Err(NotFound::Nobody)))
    }

    fn source(&self) -> &'static str {
        "memory"
    }
}
