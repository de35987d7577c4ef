//! Connections: options, how they are read and closed, and what the machine's network does to them.

pub mod changes;
pub mod closing;
pub mod intake;
pub mod options;
pub(crate) mod piece;
pub mod reach;
pub(crate) mod transfer;
