//! The edge on smol: one thread, for machines that have little. What the tunnel does is decided in proto-core, and how its bytes are
//! moved stands in runtime-shared; what is here is what that asks of a runtime: sockets, timers, tasks, names and admin pages.

mod admin;
pub mod edge;
mod heap;
mod look_up;
mod net;
mod reactor;
mod runtime;

pub use runtime::{Smol, block_on};
