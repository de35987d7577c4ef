//! The yardstick: OpenSSH's own reverse port forwarding with its default cipher.

use std::fs;
use std::process::Command;

use tunnel_tests::binaries::program;

use super::{Line, free_port, start as run, wait_port};
use crate::Result;
use crate::column::{Column, Door};
use crate::proc::Pids;
use tunnel_tests::World;

/// Starts sshd and `ssh -R`, and waits for the forwarded port.
pub(crate) fn start(target: &str, line: Line) -> Result<Column> {
    let world = World::new();
    let dir = world.dir();
    let (sshd, ssh) = (
        program("sshd", "openssh-server"),
        program("ssh", "openssh-client"),
    );
    for key in ["host", "user"] {
        let made = Command::new(program("ssh-keygen", "openssh-client"))
            .args(["-q", "-t", "ed25519", "-N", "", "-f"])
            .arg(dir.join(key))
            .status()?;
        if !made.success() {
            return Err("ssh-keygen failed".into());
        }
    }
    fs::copy(dir.join("user.pub"), dir.join("authorized_keys"))?;
    // Debian's sshd wants its empty directory even where it doesn't separate privileges.
    let _ = fs::create_dir_all("/run/sshd");
    let port = free_port()?;
    let text = format!(
        "Port {port}\nListenAddress 127.0.0.1\nHostKey {0}/host\nAuthorizedKeysFile {0}/authorized_keys\nPidFile none\n\
         StrictModes no\nUsePAM no\nUseDNS no\nPermitRootLogin yes\nLogLevel ERROR\n",
        dir.display()
    );
    fs::write(dir.join("sshd_config"), text)?;
    let config = dir.join("sshd_config").display().to_string();
    let listener = run(
        "sshd",
        dir,
        &sshd,
        &["-D".into(), "-e".into(), "-f".into(), config],
    );
    wait_port(&format!("127.0.0.1:{port}"), &listener)?;
    let over = line.to(&format!("127.0.0.1:{port}"))?;
    let (_, over) = over.rsplit_once(':').ok_or("an address without a port")?;
    let entry = format!("127.0.0.1:{}", free_port()?);
    let mut args: Vec<String> = [
        "-F",
        "none",
        "-N",
        "-o",
        "BatchMode=yes",
        "-o",
        "StrictHostKeyChecking=no",
    ]
    .map(str::to_owned)
    .to_vec();
    for option in [
        "UserKnownHostsFile=/dev/null",
        "LogLevel=ERROR",
        "ExitOnForwardFailure=yes",
    ] {
        args.extend(["-o".to_owned(), option.to_owned()]);
    }
    args.extend(["-i".to_owned(), dir.join("user").display().to_string()]);
    args.extend(["-p".to_owned(), over.to_owned()]);
    args.extend([
        "-R".to_owned(),
        format!("{entry}:{target}"),
        "127.0.0.1".to_owned(),
    ]);
    let client = run("ssh", dir, &ssh, &args);
    wait_port(&entry, &client)?;
    Ok(Column {
        name: "ssh",
        door: Door::Direct(entry),
        cloud: Pids::Below(listener.id()),
        edge: Pids::One(client.id()),
        _parts: vec![Box::new(client), Box::new(listener), Box::new(world)],
    })
}
