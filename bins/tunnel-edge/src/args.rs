//! The command line.
use clap::{Parser, Subcommand};
use clap_complete::Shell;
use tunnel_common::args::EdgeArgs;

/// The edge's side of the tunnel: it connects to the cloud, and operators reach this machine through that connection
///
/// It opens no port. What may be reached here is what its own configuration allows: this machine's sshd, unless that says otherwise.
#[derive(Parser, Debug)]
#[command(name = "tunnel-edge", version)]
pub(crate) struct Cli {
    /// Flags win over the environment, that over the file, that over the defaults.
    #[command(flatten)]
    pub(crate) args: EdgeArgs,
    /// What to do; run, if nothing is said
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
}

/// What to do.
#[derive(Subcommand, Clone, Debug)]
pub(crate) enum Command {
    /// Serve until SIGTERM
    Run,
    /// Ask the edge that runs here by the same configuration whether its link is up: a probe
    Ready,
    /// Print a script that completes this command in a shell
    Completions {
        /// Which shell
        shell: Shell,
    },
}
