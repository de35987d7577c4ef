//! Sockets: options, accepting, and one type for those of CONNECT clients and of dialed targets.

pub mod accept;
pub mod homing;
pub mod options;
pub mod socket;
