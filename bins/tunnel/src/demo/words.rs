//! The demo's own words. They go to stderr: stdout is the command's.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Instant;

use super::child::tail;
use super::folder::{CloudAddresses, Folder, NODES};
use super::orders::Order;
use super::programs::{Programs, on_path};
use crate::ssh::quoted;

pub(super) fn folder(path: &Path) {
    eprintln!(
        "Certificates, tokens, SSH keys and logs are in {}",
        path.display()
    );
}

pub(super) fn cloud_up(cloud: &CloudAddresses, replicas: usize, begun: Instant) {
    if replicas > 1 {
        eprintln!(
            "tunnel-cloud  {replicas} replicas up after {:>3} ms   one address for operators {}  CONNECT {} (plain, the first)",
            begun.elapsed().as_millis(),
            cloud.grpc,
            cloud.plain,
        );
        return;
    }
    eprintln!(
        "tunnel-cloud  up after {:>3} ms   edges {}  CONNECT {} (plain), {} (TLS)",
        begun.elapsed().as_millis(),
        cloud.grpc,
        cloud.plain,
        cloud.tls
    );
}

pub(super) fn node_up(node: &str, sshd: SocketAddr, begun: Instant) {
    eprintln!(
        "{node:<12}  up after {:>3} ms   sshd {sshd}",
        begun.elapsed().as_millis()
    );
}

/// Lines to paste into a second terminal.
pub(super) fn second_terminal(folder: &Folder, programs: &Programs, cloud: &CloudAddresses) {
    let config = quoted(&folder.join("ssh/config").to_string_lossy()).replace("%%", "%");
    let own = quoted(&programs.own.to_string_lossy()).replace("%%", "%");
    let (a, b) = (NODES[0], NODES[1]);
    let missing = |name: &str| {
        if on_path(name) {
            ""
        } else {
            "   # not installed here"
        }
    };
    eprintln!();
    eprintln!("From a second terminal, while this one is open:");
    eprintln!("  by tunnel connect (in TLS, with a token):");
    eprintln!("    ssh -F {config} {b}");
    eprintln!("  by nc:");
    eprintln!(
        "    ssh -F {config} -o ProxyCommand='nc -X connect -x {} %h %p' {a}{}",
        cloud.plain,
        missing("nc")
    );
    eprintln!("  by corkscrew:");
    let (ip, port) = (cloud.plain.ip(), cloud.plain.port());
    eprintln!(
        "    ssh -F {config} -o ProxyCommand='corkscrew {ip} {port} %h %p' {a}{}",
        missing("corkscrew")
    );
    eprintln!("  what the cloud knows:");
    eprintln!("    {own} nodes --admin http://{}", cloud.admin);
    eprintln!();
}

/// What a second terminal can do to a cluster.
pub(super) fn orders(control: &Path) {
    let control = quoted(&control.to_string_lossy()).replace("%%", "%");
    eprintln!("Try what the shell below lives through:");
    for (word, _, what) in Order::ALL {
        eprintln!("    echo {word:<11} > {control}   # {what}");
    }
    eprintln!("(A session by nc ends with the replica that it asked; tunnel connect's does not.)");
    eprintln!();
}

/// Something was done to the cluster.
pub(super) fn done(what: &str) {
    eprintln!("tunnel: demo: {what}\r");
}

pub(super) fn shell(cmd: &[String]) {
    if cmd.is_empty() {
        eprintln!(
            "A shell on {}, by ssh through the tunnel; leave it to end the demo:",
            NODES[0]
        );
    }
}

/// The last word after a shell.
pub(super) fn ended(cmd: &[String]) {
    if cmd.is_empty() {
        eprintln!("The demo has ended; its programs and its folder are gone.");
    }
}

/// The end of a log that may say why.
pub(super) fn log(path: &Path) {
    let tail = tail(path);
    if !tail.is_empty() {
        eprintln!("ssh ended with 255; the log of the sshd there ends with:\n{tail}");
    }
}
