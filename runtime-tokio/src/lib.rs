//! The tunnel's drivers on tokio: sockets, TLS, gRPC, admin pages. What the tunnel does and why is decided in proto-core;
//! what is here moves bytes and time between that and the operating system.

pub mod admin;
#[cfg(feature = "client")]
pub mod client;
pub mod clock;
#[cfg(feature = "cloud")]
pub mod cloud;
mod driver;
pub mod edge;
mod grpc;
#[cfg(feature = "kubernetes")]
pub mod kubernetes;
pub mod lanes;
pub mod metrics;
pub mod net;
mod record;
#[cfg(feature = "cloud")]
pub mod registry;
#[cfg(test)]
mod test_tls;
pub mod uplink;

/// What a machine's generator starts from. Topics and keys are secrets, so it comes from the system.
fn seed() -> [u8; 32] {
    let mut seed = [0; 32];
    // Without randomness there are no secrets, and no TLS either: nothing sensible can be done.
    getrandom::fill(&mut seed).expect("the system gives random bytes");
    seed
}
