//! What /proc says about a process: CPU time and memory.

use std::fs;

/// Clock ticks a second: Linux tells user space 100 on every architecture of ours.
const TICKS: f64 = 100.0;

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

    /// CPU seconds so far, user and system.
    pub(crate) fn cpu_seconds(&self) -> f64 {
        self.list().into_iter().filter_map(cpu).sum()
    }

    /// Private memory in KiB: pages that are in no other process.
    pub(crate) fn private_kib(&self) -> f64 {
        let list = self.list().into_iter();
        list.map(|pid| sum(pid, "smaps_rollup", &["Private_Clean:", "Private_Dirty:"]))
            .sum()
    }

    /// Resident memory in KiB.
    pub(crate) fn resident_kib(&self) -> f64 {
        let list = self.list().into_iter();
        list.map(|pid| sum(pid, "status", &["VmRSS:"])).sum()
    }
}

/// The fields of /proc/PID/stat behind the name, which may hold spaces and brackets.
fn stat(pid: u32) -> Option<Vec<String>> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = text.rsplit_once(')')?;
    Some(fields.split_whitespace().map(str::to_owned).collect())
}

fn cpu(pid: u32) -> Option<f64> {
    let stat = stat(pid)?;
    let ticks = |field: usize| stat.get(field)?.parse::<f64>().ok();
    Some((ticks(11)? + ticks(12)?) / TICKS)
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

/// The sum of some lines of a file of /proc/PID, in KiB.
fn sum(pid: u32, file: &str, names: &[&str]) -> f64 {
    let text = fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
    let lines = text
        .lines()
        .filter(|line| names.iter().any(|name| line.starts_with(name)));
    lines
        .filter_map(|line| line.split_whitespace().nth(1)?.parse::<f64>().ok())
        .sum()
}
