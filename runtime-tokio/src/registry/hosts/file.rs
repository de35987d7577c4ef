//! A file of `address name` lines that several processes change.
use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::net::IpAddr;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::Table;

/// What tells one state of the file from another without reading it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Stamp {
    inode: u64,
    bytes: u64,
    modified: (i64, i64),
}

/// The file, and whose lines in it are ours.
pub(super) struct HostsFile {
    path: PathBuf,
    lock: PathBuf,
    own: IpAddr,
}

impl HostsFile {
    /// Makes an empty one if there is none.
    pub(super) fn new(path: PathBuf, own: IpAddr) -> io::Result<HostsFile> {
        drop(OpenOptions::new().create(true).append(true).open(&path)?);
        // What a link points to is what others change, and what must be replaced.
        let path = path.canonicalize()?;
        let mut lock = path.clone().into_os_string();
        lock.push(".lock");
        Ok(HostsFile {
            path,
            lock: lock.into(),
            own,
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn stamp(&self) -> Option<Stamp> {
        let data = fs::metadata(&self.path).ok()?;
        Some(Stamp {
            inode: data.ino(),
            bytes: data.len(),
            modified: (data.mtime(), data.mtime_nsec()),
        })
    }

    /// Makes the lines of this replica's address name exactly these; all others stay as they are. The text then.
    pub(super) fn replace_own(
        &self,
        nodes: &BTreeSet<String>,
    ) -> io::Result<(String, Option<Stamp>)> {
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&self.lock)?;
        lock.lock()?;
        let old = match fs::read(&self.path) {
            Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(error),
        };
        let new = replaced(&old, self.own, nodes);
        if new != old || !self.path.exists() {
            self.put(&new)?;
        }
        let stamp = self.stamp();
        lock.unlock()?;
        Ok((new, stamp))
    }

    /// A reader sees the old file or the new one, never a part.
    fn put(&self, text: &str) -> io::Result<()> {
        let mut temporary = self.path.clone().into_os_string();
        temporary.push(format!(".{}.tmp", std::process::id()));
        let written = File::create(&temporary).and_then(|mut file| {
            file.write_all(text.as_bytes())?;
            let mode = fs::metadata(&self.path).map_or(0o644, |data| data.permissions().mode());
            file.set_permissions(fs::Permissions::from_mode(mode))?;
            file.sync_all()
        });
        let put = written.and_then(|()| fs::rename(&temporary, &self.path));
        if put.is_err() {
            let _ = fs::remove_file(&temporary);
        }
        put
    }
}

fn replaced(old: &str, own: IpAddr, nodes: &BTreeSet<String>) -> String {
    let mut text = String::with_capacity(old.len());
    for line in old.lines().filter(|line| address(line) != Some(own)) {
        text.push_str(line);
        text.push('\n');
    }
    for node in nodes {
        text.push_str(&format!("{own} {node}\n"));
    }
    text
}

/// Who holds what, as the file says. What isn't a line of it is skipped.
pub(super) fn table(text: &str) -> Table {
    let mut table = Table::new();
    for line in text.lines() {
        let Some(address) = address(line) else {
            continue;
        };
        let words = line.split('#').next().unwrap_or_default();
        for name in words.split_whitespace().skip(1) {
            let held = table.entry(name.to_ascii_lowercase()).or_default();
            if !held.contains(&address) {
                held.push(address);
            }
        }
    }
    table
}

fn address(line: &str) -> Option<IpAddr> {
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_own_lines_are_replaced() {
        let old = "# a comment\n10.0.0.1 a b # two\n10.0.0.2 c\n\nnonsense\n 10.0.0.1\td";
        let own: IpAddr = "10.0.0.1".parse().expect("an address");
        let nodes = ["x".to_owned(), "y".to_owned()].into();
        assert_eq!(
            replaced(old, own, &nodes),
            "# a comment\n10.0.0.2 c\n\nnonsense\n10.0.0.1 x\n10.0.0.1 y\n"
        );
        let again = replaced(&replaced(old, own, &nodes), own, &nodes);
        assert_eq!(again, replaced(old, own, &nodes));
    }

    #[test]
    fn the_table_is_read_as_coredns_reads_it() {
        let table = table("# c\n10.0.0.1 a B # d\n10.0.0.2 a\nbroken a\n\n::1 e\n");
        let of = |name: &str| table.get(name).map(|held| held.len());
        assert_eq!(
            (of("a"), of("b"), of("d"), of("e")),
            (Some(2), Some(1), None, Some(1))
        );
    }
}
