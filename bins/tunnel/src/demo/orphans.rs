//! What outlived its session. sshd leaves a command running whose client went away; the demo leaves nothing, so it
//! takes the orphans of its sessions for its own children and ends them.

use std::fs;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::prctl::set_child_subreaper;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;

/// From the polite signal to the other one.
const END_TIMEOUT: Duration = Duration::from_millis(500);

/// From now on orphans below us are ours, not init's.
pub(super) fn adopt() -> Result<(), Errno> {
    set_child_subreaper(true)
}

/// Ends every child that there is; called when those that were started by us have been waited for.
pub(super) fn end_all() {
    let begun = Instant::now();
    let mut signal = Signal::SIGHUP;
    loop {
        while matches!(waitpid(None, Some(WaitPidFlag::WNOHANG)), Ok(status) if status.pid().is_some())
        {
        }
        let left = children();
        if left.is_empty() || begun.elapsed() > 4 * END_TIMEOUT {
            return;
        }
        if begun.elapsed() > END_TIMEOUT {
            signal = Signal::SIGKILL;
        }
        for child in left {
            let _ = kill(child, signal);
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Processes whose parent is this one.
fn children() -> Vec<Pid> {
    let own = nix::unistd::getpid();
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    let pid = |entry: fs::DirEntry| entry.file_name().to_str()?.parse().ok().map(Pid::from_raw);
    entries
        .flatten()
        .filter_map(pid)
        .filter(|pid| parent_of(*pid) == Some(own))
        .collect()
}

fn parent_of(pid: Pid) -> Option<Pid> {
    parse_parent(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// `pid (name) state parent …`; the name may hold anything.
fn parse_parent(stat: &str) -> Option<Pid> {
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_whitespace()
        .nth(1)?
        .parse()
        .ok()
        .map(Pid::from_raw)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parent_is_read_behind_any_name() {
        assert_eq!(
            parse_parent("12 (a) b) S 7 12 12 0"),
            Some(Pid::from_raw(7))
        );
        assert_eq!(parse_parent("12"), None);
        assert_eq!(
            parent_of(nix::unistd::getpid()),
            Some(nix::unistd::getppid())
        );
    }
}
