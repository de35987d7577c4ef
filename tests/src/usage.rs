//! What a process holds, from /proc.

use std::fs;
use std::io;

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

/// What all threads of a process have used.
#[derive(Debug, Clone, Copy)]
pub struct Spent {
    /// How often a thread has come off a processor to wait, and so has been woken.
    pub switches: u64,
    /// On one, in nanoseconds.
    pub cpu_nanos: u64,
}

impl Spent {
    /// Reads it for a process id.
    pub fn of(id: u32) -> io::Result<Self> {
        let mut spent = Self {
            switches: 0,
            cpu_nanos: 0,
        };
        for task in fs::read_dir(format!("/proc/{id}/task"))? {
            let task = task?.path();
            let status = fs::read_to_string(task.join("status"))?;
            spent.switches += sum(&status, &["voluntary_ctxt_switches:"]);
            let times = fs::read_to_string(task.join("schedstat"))?;
            let on_cpu = times.split_whitespace().next();
            spent.cpu_nanos += on_cpu.and_then(|time| time.parse().ok()).unwrap_or(0);
        }
        Ok(spent)
    }
}

/// The sum of the values on those lines of a file of /proc that begin with one of `names`.
pub fn sum(text: &str, names: &[&str]) -> u64 {
    let lines = text
        .lines()
        .filter(|line| names.iter().any(|name| line.starts_with(name)));
    lines
        .filter_map(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok())
        .sum()
}

impl Usage {
    /// Reads it for a process id.
    pub fn of(id: u32) -> Self {
        let status = fs::read_to_string(format!("/proc/{id}/status")).expect("the process lives");
        let field = |name| usize::try_from(sum(&status, &[name])).unwrap_or(0);
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
