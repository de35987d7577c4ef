//! What /proc says about a process: CPU time and memory.

use std::fs;

use tunnel_tests::usage::{self, Spent};

/// The processes of one half of a column.
#[derive(Debug, Clone, Default)]
pub(crate) enum Pids {
    /// None: plain loopback has no halves.
    #[default]
    None,
    /// One process.
    One(u32),
    /// All that descend from a process, itself left out: sshd's sessions.
    Below(u32),
}

impl Pids {
    fn list(&self) -> Vec<u32> {
        match self {
            Self::None => Vec::new(),
            Self::One(pid) => vec![*pid],
            Self::Below(pid) => below(*pid),
        }
    }

    /// Private memory in KiB: pages that are in no other process.
    pub(crate) fn private_kib(&self) -> f64 {
        let list = self.list().into_iter();
        list.map(|pid| sum(pid, "smaps_rollup", &["Private_Clean:", "Private_Dirty:"]))
            .sum()
    }

    /// Resident memory in KiB.
    pub(crate) fn resident_kib(&self) -> f64 {
        self.sum("status", "VmRSS:")
    }

    /// The most that was resident at once, in KiB.
    pub(crate) fn peak_kib(&self) -> f64 {
        self.sum("status", "VmHWM:")
    }

    /// Written memory that no other process has, in KiB. What is private beside it are pages of files, which the kernel may drop.
    pub(crate) fn dirty_kib(&self) -> f64 {
        self.sum("smaps_rollup", "Private_Dirty:")
    }

    /// Threads.
    pub(crate) fn threads(&self) -> f64 {
        self.sum("status", "Threads:")
    }

    /// Bytes of the program's file, of the first process if there are several.
    pub(crate) fn program_bytes(&self) -> f64 {
        let first = self.list().into_iter().next();
        first
            .and_then(|pid| fs::metadata(format!("/proc/{pid}/exe")).ok())
            .map_or(0.0, |file| file.len() as f64)
    }

    /// How often a thread has waited, and so has been woken.
    pub(crate) fn switches(&self) -> f64 {
        self.spent().map(|spent| spent.switches as f64).sum()
    }

    /// CPU time so far, user and system, in nanoseconds.
    pub(crate) fn cpu_nanos(&self) -> f64 {
        self.spent().map(|spent| spent.cpu_nanos as f64).sum()
    }

    fn spent(&self) -> impl Iterator<Item = Spent> {
        let list = self.list().into_iter();
        list.filter_map(|pid| Spent::of(pid).ok())
    }

    fn sum(&self, file: &str, name: &str) -> f64 {
        let list = self.list().into_iter();
        list.map(|pid| sum(pid, file, &[name])).sum()
    }
}

/// The fields of /proc/PID/stat behind the name, which may hold spaces and brackets.
fn stat(pid: u32) -> Option<Vec<String>> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = text.rsplit_once(')')?;
    Some(fields.split_whitespace().map(str::to_owned).collect())
}

fn below(root: u32) -> Vec<u32> {
    let all: Vec<(u32, u32)> = fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter_map(|pid| Some((pid, stat(pid)?.get(1)?.parse().ok()?)))
        .collect();
    let mut found = vec![root];
    let mut next = 0;
    while next < found.len() {
        let parent = found[next];
        found.extend(
            all.iter()
                .filter(|(_, of)| *of == parent)
                .map(|(pid, _)| *pid),
        );
        next += 1;
    }
    found.split_off(1)
}

/// The sum of some lines of a file of /proc/PID.
fn sum(pid: u32, file: &str, names: &[&str]) -> f64 {
    let text = fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
    usage::sum(&text, names) as f64
}
