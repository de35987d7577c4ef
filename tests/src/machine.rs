//! A machine of a test's own: a real systemd as process 1, over a copy of this machine's files, in namespaces.
//!
//! Its network is that of the thread that boots it. It goes with the value: every process in it, its files, its control groups. Needs root.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::binaries::program;
use crate::openssh::success;
use crate::pages::repository;
use crate::wait::{secs, wait_until};

/// A machine that runs.
#[derive(Debug)]
pub struct Machine {
    /// Of `unshare`, into which `setpriv` turns, and whose only child is process 1.
    outside: Child,
    /// Process 1, as it is numbered here.
    init: Pid,
    dir: TempDir,
}

impl Machine {
    /// Boots one and waits until it is up.
    pub fn boot() -> Machine {
        assert!(
            nix::unistd::geteuid().is_root(),
            "tests that boot a machine need root: sudo ./test install"
        );
        let dir = tempfile::Builder::new()
            .prefix("machine-")
            .tempdir()
            .unwrap();
        // A test that is killed takes it along, too.
        let outside = Command::new(program("setpriv", "util-linux"))
            .args(["--pdeathsig", "KILL", "unshare"])
            .args(["--pid", "--mount", "--ipc", "--uts", "--fork"])
            .args(["--kill-child", "--"])
            .arg(repository("tests/machine/boot"))
            .arg(dir.path())
            .process_group(0)
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let children = format!("/proc/{0}/task/{0}/children", outside.id());
        let mut init = None;
        wait_until("the machine has a process", secs(10), || {
            let children = fs::read_to_string(&children).unwrap_or_default();
            init = children.trim().parse().ok();
            init.is_some()
        });
        let machine = Machine {
            outside,
            init: Pid::from_raw(init.unwrap()),
            dir,
        };
        wait_until("systemd has booted", secs(30), || {
            let output = machine.run("systemctl", &["is-system-running"]);
            let state = String::from_utf8_lossy(&output.stdout).into_owned();
            matches!(state.trim(), "running" | "degraded")
        });
        machine
    }

    /// A program in it, by root.
    pub fn command(&self, name: &str) -> Command {
        let mut command = Command::new(program("nsenter", "util-linux"));
        command
            .args(["--mount", "--pid", "--ipc", "--uts", "--cgroup", "--root"])
            .args(["--wdns=/", "--target"])
            .arg(self.init.to_string())
            .arg("--")
            .arg(name)
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("HOME", "/root")
            .env("DEBIAN_FRONTEND", "noninteractive")
            .stdin(Stdio::null());
        command
    }

    /// Runs one to its end.
    pub fn run(&self, name: &str, line: &[&str]) -> Output {
        self.command(name).args(line).output().unwrap()
    }

    /// The same; it must succeed. What it said.
    #[track_caller]
    pub fn ask(&self, name: &str, line: &[&str]) -> String {
        let output = self.run(name, line);
        success(&format!("{name} {}", line.join(" ")), &output);
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    /// One property of a unit.
    #[track_caller]
    pub fn show(&self, unit: &str, property: &str) -> String {
        self.ask("systemctl", &["show", "-P", property, unit])
    }

    /// What a unit has logged, and systemd of it.
    pub fn log(&self, unit: &str) -> String {
        let output = self.run(
            "journalctl",
            &["--no-pager", "-q", "-o", "short-precise", "-u", unit],
        );
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// A file of its, from outside.
    pub fn path(&self, path: &str) -> PathBuf {
        Path::new("/proc")
            .join(self.init.to_string())
            .join("root")
            .join(path.trim_start_matches('/'))
    }

    /// Puts a file there.
    pub fn put(&self, path: &str, bytes: impl AsRef<[u8]>) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- the machine's log ---\n{}", self.log("tunnel-edge"));
        }
        // All of its processes end with the first.
        let _ = kill(self.init, Signal::SIGKILL);
        let _ = self.outside.wait();
        let name = self.dir.path().file_name().unwrap();
        let own = format!("tunnel-test-{}", name.display());
        remove_groups(&Path::new("/sys/fs/cgroup").join(&own));
        for group in fs::read_dir("/sys/fs/cgroup")
            .into_iter()
            .flatten()
            .flatten()
        {
            remove_groups(&group.path().join(&own));
        }
    }
}

/// Groups have no files that could be removed, only groups below them.
fn remove_groups(group: &Path) {
    for below in fs::read_dir(group).into_iter().flatten().flatten() {
        if below.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_groups(&below.path());
        }
    }
    let _ = fs::remove_dir(group);
}
