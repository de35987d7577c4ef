//! A file of `address name` lines that several processes change.
use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::net::IpAddr;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::registry::lines::replaced;

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
        let new = replaced(&old, self.own, nodes.iter().map(String::as_str));
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
