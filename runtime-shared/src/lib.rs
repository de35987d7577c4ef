//! What the tunnel's drivers have in common, whatever runtime they are on: the loop around a machine, links on gRPC, the edge.
//! What the tunnel does and why is decided in proto-core; what is here moves bytes and time between that and a [`Runtime`].
//!
//! tokio is here for its IO traits, which HTTP/2 and TLS are written for, and for channels. Its reactor, its timers and its tasks
//! are not.

pub mod admin;
pub mod clock;
pub mod driver;
pub mod edge;
pub mod grpc;
pub mod metrics;
pub mod net;
pub mod record;
mod runtime;
#[cfg(test)]
mod testing;
pub mod uplink;

pub use runtime::{Connection, Datagrams, Runtime, Socket, Task, Timer, within};

/// What a machine's generator starts from. Topics and keys are secrets, so it comes from the system.
pub fn seed() -> [u8; 32] {
    let mut seed = [0; 32];
    // Without randomness there are no secrets, and no TLS either: nothing sensible can be done.
    getrandom::fill(&mut seed).expect("the system gives random bytes");
    seed
}
