//! The configuration of the three programs: `cloud.toml`, `edge.toml` and the operator's `config.toml`.
//!
//! A value comes from a flag, else from the environment, else from the file, else it is the default. The types here
//! are plain values that have passed every check: what [`CloudConfig::load`] and its like return needs no second look.

mod client;
mod cloud;
mod edge;
mod load;
mod memory;
mod shared;
mod source;
mod values;

#[cfg(test)]
mod tests;

use std::fmt;

pub use client::{ClientConfig, Scheme, Server};
pub use cloud::{
    Auth, CloudAdmin, CloudConfig, Connect, Drain, Grpc, Kubernetes, Limits, Peers, Registry,
    RegistryKind, TlsMode, TokensFile, UsersFile,
};
pub use edge::{CloudAddress, Dialect, EdgeAdmin, EdgeConfig, Node, Reconnect, Targets};
pub use memory::memory_bytes;
pub use shared::{Audit, Heartbeat, Log, LogFormat, Streams};
pub use source::{Overrides, Place, Places, Setting};
#[allow(unused_imports)]
pub(crate) use source::{line_column, one_line};
pub use values::{HostPort, Port, Size, duration_text};

/// One mistake and its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// Where.
    pub place: Place,
    /// The key, what is wrong and what is expected.
    pub text: String,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.text)
    }
}

/// Why a configuration can't be used: every mistake that was found, one a line when displayed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    mistakes: Vec<Mistake>,
}

impl ConfigError {
    /// An error of these mistakes.
    pub fn new(mistakes: Vec<Mistake>) -> Self {
        Self { mistakes }
    }

    /// What was found.
    pub fn mistakes(&self) -> &[Mistake] {
        &self.mistakes
    }
}

impl From<Mistake> for ConfigError {
    fn from(mistake: Mistake) -> Self {
        Self::new(vec![mistake])
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, mistake) in self.mistakes.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{mistake}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigError {}
