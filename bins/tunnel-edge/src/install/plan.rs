//! What is to be done, each thing said before it is: so that a dry run is the same without the doing.
use std::fmt;
use std::fs;
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::Refused;
use super::machine::Machine;

/// Steps in the order in which they are done.
pub(super) struct Plan<'a> {
    machine: &'a Machine,
    is_forced: bool,
    steps: Vec<Step>,
}

enum Step {
    Write {
        path: PathBuf,
        mode: u32,
        bytes: Vec<u8>,
        keeps_old: bool,
    },
    Mode(PathBuf, u32),
    Link(PathBuf, String),
    Remove(PathBuf),
    Run(Vec<String>),
}

impl<'a> Plan<'a> {
    pub(super) fn new(machine: &'a Machine, is_forced: bool) -> Plan<'a> {
        Plan {
            machine,
            is_forced,
            steps: Vec::new(),
        }
    }

    /// A file with these contents. One that is there and is the `owner`'s isn't replaced unasked.
    pub(super) fn file(
        &mut self,
        path: &str,
        mode: u32,
        bytes: Vec<u8>,
        is_owners: bool,
    ) -> Result<(), Refused> {
        let path = self.machine.path(path);
        let keeps_old = match fs::read(&path) {
            Ok(there) if there == bytes => {
                if fs::metadata(&path)
                    .is_ok_and(|about| about.permissions().mode() & 0o7777 != mode)
                {
                    self.steps.push(Step::Mode(path, mode));
                }
                return Ok(());
            }
            Ok(_) if is_owners && !self.is_forced => {
                return Err(Refused::failed(format!(
                    "{} is there and says something else: edit it, or replace it with --force; nothing was changed",
                    path.display()
                )));
            }
            Ok(_) => is_owners,
            Err(error) if error.kind() == ErrorKind::NotFound => false,
            Err(error) => return Err(Refused::failed(format!("{}: {error}", path.display()))),
        };
        self.steps.push(Step::Write {
            path,
            mode,
            bytes,
            keeps_old,
        });
        Ok(())
    }

    /// The same for what the caller was given; else it must be there.
    pub(super) fn given(
        &mut self,
        path: &str,
        mode: u32,
        bytes: Option<Vec<u8>>,
        what: &str,
    ) -> Result<(), Refused> {
        match bytes {
            Some(bytes) => self.file(path, mode, bytes, true),
            None if self.machine.path(path).exists() => Ok(()),
            None => Err(Refused::usage(&format!(
                "{path} isn't there yet; it needs {what}"
            ))),
        }
    }

    pub(super) fn link(&mut self, path: &str, to: &str) {
        let path = self.machine.path(path);
        if fs::read_link(&path).ok().as_deref() != Some(Path::new(to)) {
            self.steps.push(Step::Link(path, to.to_owned()));
        }
    }

    pub(super) fn remove(&mut self, path: &str) {
        let path = self.machine.path(path);
        if fs::symlink_metadata(&path).is_ok() {
            self.steps.push(Step::Remove(path));
        }
    }

    pub(super) fn command(&mut self, line: &[&str]) {
        let line = line.iter().map(|&word| word.to_owned());
        self.steps.push(Step::Run(line.collect()));
    }

    /// Whether a file at or below `path` is written.
    pub(super) fn changes(&self, path: &str) -> bool {
        let below = self.machine.path(path);
        self.steps.iter().any(|step| match step {
            Step::Write { path, .. } => path.starts_with(&below),
            Step::Mode(..) | Step::Link(..) | Step::Remove(_) | Step::Run(_) => false,
        })
    }

    pub(super) fn run(self, is_dry: bool) -> Result<(), Refused> {
        let mut out = io::stdout().lock();
        if self.steps.is_empty() {
            let _ = writeln!(out, "nothing to do");
        }
        for step in self.steps {
            // Nobody may be reading any more.
            let _ = writeln!(out, "{}{step}", if is_dry { "would " } else { "" });
            if !is_dry {
                step.run()
                    .map_err(|error| Refused::failed(format!("{step}: {error}")))?;
            }
        }
        Ok(())
    }
}

impl Step {
    fn run(&self) -> io::Result<()> {
        match self {
            Step::Write {
                path,
                mode,
                bytes,
                keeps_old,
            } => {
                folder(path)?;
                if *keeps_old {
                    fs::rename(path, with(path, ".old"))?;
                }
                write(path, *mode, bytes)
            }
            Step::Mode(path, mode) => fs::set_permissions(path, fs::Permissions::from_mode(*mode)),
            Step::Link(path, to) => {
                folder(path)?;
                let _ = fs::remove_file(path);
                symlink(to, path)
            }
            Step::Remove(path) => fs::remove_file(path),
            Step::Run(line) => {
                let status = Command::new(&line[0]).args(&line[1..]).status()?;
                match status.success() {
                    true => Ok(()),
                    false => Err(io::Error::other(status.to_string())),
                }
            }
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::Write {
                path,
                mode,
                keeps_old,
                ..
            } => {
                let path = path.display();
                let what = if *keeps_old { "replace" } else { "write" };
                write!(f, "{what} {path} (mode {mode:04o})")
            }
            Step::Mode(path, mode) => write!(f, "give {} mode {mode:04o}", path.display()),
            Step::Link(path, to) => write!(f, "link {} to {to}", path.display()),
            Step::Remove(path) => write!(f, "remove {}", path.display()),
            Step::Run(line) => write!(f, "run {}", line.join(" ")),
        }
    }
}

fn folder(file: &Path) -> io::Result<()> {
    file.parent().map_or(Ok(()), fs::create_dir_all)
}

/// In one step, and for nobody else's eyes before it has its mode.
fn write(path: &Path, mode: u32, bytes: &[u8]) -> io::Result<()> {
    let new = with(path, ".new");
    let _ = fs::remove_file(&new);
    let mut options = fs::OpenOptions::new();
    let mut file = options
        .write(true)
        .create_new(true)
        .mode(mode & 0o700)
        .open(&new)?;
    file.write_all(bytes)?;
    file.set_permissions(fs::Permissions::from_mode(mode))?;
    file.sync_all()?;
    fs::rename(&new, path)
}

fn with(path: &Path, end: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(end);
    PathBuf::from(name)
}
