//! The tunnel's drivers on tokio: sockets, timers, tasks, admin pages, and all of the cloud's side. What an edge's drivers on other
//! runtimes are made of as well is in runtime-shared; what the tunnel does and why is decided in proto-core.

pub mod admin;
#[cfg(feature = "client")]
pub mod client;
#[cfg(feature = "cloud")]
pub mod cloud;
pub mod edge;
#[cfg(all(test, feature = "cloud"))]
mod grpc_tests;
#[cfg(feature = "kubernetes")]
pub mod kubernetes;
pub mod lanes;
pub mod net;
#[cfg(feature = "cloud")]
pub mod registry;
mod runtime;
#[cfg(test)]
mod test_tls;

pub use runtime::{Tokio, TokioDatagrams, TokioTask, TokioTimer};
#[cfg(feature = "cloud")]
use runtime_shared::record;
#[cfg(any(feature = "cloud", feature = "client"))]
use runtime_shared::seed;
pub use runtime_shared::{clock, metrics, uplink};

/// The drivers, on tokio.
#[cfg(any(feature = "cloud", feature = "client"))]
mod driver {
    pub(crate) use runtime_shared::driver::{Driver, Moved, Shell};

    use crate::runtime::Tokio;

    #[cfg(feature = "cloud")]
    pub(crate) type Command<M> = runtime_shared::driver::Command<M, Tokio>;
    pub(crate) type Install = runtime_shared::driver::Install<Tokio>;
    pub(crate) type Mailbox<M> = runtime_shared::driver::Mailbox<M, Tokio>;
}

/// Links, on tokio.
#[cfg(feature = "cloud")]
mod grpc {
    pub(crate) use runtime_shared::grpc::{LinkRequest, PingPace, client, code};

    use crate::runtime::Tokio;

    pub(crate) type Link = runtime_shared::grpc::Link<Tokio>;

    pub(crate) mod peer {
        pub(crate) use runtime_shared::grpc::peer::{PeerConnection, PeerRequest};
    }

    pub(crate) mod server {
        pub(crate) use runtime_shared::grpc::server::handshake;

        pub(crate) type Incoming = runtime_shared::grpc::server::Incoming<crate::runtime::Tokio>;
    }
}
