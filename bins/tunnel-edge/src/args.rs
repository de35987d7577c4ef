//! The command line.
use clap::{Parser, Subcommand};
#[cfg(feature = "runtime-tokio")]
use clap_complete::Shell;
use tunnel_common::args::EdgeArgs;

use crate::install::{InstallArgs, UninstallArgs};

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
    /// Set this machine up: configuration, token, authority, and a service that starts at boot (systemd, or OpenWrt's procd)
    ///
    /// The flags become the configuration: tunnel-edge install --cloud cloud.example.com:9000 --node-name node-A --token-file token --ca ca.crt.
    /// What is there already and says something else is kept, and the command fails, unless --force is given.
    Install(InstallArgs),
    /// Take the service away again; configuration and token stay, unless --purge is given
    Uninstall(UninstallArgs),
    /// Put a new edge, by what the files and the program are now, in the place of one that runs, and wait until its link is up
    ///
    /// Then the other takes nothing new, and ends with its last stream. If the new one isn't linked within 30 s, nothing changes. This is what
    /// `systemctl reload` does; it is for the user whose edge it is.
    Reload {
        /// The process id of the edge that runs
        #[arg(value_parser = clap::value_parser!(i32).range(1..))]
        pid: i32,
    },
    #[cfg(feature = "runtime-tokio")]
    /// Print a script that completes this command in a shell
    Completions {
        /// Which shell
        shell: Shell,
    },
}
