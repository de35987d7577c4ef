//! Files that are read again when they change.
//!
//! The folders are watched, not the files: editors and Kubernetes replace a file (or the link `..data` beside it) rather than write
//! into it. Whatever stirs there leads to a look at the content, and so does a poll every now and then, for file systems that tell nothing.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use notify::event::{AccessKind, AccessMode};
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use sha2::{Digest as _, Sha256};

use crate::config::ConfigError;
use crate::secrets::Checked;

/// How eagerly files are looked at.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// After something stirred, how long nothing must stir before the look.
    pub settle: Duration,
    /// How often to look even so.
    pub poll: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            settle: Duration::from_millis(200),
            poll: Duration::from_secs(30),
        }
    }
}

/// Files are parsed and logged about here, and no more.
const STACK_BYTES: usize = 512 * 1024;
/// How long stirring may put off a look, in multiples of `settle`.
const SETTLE_ROUNDS_MAX: u32 = 10;

/// Watches files until dropped, all of them on one thread. Dropping waits for a callback that is under way.
#[derive(Debug)]
pub struct Watcher {
    stirs: Sender<Stir>,
    thread: Option<JoinHandle<()>>,
}

enum Stir {
    File,
    Add(Look),
    Stop,
}

impl Watcher {
    /// Watches nothing yet.
    pub fn start(pace: Pace) -> Result<Self, ConfigError> {
        let (stirs, stirred) = channel();
        let looks = Looks {
            folders: Folders::watch(stirs.clone()),
            looks: Vec::new(),
            pace,
        };
        let thread = std::thread::Builder::new()
            .name("watch".to_owned())
            .stack_size(STACK_BYTES)
            .spawn(move || looks.run(&stirred))
            .map_err(|error| {
                ConfigError::of_file(Path::new("watch"), format_args!("no thread: {error}"))
            })?;
        Ok(Self {
            stirs,
            thread: Some(thread),
        })
    }

    /// Calls `changed`, on the watcher's thread, with those of `files` whose content is another than before.
    pub fn watch(&self, files: Vec<PathBuf>, changed: impl FnMut(&[PathBuf]) + Send + 'static) {
        self.watch_from(Contents::of(files), changed);
    }

    fn watch_from(&self, contents: Contents, changed: impl FnMut(&[PathBuf]) + Send + 'static) {
        let look = Look {
            contents,
            changed: Box::new(changed),
        };
        // It ends when it is dropped, and not before.
        let _ = self.stirs.send(Stir::Add(look));
    }

    /// Loads it again whenever one of its files changes.
    ///
    /// A failure leaves the last good value in force: it is logged, and told to `apply` as well, for a metric.
    pub fn follow<T, L>(
        &self,
        loaded: Loaded<L>,
        mut apply: impl FnMut(Result<T, ConfigError>) + Send + 'static,
    ) where
        L: Fn() -> Result<Checked<T>, ConfigError> + Send + 'static,
    {
        let Loaded {
            what,
            contents,
            load,
        } = loaded;
        self.watch_from(contents, move |changed| {
            let result = load();
            match &result {
                Ok(loaded) => {
                    tracing::info!(what, files = %list(changed), "read again");
                    warn(&loaded.warnings);
                }
                Err(error) => {
                    tracing::warn!(what, files = %list(changed), %error, "changed, and can't be used: the last good one stays in force");
                }
            }
            apply(result.map(|loaded| loaded.value));
        });
    }
}

/// Loads a value, which [`Watcher::follow`] then keeps up to date. Warnings are logged.
pub fn load<T, L>(
    what: &'static str,
    files: Vec<PathBuf>,
    load: L,
) -> Result<(T, Loaded<L>), ConfigError>
where
    L: Fn() -> Result<Checked<T>, ConfigError>,
{
    // Before the files are read: a change in between is then seen as one.
    let contents = Contents::of(files);
    let first = load()?;
    warn(&first.warnings);
    let loaded = Loaded {
        what,
        contents,
        load,
    };
    Ok((first.value, loaded))
}

/// How a value was loaded, and from what.
pub struct Loaded<L> {
    what: &'static str,
    contents: Contents,
    load: L,
}

impl Drop for Watcher {
    fn drop(&mut self) {
        let _ = self.stirs.send(Stir::Stop);
        if let Some(thread) = self.thread.take()
            && thread.thread().id() != std::thread::current().id()
        {
            let _ = thread.join();
        }
    }
}

fn warn(warnings: &[String]) {
    for warning in warnings {
        tracing::warn!("{warning}");
    }
}

fn list(files: &[PathBuf]) -> String {
    let names: Vec<String> = files
        .iter()
        .map(|file| file.display().to_string())
        .collect();
    names.join(" ")
}

/// Told which files are others than before.
type Changed = dyn FnMut(&[PathBuf]) + Send;

/// Files that are looked at together, and who is told.
struct Look {
    contents: Contents,
    changed: Box<Changed>,
}

struct Looks {
    looks: Vec<Look>,
    folders: Folders,
    pace: Pace,
}

impl Looks {
    fn run(mut self, stirs: &Receiver<Stir>) {
        loop {
            match stirs.recv_timeout(self.pace.poll) {
                Ok(Stir::File) => {
                    if !self.settle(stirs) {
                        return;
                    }
                }
                Ok(Stir::Add(look)) => self.looks.push(look),
                Err(RecvTimeoutError::Timeout) => {}
                Ok(Stir::Stop) | Err(RecvTimeoutError::Disconnected) => return,
            }
            self.look();
        }
    }

    fn look(&mut self) {
        // A folder that was missing, or replaced as a whole, is watched from now on.
        self.folders.add_missing(&self.looks);
        for look in &mut self.looks {
            let changed = look.contents.refresh();
            if !changed.is_empty() {
                (look.changed)(&changed);
            }
        }
    }

    /// Waits until nothing stirs; false if it is time to stop.
    fn settle(&mut self, stirs: &Receiver<Stir>) -> bool {
        let latest = Instant::now() + self.pace.settle * SETTLE_ROUNDS_MAX;
        while Instant::now() < latest {
            match stirs.recv_timeout(self.pace.settle) {
                Ok(Stir::File) => {}
                Ok(Stir::Add(look)) => self.looks.push(look),
                Err(RecvTimeoutError::Timeout) => return true,
                Ok(Stir::Stop) | Err(RecvTimeoutError::Disconnected) => return false,
            }
        }
        true
    }
}

/// What the files held when last looked at; `None`: not readable.
struct Contents {
    files: Vec<(PathBuf, Option<[u8; 32]>)>,
}

impl Contents {
    fn of(files: Vec<PathBuf>) -> Self {
        let files = files.into_iter().map(|file| {
            let digest = digest(&file);
            (file, digest)
        });
        Self {
            files: files.collect(),
        }
    }

    /// Looks again, and says which are others.
    fn refresh(&mut self) -> Vec<PathBuf> {
        let mut changed = Vec::new();
        for (file, known) in &mut self.files {
            let now = digest(file);
            if *known != now {
                *known = now;
                changed.push(file.clone());
            }
        }
        changed
    }

    fn folders(&self) -> BTreeSet<PathBuf> {
        let parent = |file: &PathBuf| match file.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
            _ => PathBuf::from("."),
        };
        self.files.iter().map(|(file, _)| parent(file)).collect()
    }
}

fn digest(file: &Path) -> Option<[u8; 32]> {
    let content = zeroize::Zeroizing::new(std::fs::read(file).ok()?);
    Some(Sha256::digest(content.as_slice()).into())
}

/// The system's watch on folders; without one (no inotify left, say) polling is all there is.
struct Folders {
    watcher: Option<RecommendedWatcher>,
    watched: BTreeSet<PathBuf>,
}

impl Folders {
    fn watch(stirs: Sender<Stir>) -> Self {
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            if event.map_or(true, |event| is_stir(&event.kind)) {
                let _ = stirs.send(Stir::File);
            }
        });
        Self {
            watcher: watcher.ok(),
            watched: BTreeSet::new(),
        }
    }

    fn add_missing(&mut self, looks: &[Look]) {
        let Some(watcher) = &mut self.watcher else {
            return;
        };
        self.watched.retain(|folder| folder.is_dir());
        for folder in looks.iter().flat_map(|look| look.contents.folders()) {
            if !self.watched.contains(&folder)
                && watcher.watch(&folder, RecursiveMode::NonRecursive).is_ok()
            {
                self.watched.insert(folder);
            }
        }
    }
}

/// Being read is no stir: our own look would be one.
fn is_stir(kind: &EventKind) -> bool {
    match kind {
        EventKind::Access(access) => *access == AccessKind::Close(AccessMode::Write),
        EventKind::Any
        | EventKind::Create(_)
        | EventKind::Modify(_)
        | EventKind::Remove(_)
        | EventKind::Other => true,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    const EAGER: Pace = Pace {
        settle: Duration::from_millis(5),
        poll: Duration::from_secs(3_600),
    };
    const WAIT_MAX: Duration = Duration::from_secs(20);

    #[test]
    fn a_kubernetes_volume_is_seen_to_swap() {
        let folder = tempfile::tempdir().expect("folder");
        let at = |name: &str| folder.path().join(name);
        for (version, text) in [("..1", "one"), ("..2", "two")] {
            std::fs::create_dir(at(version)).expect("folder");
            std::fs::write(at(version).join("tokens"), text).expect("write");
        }
        symlink("..1", at("..data")).expect("link");
        symlink("..data/tokens", at("tokens")).expect("link");
        let (tell, told) = channel();
        let watcher = Watcher::start(EAGER).expect("watch");
        watcher.watch(vec![at("tokens")], move |files| {
            let _ = tell.send(files.to_vec());
        });
        symlink("..2", at("..data_tmp")).expect("link");
        std::fs::rename(at("..data_tmp"), at("..data")).expect("rename");
        assert_eq!(told.recv_timeout(WAIT_MAX).expect("told"), [at("tokens")]);
    }

    #[test]
    fn a_broken_file_keeps_the_last_good_value() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("number");
        std::fs::write(&path, "1").expect("write");
        let (tell, told) = channel();
        let file = path.clone();
        let watcher = Watcher::start(EAGER).expect("watch");
        let (first, loaded) = load("number", vec![path.clone()], move || {
            let text = std::fs::read_to_string(&file).unwrap_or_default();
            let value: u32 = text
                .parse()
                .map_err(|_| ConfigError::of_file(&file, "is no number"))?;
            Ok(Checked {
                value,
                warnings: Vec::new(),
            })
        })
        .expect("first");
        assert_eq!(first, 1);
        watcher.follow(loaded, move |result| {
            let _ = tell.send(result);
        });
        let replace = |text: &str| {
            std::fs::write(path.with_extension("new"), text).expect("write");
            std::fs::rename(path.with_extension("new"), &path).expect("rename");
        };
        replace("x");
        assert!(told.recv_timeout(WAIT_MAX).expect("told").is_err());
        replace("2");
        assert_eq!(told.recv_timeout(WAIT_MAX).expect("told"), Ok(2));
    }

    #[test]
    fn polling_alone_is_enough() {
        let folder = tempfile::tempdir().expect("folder");
        // Its folder comes later, so nothing can be watched at first.
        let path = folder.path().join("later/file");
        let (tell, told) = channel();
        let pace = Pace {
            settle: Duration::from_millis(5),
            poll: Duration::from_millis(10),
        };
        let watcher = Watcher::start(pace).expect("watch");
        watcher.watch(vec![path.clone()], move |files| {
            let _ = tell.send(files.to_vec());
        });
        std::fs::create_dir(folder.path().join("later")).expect("folder");
        std::fs::write(&path, "x").expect("write");
        assert_eq!(
            told.recv_timeout(WAIT_MAX).expect("told"),
            std::slice::from_ref(&path)
        );
        drop(watcher);
        assert!(told.recv().is_err(), "the thread has ended");
    }
}
