//! The tunnel's protocol: streams that go by links, both ends of them, and the rules of docs/PROTOCOL.md.
//!
//! No IO, no clock, no threads, no randomness of its own: `no_std`, so that the compiler proves it.
//!
//! # The contract with a driver
//!
//! - A [`NodeHub`] owns one node's links and streams at a replica, an [`Edge`] those of an edge, a [`Client`] those
//!   of the operator's command. Each is a [`Machine`]: one driver serves any. [`Cloud`] decides what concerns the whole replica and carries no data.
//! - Inputs are facts with the time they are known at; they never fail and return no verdict to act on.
//! - Outputs are pulled. What needs room in the transport (`poll_transmit`) is pulled when there is room; what must
//!   always be heard (`poll_output`) is drained after every input; time (`deadline`) is asked last.
//! - Back-pressure is a number: `wants_read`. At 0 the driver doesn't poll the socket. Only bytes that the socket took
//!   (`written`) give credit back to the other side.
//! - Two runs of the same inputs from the same seed give the same outputs.
//! - Nothing from outside makes it panic, and everything that grows has a limit in [`config`].
#![no_std]
#![forbid(unsafe_code)]
#![cfg_attr(
    not(test),
    warn(
        clippy::panic,
        clippy::expect_used,
        clippy::unwrap_used,
        clippy::unreachable
    )
)]
extern crate alloc;

pub mod auth;
pub mod budget;
pub mod client;
pub mod cloud;
pub mod config;
pub mod connect;
pub mod edge;
pub mod hub;
pub mod instance;
mod link;
pub mod machine;
mod mux;
pub mod name;
pub mod output;
pub mod peers;
pub mod reason;
pub mod registry;
mod relay;
pub mod replica;
mod stream;
pub mod target;
pub mod time;
mod uplink;
pub mod wire;

pub use budget::Budget;
pub use client::Client;
pub use cloud::Cloud;
pub use config::Config;
pub use edge::Edge;
pub use hub::NodeHub;
pub use instance::Instance;
pub use machine::Machine;
pub use output::{Event, LinkId, LinkKind, Output, StreamId};
pub use peers::Peers;
pub use replica::ReplicaId;
pub use time::{Instant, WallTime};
pub use wire::Dialect;

/// The wire's one message, generated from `proto/stream.proto`.
#[allow(missing_docs, unreachable_pub, clippy::all)]
pub mod proto {
    include!(concat!(env!("OUT_DIR"), "/proto.rs"));
}
