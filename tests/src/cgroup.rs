//! A control group with a memory limit, and what the kernel counted in it. Needs root and a memory controller, of either version.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A group of the test's own, below the one that the test is in. It goes with the value.
#[derive(Debug)]
pub struct MemoryGroup {
    path: PathBuf,
    version: Version,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    One,
    Two,
}

impl MemoryGroup {
    /// A new group that may hold `bytes`; nothing of it is swapped out, where the kernel can be told so.
    pub fn new(bytes: u64) -> Self {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let number = NUMBER.fetch_add(1, Ordering::SeqCst);
        let (parent, version) = parent();
        let path = parent.join(format!("tunnel-test-{}-{number}", std::process::id()));
        fs::create_dir(&path).unwrap_or_else(|error| {
            panic!(
                "{}: {error}; tests with memory limits need root",
                path.display()
            )
        });
        let group = Self { path, version };
        match version {
            Version::One => {
                group.write("memory.limit_in_bytes", bytes);
                group.try_write("memory.memsw.limit_in_bytes", bytes);
                group.try_write("memory.swappiness", 0);
            }
            Version::Two => {
                group.write("memory.max", bytes);
                group.try_write("memory.swap.max", 0);
            }
        }
        group
    }

    /// A command that starts `program` in the group; its arguments are to be appended.
    pub fn command(&self, program: &Path) -> Command {
        let mut command = Command::new("/bin/sh");
        let enter = "echo $$ >\"$0/cgroup.procs\" && exec \"$@\"";
        command.arg("-c").arg(enter).arg(&self.path).arg(program);
        command
    }

    /// Bytes counted now, page cache and kernel memory included.
    pub fn bytes(&self) -> u64 {
        self.read(match self.version {
            Version::One => "memory.usage_in_bytes",
            Version::Two => "memory.current",
        })
    }

    /// The most that was ever counted.
    pub fn peak_bytes(&self) -> u64 {
        self.read(match self.version {
            Version::One => "memory.max_usage_in_bytes",
            Version::Two => "memory.peak",
        })
    }

    /// How often the limit was met: the kernel took back what it could do without.
    pub fn met_its_limit(&self) -> u64 {
        match self.version {
            Version::One => self.read("memory.failcnt"),
            Version::Two => self.event("memory.events", "max"),
        }
    }

    /// Processes that were killed for want of memory.
    pub fn killed(&self) -> u64 {
        let name = match self.version {
            Version::One => "memory.oom_control",
            Version::Two => "memory.events",
        };
        self.event(name, "oom_kill")
    }

    /// A line of the kernel's account, in bytes: `rss`, `cache`, `anon`, `file`…
    pub fn account(&self, name: &str) -> u64 {
        self.event("memory.stat", name)
    }

    fn event(&self, file: &str, name: &str) -> u64 {
        let text = fs::read_to_string(self.path.join(file)).unwrap();
        let mut pairs = text.lines().filter_map(|line| line.split_once(' '));
        let found = pairs.find(|(have, _)| *have == name);
        found.and_then(|(_, value)| value.parse().ok()).unwrap_or(0)
    }

    fn read(&self, file: &str) -> u64 {
        let text = fs::read_to_string(self.path.join(file)).unwrap();
        text.trim().parse().unwrap()
    }

    fn write(&self, file: &str, value: u64) {
        fs::write(self.path.join(file), value.to_string()).unwrap();
    }

    /// What not every kernel has.
    fn try_write(&self, file: &str, value: u64) {
        let _ = fs::write(self.path.join(file), value.to_string());
    }
}

impl Drop for MemoryGroup {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.path);
    }
}

/// The group that this process is in, where the memory controller is.
fn parent() -> (PathBuf, Version) {
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap();
    let of = |is_it: &dyn Fn(&str) -> bool| {
        groups.lines().find_map(|line| {
            let mut parts = line.splitn(3, ':').skip(1);
            let controllers = parts.next()?;
            let path = parts.next()?.trim_start_matches('/');
            is_it(controllers).then(|| path.to_owned())
        })
    };
    if let Some(path) = of(&|controllers| controllers.split(',').any(|one| one == "memory")) {
        return (Path::new("/sys/fs/cgroup/memory").join(path), Version::One);
    }
    let path = of(&str::is_empty).expect("a control group");
    (Path::new("/sys/fs/cgroup").join(path), Version::Two)
}
