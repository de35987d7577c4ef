//! CoreDNS with its `hosts` plugin, built by tests/cluster/build.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use crate::cluster::free;
use crate::process::Process;
use crate::wait::{secs, wait_until};
use crate::{World, kubernetes};

/// A server that answers from a hosts file. It ends when dropped.
#[derive(Debug)]
pub struct CoreDns {
    /// The process.
    pub process: Process,
    /// Where it answers.
    pub address: String,
}

impl CoreDns {
    /// Serves `file`, and looks at it every 200 ms.
    pub fn start(world: &World, file: &Path) -> Self {
        let config = format!(
            ".:53 {{\n  errors\n  hosts {} {{\n    ttl 1\n    reload 200ms\n  }}\n}}\n",
            file.display()
        );
        Self::start_by(world, &config)
    }

    /// Does what a Corefile for `.:53` says, at an address of the test's.
    pub fn start_by(world: &World, config: &str) -> Self {
        let address = free("127.0.0.1");
        let (ip, port) = address.rsplit_once(':').unwrap();
        let config = config.replace(".:53 {", &format!(".:{port} {{\n  bind {ip}"));
        let config = world.write("Corefile", &config);
        let mut command = Command::new(built());
        command.arg("-conf").arg(config);
        let process = Process::start("coredns", world.dir(), &mut command);
        wait_until("CoreDNS listens", secs(10), || {
            std::net::TcpStream::connect(&address).is_ok()
        });
        Self { process, address }
    }
}

/// The program.
fn built() -> PathBuf {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| kubernetes::programs(&["coredns"]).join("coredns"))
        .clone()
}
