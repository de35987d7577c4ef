//! The command line.
use clap::{Parser, Subcommand};
use clap_complete::Shell;
use tunnel_common::args::CloudArgs;

/// The cloud's side of the tunnel: edges connect to it, and operators reach them through it
///
/// Edges keep a gRPC connection open to it. Whoever asks it for `CONNECT node:22` is connected through that to the node's sshd.
#[derive(Parser, Debug)]
#[command(
    name = "tunnel-cloud",
    version,
    args_conflicts_with_subcommands = false
)]
pub(crate) struct Cli {
    /// Flags win over the environment, that over the file, that over the defaults.
    #[command(flatten)]
    pub(crate) args: CloudArgs,
    /// What to do; run, if nothing is said
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
}

/// What to do.
#[derive(Subcommand, Clone, Debug)]
pub(crate) enum Command {
    /// Serve until SIGTERM
    Run,
    /// Ask the replica on this machine to leave, and wait until it may be ended without loss
    Drain,
    /// Read a password from standard input and print its hash for the users file
    HashPassword,
    /// Make an authority and the replicas' certificate in Kubernetes, for a cluster without cert-manager
    ///
    /// Secrets `tunnel-ca` and `tunnel-cloud-tls`, and a ConfigMap `tunnel-ca` for edges, in the namespace of the Pod that it runs in
    /// (registry.namespace). It renews its own, and leaves alone what others made.
    Certificates {
        /// The replicas' Secret
        #[arg(long, value_name = "NAME", default_value = "tunnel-cloud-tls")]
        secret: String,
        /// A name that the cloud is reached by, beside tunnel.cloud.io; several times if there are more
        #[arg(long = "dns-name", value_name = "NAME")]
        names: Vec<String>,
    },
    /// Print a script that completes this command in a shell
    Completions {
        /// Which shell
        shell: Shell,
    },
}
