//! What the tunnel's binaries share: configuration, secrets, TLS files, logging, exit codes. No runtime is in it.

pub mod args;
pub mod config;
pub mod exit;
pub mod log;
pub mod ready;
pub mod secrets;
mod shared;
pub mod tls;
pub mod tunables;
pub mod users;
pub mod watch;

pub use shared::Shared;
