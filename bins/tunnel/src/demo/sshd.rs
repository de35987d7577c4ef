//! A node's OpenSSH server. sshd can't say which port it got when it is asked for any, so the demo listens itself and
//! gives each connection to an `sshd -i`, as inetd does.

use std::fs::{self, DirBuilder};
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::child::{append, command, end};
use super::programs::Programs;

/// Where sshd locks up its unprivileged part; Debian makes it when the service starts.
const PRIVSEP: &str = "/run/sshd";

/// One node's server.
pub(super) struct Sshd {
    address: SocketAddr,
    sessions: Sessions,
}

type Sessions = Arc<Mutex<Vec<Child>>>;

impl Sshd {
    /// Listens on a port of loopback, and serves it.
    pub(super) fn start(
        programs: &Programs,
        folder: &Path,
        node: &str,
        root: bool,
    ) -> io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        let address = listener.local_addr()?;
        let sessions = Sessions::default();
        let spawner = Spawner {
            own: programs.own.clone(),
            sshd: programs.sshd.clone(),
            config: folder.join(format!("ssh/sshd_config-{node}")),
            log: folder.join(format!("log/sshd-{node}.log")),
            root,
        };
        let shared = Arc::clone(&sessions);
        std::thread::Builder::new()
            .name(format!("sshd {node}"))
            .spawn(move || {
                loop {
                    match listener
                        .accept()
                        .and_then(|(socket, _)| spawner.serve(socket))
                    {
                        Ok(child) => locked(&shared).push(child),
                        // Out of descriptors or processes: whoever asked sees the end of the connection.
                        Err(_) => std::thread::sleep(Duration::from_millis(50)),
                    }
                    reap(&shared);
                }
            })?;
        Ok(Self { address, sessions })
    }

    /// Where it listens.
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Collects sessions that ended.
    pub(super) fn reap(&self) {
        reap(&self.sessions);
    }

    /// Ends all sessions.
    pub(super) fn end(&self) {
        for mut child in locked(&self.sessions).drain(..) {
            end(&mut child);
        }
    }
}

struct Spawner {
    own: PathBuf,
    sshd: PathBuf,
    config: PathBuf,
    log: PathBuf,
    root: bool,
}

impl Spawner {
    fn serve(&self, socket: TcpStream) -> io::Result<Child> {
        if self.root {
            // Each time: another demo may have taken it away with itself.
            make_privsep()?;
        }
        socket.set_nodelay(true)?;
        let input = OwnedFd::from(socket.try_clone()?);
        command(&self.own, &self.sshd)
            .arg("-i")
            .arg("-f")
            .arg(&self.config)
            .arg("-E")
            .arg(&self.log)
            .stdin(Stdio::from(input))
            .stdout(Stdio::from(OwnedFd::from(socket)))
            .stderr(append(&self.log)?)
            .spawn()
    }
}

/// Makes sshd's folder where it is missing: true if it was.
pub(super) fn make_privsep() -> io::Result<bool> {
    match DirBuilder::new().mode(0o755).create(PRIVSEP) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(io::Error::new(
            error.kind(),
            format!("{PRIVSEP}, which sshd needs: {error}"),
        )),
    }
}

/// Takes away what [`make_privsep`] made.
pub(super) fn remove_privsep() {
    let _ = fs::remove_dir(PRIVSEP);
}

fn reap(sessions: &Sessions) {
    locked(sessions).retain_mut(|child| matches!(child.try_wait(), Ok(None)));
}

fn locked(sessions: &Sessions) -> std::sync::MutexGuard<'_, Vec<Child>> {
    sessions.lock().unwrap_or_else(PoisonError::into_inner)
}
