//! Deterministic simulations of a whole fleet: the machines that ship, in one thread, on a virtual clock, with seeded faults and
//! oracles. docs/simulations.md says how to run and read them.

mod client;
mod cluster;
mod draw;
mod excuses;
mod faults;
mod fleet;
mod flow;
mod follow;
mod host;
mod locals;
mod net;
mod oracle;
mod pattern;
mod replica;
mod rogue;
mod runner;
pub mod scenario;
mod setup;
mod sniff;
mod tell;
mod trace;
mod upsets;
mod watch;
mod ways;
mod wire;
mod world;

pub use net::Failure;
pub use runner::{Batch, Outcome, minimise, report, run, run_batch};
pub use setup::CLUSTERS;
pub use trace::{Coverage, REQUIRED, REQUIRED_OF_CLUSTERS};
pub use watch::watch;
