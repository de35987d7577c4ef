//! The harness of the real tests: a temporary world with its own certificates, tokens and SSH keys, the built
//! binaries in it, and the peers, targets and clients that they are tested against. Everything listens on loopback,
//! of the machine or of namespaces that the tests make.
//!
//! Tests are plain threads and blocking sockets; only the gRPC peers have a runtime of their own.
#![allow(clippy::unwrap_used)] // a harness stops at what it didn't expect

pub mod base_peers;
pub mod binaries;
pub mod cgroup;
pub mod client;
pub mod cluster;
pub mod connect;
pub mod coredns;
pub mod crowd;
pub mod cutter;
pub mod dns;
pub mod expect;
pub mod fake_cloud;
pub mod fake_edge;
pub mod fleet;
pub mod http;
pub mod in_cluster;
pub mod kubernetes;
pub mod machine;
pub mod metrics;
pub mod metrics_adapter;
pub mod netns;
pub mod nodes;
pub mod opener;
pub mod openssh;
pub mod pages;
pub mod pki;
pub mod process;
pub mod session;
pub mod targets;
pub mod usage;
pub mod wait;
pub mod wire;
pub mod world;

pub use connect::{Connect, Reply};
pub use process::Process;
pub use wait::wait_until;
pub use world::{Cloud, Edge, World};
