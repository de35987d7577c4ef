//! The tunnel's drivers on tokio: sockets, TLS, gRPC, admin pages. What the tunnel does and why is decided in proto-core;
//! what is here moves bytes and time between that and the operating system.

pub mod clock;
mod grpc;
pub mod net;
