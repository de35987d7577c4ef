//! What an edge and a client have in common: how they reach the cloud, and how they hear of their machine's network.
mod connect;
mod names;
mod network;

pub use connect::{Connector, Credential};
pub use network::{Uplinked, follow_network};

/// Where the cloud is.
#[derive(Clone, Debug)]
pub struct CloudAddresses {
    /// `host:port` of each.
    pub addresses: Vec<String>,
    /// The name that its certificate must have; none: the address's host.
    pub server_name: Option<String>,
}

/// A message's fields beside its payload: names, a topic, an address, numbers.
pub const FIELDS_BYTES_MAX: usize = 2048;
