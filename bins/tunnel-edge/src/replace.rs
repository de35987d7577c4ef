//! One edge in the place of another, without a login that fails in between: `tunnel-edge reload`.
//!
//! The command asks the edge that runs, by SIGUSR1, to start its successor, and waits at a socket for how that went. The successor is started by
//! a process that ends at once, so that it is nobody's child but the system's own, which then sees its end; it is started from the edge, and not
//! from the command, as systemd shows the service's credentials to that one alone.
use std::io::{self, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tunnel_common::exit::Exit;

/// A new edge has its link by then, or gives up.
pub(crate) const LINK_TIMEOUT: Duration = Duration::from_secs(30);
/// How long the command waits: longer.
const PATIENCE: Duration = Duration::from_secs(40);

/// Whom a process is to succeed: the variable that tells it so, and that tells the process in between.
const SUCCESSOR: &str = "TUNNEL_EDGE_SUCCESSOR_OF";
const STARTER: &str = "TUNNEL_EDGE_STARTER_FOR";

const DONE: &str = "done";

/// The edge that this one takes the place of.
pub(crate) struct Predecessor {
    pid: Pid,
    outcome: &'static str,
}

impl Predecessor {
    /// None if this process is nobody's successor.
    pub(crate) fn of_this_process() -> Option<Predecessor> {
        let pid = std::env::var(SUCCESSOR).ok()?.parse().ok()?;
        Some(Predecessor {
            pid: Pid::from_raw(pid),
            outcome: "it says why in its log",
        })
    }

    /// Lets it go.
    pub(crate) fn leave(mut self) {
        if let Err(error) = kill(self.pid, Signal::SIGUSR2) {
            tracing::warn!(pid = %self.pid, %error, "the edge that this one replaces wasn't told");
        }
        self.outcome = DONE;
    }

    /// It stays.
    pub(crate) fn give_up(mut self) {
        self.outcome = "its link isn't up after 30 s";
        tracing::error!("{}: the edge that runs goes on", self.outcome);
    }
}

impl Drop for Predecessor {
    /// Whatever came of it, the command hears of it, if there is one.
    fn drop(&mut self) {
        if let Ok(mut command) = UnixStream::connect(socket(self.pid)) {
            let _ = command.write_all(self.outcome.as_bytes());
        }
    }
}

/// Has the edge with this process id replaced, and waits for it.
pub(crate) fn reload(pid: i32) -> io::Result<Exit> {
    let pid = Pid::from_raw(pid);
    let path = socket(pid);
    let _ = std::fs::remove_file(&path);
    let listener = UnixListener::bind(&path)?;
    let (tell, told) = mpsc::channel();
    std::thread::spawn(move || {
        let mut outcome = String::new();
        let (successor, _) = listener.accept()?;
        successor.take(1 << 10).read_to_string(&mut outcome)?;
        let _ = tell.send(outcome);
        io::Result::Ok(())
    });
    kill(pid, Signal::SIGUSR1)?;
    let outcome = told.recv_timeout(PATIENCE);
    let _ = std::fs::remove_file(&path);
    match outcome.as_deref() {
        Ok(DONE) => Ok(Exit::Done),
        Ok(why) => Err(failed(why)),
        Err(_) => Err(failed("it has said nothing")),
    }
}

fn failed(why: &str) -> io::Error {
    io::Error::other(format!(
        "the new edge didn't take over: {why}; the one that runs goes on"
    ))
}

/// Starts this process's successor; there is nothing to wait for.
pub(crate) fn start_successor() {
    let started = again()
        .env(STARTER, std::process::id().to_string())
        // It is for this process.
        .env_remove("WATCHDOG_PID")
        .stdin(Stdio::null())
        .spawn();
    match started {
        Ok(mut starter) => {
            std::thread::spawn(move || starter.wait());
        }
        Err(error) => tracing::error!(%error, "no successor could be started"),
    }
}

/// Whether this was the process in between, which has nothing else to do.
pub(crate) fn is_starter() -> bool {
    let Some(pid) = std::env::var_os(STARTER) else {
        return false;
    };
    let _ = again().env_remove(STARTER).env(SUCCESSOR, pid).spawn();
    true
}

/// This program as it was called: another one by now, perhaps.
fn again() -> Command {
    let mut line = std::env::args_os();
    let mut command = Command::new(line.next().unwrap_or_default());
    command.args(line);
    command
}

/// A folder of the service's own, under systemd.
fn socket(pid: Pid) -> PathBuf {
    let folder = std::env::var_os("RUNTIME_DIRECTORY");
    let folder = folder.map_or_else(std::env::temp_dir, PathBuf::from);
    folder.join(format!("reload-{pid}.sock"))
}
