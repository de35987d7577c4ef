//! Arguments that tunnel-cloud and tunnel-edge have in common. Every flag is a short name for a key of the file.

use std::path::PathBuf;

use clap::Args;

use crate::config::Overrides;

/// Where the configuration comes from.
#[derive(Args, Clone, Debug, Default)]
pub struct ConfigArgs {
    /// Read this configuration file
    #[arg(long, value_name = "FILE", env = "TUNNEL_CONFIG", global = true)]
    pub config: Option<PathBuf>,
    /// Check the configuration and the files it names, and leave
    #[arg(long, global = true)]
    pub check: bool,
    /// Set any key of the configuration file, such as grpc.listen=127.0.0.1:9000 (may be repeated)
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = key_value, global = true)]
    pub set: Vec<(String, String)>,
    /// error, warn, info, debug, trace, or directives as in RUST_LOG [log.level]
    #[arg(long, value_name = "LEVEL", global = true)]
    pub log_level: Option<String>,
    /// Serve health, metrics and the API here; "" for nowhere [admin.listen]
    #[arg(long, value_name = "ADDR", global = true)]
    pub admin_listen: Option<String>,
}

/// Flags of tunnel-cloud.
#[derive(Args, Clone, Debug, Default)]
pub struct CloudArgs {
    /// Where the configuration comes from.
    #[command(flatten)]
    pub common: ConfigArgs,
    /// Listen here for edges [grpc.listen]
    #[arg(long, value_name = "ADDR", global = true)]
    pub grpc_listen: Option<String>,
    /// Listen here for CONNECT (may be repeated) [connect.0.listen, connect.1.listen, …]
    #[arg(long, value_name = "ADDR", global = true)]
    pub connect_listen: Vec<String>,
}

/// Flags of tunnel-edge.
#[derive(Args, Clone, Debug, Default)]
pub struct EdgeArgs {
    /// Where the configuration comes from.
    #[command(flatten)]
    pub common: ConfigArgs,
    /// This node's name [node.name]
    #[arg(long, value_name = "NAME", global = true)]
    pub node_name: Option<String>,
    /// A cloud's gRPC address (may be repeated) [cloud.addresses]
    #[arg(long, value_name = "HOST:PORT", global = true)]
    pub cloud: Vec<String>,
    /// The file that holds this node's token [node.token_file]
    #[arg(long, value_name = "FILE", global = true)]
    pub token_file: Option<PathBuf>,
}

impl ConfigArgs {
    fn add_to(&self, overrides: &mut Overrides) {
        for (key, value) in &self.set {
            overrides.set(key, value, "--set");
        }
        for (key, value, flag) in [
            ("log.level", &self.log_level, "--log-level"),
            ("admin.listen", &self.admin_listen, "--admin-listen"),
        ] {
            if let Some(value) = value {
                overrides.set(key, value, flag);
            }
        }
    }
}

impl CloudArgs {
    /// The flags as keys and values. A named flag wins over `--set`.
    pub fn overrides(&self) -> Overrides {
        let mut overrides = Overrides::default();
        self.common.add_to(&mut overrides);
        if let Some(address) = &self.grpc_listen {
            overrides.set("grpc.listen", address, "--grpc-listen");
        }
        for (index, address) in self.connect_listen.iter().enumerate() {
            overrides.set(
                format!("connect.{index}.listen"),
                address,
                "--connect-listen",
            );
        }
        overrides
    }
}

impl EdgeArgs {
    /// The flags as keys and values. A named flag wins over `--set`.
    pub fn overrides(&self) -> Overrides {
        let mut overrides = Overrides::default();
        self.common.add_to(&mut overrides);
        if let Some(name) = &self.node_name {
            overrides.set("node.name", name, "--node-name");
        }
        if !self.cloud.is_empty() {
            overrides.set("cloud.addresses", self.cloud.join(","), "--cloud");
        }
        if let Some(path) = &self.token_file {
            overrides.set(
                "node.token_file",
                path.display().to_string(),
                "--token-file",
            );
        }
        overrides
    }
}

fn key_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.trim().is_empty() => {
            Ok((key.trim().to_owned(), value.trim().to_owned()))
        }
        _ => Err("expected KEY=VALUE, such as grpc.listen=127.0.0.1:9000".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::config::EdgeConfig;

    #[derive(Parser)]
    struct Edge {
        #[command(flatten)]
        args: EdgeArgs,
    }

    #[test]
    fn flags_are_keys() {
        let edge = Edge::try_parse_from([
            "tunnel-edge",
            "--node-name=node-A",
            "--cloud=a:1",
            "--cloud=b:2",
            "--set",
            "targets.map.22=127.0.0.1:2222",
            "--set",
            "reconnect.min=1s",
        ])
        .expect("arguments");
        let config = EdgeConfig::load(Some("/dev/null".as_ref()), &edge.args.overrides(), &|_| {
            None
        })
        .expect("config");
        assert_eq!(config.node.name, "node-A");
        assert_eq!(config.cloud.addresses.len(), 2);
        assert_eq!(config.reconnect.min.as_secs(), 1);
        assert_eq!(config.targets.map.len(), 1);
        assert!(Edge::try_parse_from(["tunnel-edge", "--set", "x"]).is_err());
    }
}
