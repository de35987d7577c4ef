//! How much memory this process may use: what the kernel and the control group say.

use std::fs;
use std::path::Path;

/// The least of the machine's memory and the limits of the control groups this process is in; `None` if neither can be read.
pub fn memory_bytes() -> Option<u64> {
    let machine = fs::read_to_string("/proc/meminfo")
        .ok()
        .and_then(|text| machine_bytes(&text));
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let group = group_files(&groups)
        .into_iter()
        .filter_map(|file| fs::read_to_string(Path::new(&file)).ok())
        .filter_map(|text| text.trim().parse::<u64>().ok())
        .min();
    machine.into_iter().chain(group).min()
}

fn machine_bytes(meminfo: &str) -> Option<u64> {
    let line = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1_024)
}

/// Every file that may hold a limit: a container sees its own group at the root, others by the path given.
fn group_files(groups: &str) -> Vec<String> {
    let mut files = vec![
        "/sys/fs/cgroup/memory.max".to_owned(),
        "/sys/fs/cgroup/memory/memory.limit_in_bytes".to_owned(),
    ];
    for line in groups.lines() {
        let mut parts = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) = (parts.next(), parts.next(), parts.next())
        else {
            continue;
        };
        let (root, name) = if controllers.is_empty() {
            ("/sys/fs/cgroup", "memory.max")
        } else if controllers
            .split(',')
            .any(|controller| controller == "memory")
        {
            ("/sys/fs/cgroup/memory", "memory.limit_in_bytes")
        } else {
            continue;
        };
        // A limit further up holds for what is below it.
        let mut path = path.trim_end_matches('/');
        while !path.is_empty() {
            files.push(format!("{root}{path}/{name}"));
            path = path.rsplit_once('/').map_or("", |(parent, _)| parent);
        }
    }
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_looked_for_up_the_tree_in_both_versions() {
        let files = group_files("4:memory:/a/b\n0::/c\n2:cpu,cpuacct:/d\n");
        assert!(files.contains(&"/sys/fs/cgroup/memory/a/b/memory.limit_in_bytes".to_owned()));
        assert!(files.contains(&"/sys/fs/cgroup/memory/a/memory.limit_in_bytes".to_owned()));
        assert!(files.contains(&"/sys/fs/cgroup/c/memory.max".to_owned()));
        assert_eq!(files.len(), 5);
    }

    #[test]
    fn the_machine_is_read_in_bytes() {
        assert_eq!(
            machine_bytes("MemTotal:       24605412 kB\nMemFree: 1 kB\n"),
            Some(25_195_941_888)
        );
        assert_eq!(machine_bytes(""), None);
    }
}
