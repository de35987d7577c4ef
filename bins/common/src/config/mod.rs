//! The configuration of the three programs: `cloud.toml`, `edge.toml` and the operator's `config.toml`.
//!
//! A value comes from a flag, else from the environment, else from the file, else it is the default. The types here
//! are plain values that have passed every check: what [`CloudConfig::load`] and its like return needs no second look.

mod client;
mod cloud;
mod cluster;
mod edge;
mod keyed;
mod kubernetes;
mod load;
mod memory;
mod shared;
mod source;
mod values;
mod written;

#[cfg(test)]
mod documented;
#[cfg(test)]
mod tests;

use std::fmt;
use std::path::Path;

pub use client::{ClientConfig, Scheme, Server};
pub use cloud::{
    Auth, CloudAdmin, CloudConfig, Connect, Drain, Grpc, Limits, Peers, Registry, RegistryKind,
    TlsMode, TokensFile, UsersFile,
};
pub use edge::{CloudAddress, Dialect, EdgeAdmin, EdgeConfig, EdgeDrain, Node, Reconnect, Targets};
pub use kubernetes::Kubernetes;
pub(crate) use load::load_plain;
pub use memory::memory_bytes;
pub use shared::{Audit, Heartbeat, Log, LogFormat, Streams};
pub use source::{Overrides, Place, Places, Setting};
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

    /// An error of a whole file.
    pub fn of_file(path: &Path, text: impl fmt::Display) -> Self {
        Self::at_line(path, None, text)
    }

    /// An error of a line of a file.
    pub fn at_line(path: &Path, line: Option<usize>, text: impl fmt::Display) -> Self {
        let place = Place::File {
            path: path.to_owned(),
            at: line.map(|line| (line, 1)),
        };
        Mistake {
            place,
            text: text.to_string(),
        }
        .into()
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
