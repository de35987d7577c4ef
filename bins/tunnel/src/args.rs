//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

const ABOUT: &str = "Reach edge nodes behind NAT by ssh, through tunnel-cloud";

const AFTER: &str = "\
Getting started:
  tunnel demo                      see it all on this machine, nothing to set up
  tunnel ssh root@node-A           a shell on node-A
  tunnel ssh node-A -- -L 8080:localhost:80 uptime

As ssh's ProxyCommand, in ~/.ssh/config:
  Host edge-*
      ProxyCommand tunnel connect %h %p

The server and the credentials come from flags, the environment or ~/.config/tunnel/config.toml:
  server = \"grpcs://cloud.example.com:9000\"    # https://HOST:2222 is CONNECT in TLS, http:// without
  ca = \"~/.config/tunnel/ca.crt\"
  token_file = \"~/.config/tunnel/token\"        # or user and password_file
With --kube-context the server is the one in that cluster, and no port of it needs to be open.";

/// All of the command line.
#[derive(Debug, Parser)]
#[command(name = "tunnel", version, about = ABOUT, after_help = AFTER, max_term_width = 110)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) server: ServerArgs,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Where the server is, and who asks.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct ServerArgs {
    /// Configuration file [default: ~/.config/tunnel/config.toml]
    #[arg(long, global = true, value_name = "FILE", env = "TUNNEL_CONFIG")]
    pub(crate) config: Option<PathBuf>,
    /// The cloud: grpcs://HOST:9000, or its CONNECT port: https://HOST:2222, http://HOST:2222 (plain) [env: TUNNEL_SERVER]
    #[arg(long, global = true, value_name = "URL")]
    pub(crate) server: Option<String>,
    /// The cloud in a Kubernetes cluster, of this context of your kubeconfig: through its API server, by kubectl port-forward
    #[arg(long, global = true, value_name = "CONTEXT", conflicts_with = "server")]
    pub(crate) kube_context: Option<String>,
    /// With --kube-context: the kubeconfig [default: where kubectl looks]
    #[arg(long, global = true, value_name = "FILE", requires = "kube_context")]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// With --kube-context: where tunnel-cloud is [default: edge-system]
    #[arg(
        long,
        global = true,
        value_name = "NAMESPACE",
        requires = "kube_context"
    )]
    pub(crate) kube_namespace: Option<String>,
    /// File with the authorities (PEM) that the server's certificate is checked against
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) ca: Option<PathBuf>,
    /// User name, for a server that wants a password (see --password-file) [env: TUNNEL_USER]
    #[arg(long, global = true, value_name = "NAME")]
    pub(crate) user: Option<String>,
    /// File with the user's password in its first line
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) password_file: Option<PathBuf>,
    /// File with a token in its first line [env: TUNNEL_TOKEN_FILE; TUNNEL_TOKEN holds the token itself]
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) token_file: Option<PathBuf>,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Connect stdin and stdout to a port of a node (ssh's ProxyCommand)
    Connect {
        /// The node's name; ssh's %h
        host: String,
        /// The port there; ssh's %p
        #[arg(value_parser = clap::value_parser!(u16).range(1..))]
        port: u16,
    },
    /// Run ssh to a node, through the tunnel
    ///
    /// What comes after the node goes to ssh as it is: a command, or after `--` options too. ssh's own configuration
    /// holds; its exit status is ours.
    Ssh {
        /// The node, or user@node
        #[arg(value_name = "[USER@]NODE")]
        node: String,
        /// For ssh: options and a command to run there
        #[arg(
            trailing_var_arg = true,
            allow_hyphen_values = true,
            value_name = "ARGS"
        )]
        rest: Vec<String>,
    },
    /// List the nodes that are connected
    Nodes(List),
    /// List the connections that are open
    Streams(List),
    /// The product on this machine: a cloud, two nodes with an OpenSSH server each, and a shell on one of them
    ///
    /// Makes certificates, tokens and SSH keys in a temporary folder, starts tunnel-cloud, two tunnel-edges and two sshd
    /// on loopback, and opens a shell on node-A. Everything ends, and the folder goes, when the shell ends or on Ctrl-C.
    Demo {
        /// Number of tunnel-cloud replicas
        #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(1..=9))]
        replicas: usize,
        /// With several replicas: cut lines, kill and replace replicas under a session, and report how long it stood still
        #[arg(long, conflicts_with = "cmd")]
        torture: bool,
        /// Run this on node-A instead of a shell, and exit with its status
        #[arg(last = true, value_name = "CMD")]
        cmd: Vec<String>,
    },
    /// Install tunnel-cloud and tunnel-edge in a Kubernetes cluster: the Helm chart's manifests, by kubectl
    ///
    /// `--dry-run` prints them. What can be set stands in `--show-values`.
    Install(crate::install::InstallArgs),
    /// Print a completion script: tunnel completions bash > /etc/bash_completion.d/tunnel
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Run a program that ends when we do (for the demo's children)
    #[command(name = crate::demo::CHILD_COMMAND, hide = true)]
    Child {
        /// The program and its arguments
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        program: Vec<std::ffi::OsString>,
    },
}

/// How to list.
#[derive(Debug, Args)]
pub(crate) struct List {
    /// Table or JSON
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    pub(crate) output: Format,
    /// The cloud's admin address; several, by commas, are asked one after another
    #[arg(
        long,
        value_name = "URL",
        value_delimiter = ',',
        conflicts_with = "kube_context",
        default_value = "http://127.0.0.1:6000"
    )]
    pub(crate) admin: Vec<String>,
}

/// How a list is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Aligned columns
    Table,
    /// {"items":[…]}
    Json,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn ssh_takes_options_and_commands_after_the_node() {
        let parse = |words: &[&str]| match Cli::try_parse_from(words).expect("parses").command {
            Command::Ssh { node, rest } => (node, rest.join(" ")),
            other => panic!("{other:?}"),
        };
        assert_eq!(
            parse(&["tunnel", "ssh", "root@node-A"]),
            ("root@node-A".into(), String::new())
        );
        assert_eq!(
            parse(&[
                "tunnel", "ssh", "node-A", "--", "-v", "-L", "1:x:2", "uptime"
            ]),
            ("node-A".into(), "-v -L 1:x:2 uptime".into())
        );
        assert_eq!(
            parse(&["tunnel", "ssh", "node-A", "ls", "-l"]),
            ("node-A".into(), "ls -l".into())
        );
    }

    #[test]
    fn demo_takes_its_command_behind_two_dashes() {
        match Cli::try_parse_from(["tunnel", "demo", "--", "sh", "-c", "exit 3"])
            .expect("parses")
            .command
        {
            Command::Demo { replicas, cmd, .. } => assert_eq!((replicas, cmd.len()), (1, 3)),
            other => panic!("{other:?}"),
        }
        assert!(Cli::try_parse_from(["tunnel", "connect", "node-a", "0"]).is_err());
    }
}
