//! `tunnel-edge ready`, as a kubelet's probe runs it.
#![allow(clippy::unwrap_used)]

use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

struct Edge(Child);

impl Edge {
    /// Runs until its log says so.
    fn start(config: &Path) -> Edge {
        let mut child = command(config).stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        assert!(lines.any(|line| line.unwrap().contains("tunnel-edge is running")));
        std::thread::spawn(move || lines.for_each(drop));
        Edge(child)
    }
}

impl Drop for Edge {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn command(config: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tunnel-edge"));
    command.arg("--config").arg(config).env_remove("RUST_LOG");
    command
}

fn ready(config: &Path) -> Output {
    command(config).arg("ready").output().unwrap()
}

#[test]
fn it_asks_the_edge_of_its_own_configuration() {
    let dir = tempfile::tempdir().unwrap();
    let (config, socket) = (dir.path().join("edge.toml"), dir.path().join("admin.sock"));
    let (token, ca) = (dir.path().join("token"), dir.path().join("ca.crt"));
    std::fs::write(&token, "secret\n").unwrap();
    std::fs::set_permissions(&token, PermissionsExt::from_mode(0o600)).unwrap();
    let authority = rcgen::generate_simple_self_signed([]).unwrap();
    std::fs::write(&ca, authority.cert.pem()).unwrap();
    // Nothing listens at the cloud's address.
    let text = format!(
        "node = {{ name = \"node-a\", token_file = {token:?} }}\n\
         cloud = {{ addresses = [\"127.0.0.1:1\"], ca = {ca:?} }}\n\
         admin = {{ listen = \"\", socket = {socket:?} }}\n",
    );
    std::fs::write(&config, text).unwrap();
    let said = |output: Output| String::from_utf8(output.stderr).unwrap();

    let nobody = ready(&config);
    assert_eq!(nobody.status.code(), Some(1));
    assert!(said(nobody).contains("admin.sock: No such file"));

    let first = Edge::start(&config);
    let down = ready(&config);
    assert_eq!(down.status.code(), Some(1));
    assert_eq!(said(down), "tunnel-edge: the link is down\n");
    let mode = std::fs::metadata(&socket).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);

    // One that was killed leaves its socket behind.
    drop(first);
    assert!(socket.exists());
    let _second = Edge::start(&config);
    assert_eq!(said(ready(&config)), "tunnel-edge: the link is down\n");
}
