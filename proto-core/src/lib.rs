//! The tunnel's protocol.
#![no_std]
#![forbid(unsafe_code)]
extern crate alloc;

pub mod auth;
pub mod connect;
pub mod name;
pub mod reason;
pub mod target;
pub mod time;

pub use time::{Instant, WallTime};

/// The wire's one message, generated from `proto/stream.proto`.
#[allow(missing_docs, unreachable_pub, clippy::all)]
pub mod proto {
    include!(concat!(env!("OUT_DIR"), "/proto.rs"));
}
