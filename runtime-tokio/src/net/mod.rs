//! Sockets: options, accepting, and one type for those of CONNECT clients and of dialed targets.

pub mod accept;
pub mod changes;
pub(crate) mod closing;
pub mod homing;
pub(crate) mod intake;
pub mod options;
pub(crate) mod reach;
pub mod socket;
