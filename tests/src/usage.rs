//! What a process holds, from /proc.

use std::fs;

/// One reading of a process's resources.
#[derive(Debug, Clone, Copy)]
pub struct Usage {
    /// Open file descriptors.
    pub fds: usize,
    /// Threads.
    pub threads: usize,
    /// Resident memory in KiB.
    pub resident_kib: usize,
    /// Private anonymous memory in KiB.
    pub private_kib: usize,
}

/// Its unique set size in KiB: pages that would be free if it ended, those of its program included.
pub fn unique_kib(id: u32) -> usize {
    let rollup = fs::read_to_string(format!("/proc/{id}/smaps_rollup")).expect("the process lives");
    rollup
        .lines()
        .filter(|line| line.starts_with("Private_"))
        .filter_map(|line| line.split_whitespace().nth(1)?.parse::<usize>().ok())
        .sum()
}

impl Usage {
    /// Reads it for a process id.
    pub fn of(id: u32) -> Self {
        let status = fs::read_to_string(format!("/proc/{id}/status")).expect("the process lives");
        let field = |name: &str| {
            let line = status.lines().find(|line| line.starts_with(name));
            line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok())
                .unwrap_or(0)
        };
        Self {
            fds: fs::read_dir(format!("/proc/{id}/fd"))
                .expect("the process lives")
                .count(),
            threads: field("Threads:"),
            resident_kib: field("VmRSS:"),
            private_kib: field("RssAnon:"),
        }
    }
}
