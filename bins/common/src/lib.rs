//! What the tunnel's binaries share: configuration, secrets, TLS files, logging, exit codes. No runtime is in it.

pub mod args;
pub mod config;
pub mod secrets;
pub mod tls;
pub mod users;
